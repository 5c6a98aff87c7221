/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* words.c: takes a command string apart as virsh does: ; and newline between commands, quoting as in a shell. */
#include "wrapper.h"

struct splitter {
    const char *text;
    size_t pos;
    GPtrArray *commands;
    GPtrArray *words;  /* of the command at hand */
    size_t start, end; /* its text */
};

static void command_free(void *opaque)
{
    struct command *command = opaque;

    g_strfreev(command->words);
    g_free(command);
}

static void end_command(struct splitter *s)
{
    struct command *command;

    if (s->words->len == 0)
        return;
    command = g_new0(struct command, 1);
    g_ptr_array_add(s->words, NULL);
    command->start = s->start;
    command->end = s->end;
    command->words = (char **)g_ptr_array_free(s->words, FALSE);
    g_ptr_array_add(s->commands, command);
    s->words = g_ptr_array_new_with_free_func(g_free);
}

static bool is_end_of_word(char c)
{
    return c == ' ' || c == '\t' || c == ';' || c == '\n';
}

/* False: a double quote or a backslash without its second half. virsh forgives a single quote. */
static bool take_word(struct splitter *s)
{
    g_autoptr(GString) word = g_string_new(NULL);
    char quote = 0, c;

    if (s->words->len == 0)
        s->start = s->pos;
    while ((c = s->text[s->pos]) && (quote || !is_end_of_word(c))) {
        s->pos++;
        if (quote ? c == quote : (c == '\'' || c == '"')) {
            quote = quote ? 0 : c;
            continue;
        }
        if (c == '\\' && quote != '\'') {
            c = s->text[s->pos];
            if (!c)
                return false;
            s->pos++;
            if (c == '\n')
                continue;
        }
        g_string_append_c(word, c);
    }
    if (quote == '"')
        return false;
    s->end = s->pos;
    g_ptr_array_add(s->words, g_string_free(g_steal_pointer(&word), FALSE));
    return true;
}

static bool split(struct splitter *s)
{
    char c;

    while ((c = s->text[s->pos])) {
        if (c == ' ' || c == '\t') {
            s->pos++;
        } else if (c == '\\' && s->text[s->pos + 1] == '\n') {
            s->pos += 2;
        } else if (c == ';' || c == '\n') {
            end_command(s);
            s->pos++;
        } else if (c == '#') {
            while (s->text[s->pos] && s->text[s->pos] != '\n')
                s->pos++;
        } else if (!take_word(s)) {
            return false;
        }
    }
    end_command(s);
    return true;
}

GPtrArray *words_split(const char *text)
{
    g_autoptr(GPtrArray) commands = g_ptr_array_new_with_free_func(command_free);
    struct splitter s = {.text = text, .commands = commands, .words = g_ptr_array_new_with_free_func(g_free)};
    bool ok = split(&s);

    g_ptr_array_unref(s.words);
    return ok ? g_steal_pointer(&commands) : NULL;
}
