/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * front_end.c: a front end of the name virsh that knows one more command, and is the real virsh for all else.
 *
 * Where anything is in doubt the real virsh gets the command line untouched.
 */
#include <string.h>

#include "wrapper.h"

struct front {
    struct globals globals;
    int argc;
    char **argv;
    char *program; /* how to call vol-repair again: with the options that stood before it */
};

enum kind { FOREIGN, REPAIR, HELP_REPAIR, HELP_GROUP, HELP_ALL };

/* A part of the command line that runs in one go. */
struct step {
    enum kind kind;
    char *text;         /* FOREIGN: a command string; NULL: the words as they are */
    struct request req; /* REPAIR */
};

/* ---- what a command is ---- */

static enum kind kind_of(char *const *words)
{
    const char *topic;

    if (g_str_equal(words[0], EXT_COMMAND))
        return REPAIR;
    if (!g_str_equal(words[0], "help"))
        return FOREIGN;
    if (!words[1])
        return HELP_ALL;
    topic = *++words;
    if (g_str_equal(topic, "--command") && words[1])
        topic = *++words;
    else if (g_str_has_prefix(topic, "--command="))
        topic += strlen("--command=");
    if (words[1])
        return FOREIGN;
    if (g_str_equal(topic, EXT_COMMAND))
        return HELP_REPAIR;
    return g_str_equal(topic, "repair") ? HELP_GROUP : FOREIGN;
}

static bool is_ours(const struct command *command)
{
    return kind_of(command->words) != FOREIGN;
}

/* ---- running ---- */

/* A command line of the real virsh: our global options and one more word. */
static GPtrArray *foreign_argv(const struct front *f, char *text)
{
    GPtrArray *argv = g_ptr_array_new();

    for (int i = 0; i < f->globals.words; i++)
        g_ptr_array_add(argv, f->argv[i]);
    g_ptr_array_add(argv, text);
    g_ptr_array_add(argv, NULL);
    return argv;
}

static int run_foreign(const struct front *f, char *text)
{
    g_autoptr(GPtrArray) argv = foreign_argv(f, text);

    return real_virsh_run((char **)argv->pdata);
}

static int run_ours(const struct front *f, const struct step *step)
{
    gint64 started = g_get_monotonic_time();
    char all[] = "help";
    int status = 0;

    if (step->kind == HELP_ALL)
        status = run_foreign(f, all);
    if (step->kind == HELP_ALL || step->kind == HELP_GROUP)
        help_group(stdout);
    else if (step->kind == HELP_REPAIR || step->req.help)
        help_command(stdout);
    else
        status = run_command(&step->req, &f->globals, f->program);
    if (f->globals.timing)
        printf("\n(Time: %.3f ms)\n\n", (g_get_monotonic_time() - started) / 1000.0);
    else if (!f->globals.quiet)
        printf("\n");
    return status;
}

static int run_step(const struct front *f, const struct step *step)
{
    return step->kind == FOREIGN ? run_foreign(f, step->text) : run_ours(f, step);
}

/* ---- one command as words ---- */

static bool parse_repair(struct step *step, char *const *words)
{
    g_autofree char *error = NULL;

    if (args_parse(&step->req, words + 1, false, &error))
        return true;
    show_error("%s", error);
    return false;
}

static int run_words(const struct front *f, char *const *words)
{
    struct step step = {.kind = kind_of(words)};
    int status = 1;

    if (step.kind == FOREIGN)
        return real_virsh_exec(f->argv);
    if (step.kind != REPAIR || parse_repair(&step, words))
        status = run_ours(f, &step);
    args_clear(&step.req);
    return status;
}

/* ---- a command string ---- */

static void step_free(void *opaque)
{
    struct step *step = opaque;

    g_free(step->text);
    args_clear(&step->req);
    g_free(step);
}

/* These change what the commands after them mean, and would do it in another process. */
static bool stands_alone(const char *name)
{
    static const char *const names[] = {"cd", "connect", "exit", "quit", NULL};

    if (!g_strv_contains(names, name))
        return true;
    show_error("'%s' and '" EXT_COMMAND "' cannot be in one command string; the connection can be chosen with -c",
               name);
    return false;
}

/*
 * Whether the real virsh can parse the command. It parses all of a string before it runs any of it, and stops at the
 * first fault; behind the command stands one that it does not know, so that nothing is run.
 */
static bool parses(const struct front *f, const struct command *command, const char *string)
{
    g_autofree char *own = g_strndup(string + command->start, command->end - command->start);
    g_autofree char *text = g_strconcat(own, "\n" EXT_COMMAND, NULL);
    g_autoptr(GPtrArray) argv = foreign_argv(f, text);
    g_autofree char *errors = real_virsh_errors((char **)argv->pdata);

    if (!errors || strstr(errors, "'" EXT_COMMAND "'"))
        return errors != NULL;
    fputs(errors, stderr);
    return false;
}

/* Neighbouring commands of the real virsh become one step, in their own words. */
static bool add_step(const struct front *f, GPtrArray *steps, const struct command *command, const char *string,
                     size_t *start)
{
    struct step *last = steps->len ? g_ptr_array_index(steps, steps->len - 1) : NULL;
    enum kind kind = kind_of(command->words);
    struct step *step;

    if (kind == FOREIGN && (!stands_alone(command->words[0]) || !parses(f, command, string)))
        return false;
    if (kind == FOREIGN && last && last->kind == FOREIGN) {
        g_free(last->text);
        last->text = g_strndup(string + *start, command->end - *start);
        return true;
    }
    step = g_new0(struct step, 1);
    g_ptr_array_add(steps, step);
    step->kind = kind;
    if (kind == REPAIR)
        return parse_repair(step, command->words);
    *start = command->start;
    if (kind == FOREIGN)
        step->text = g_strndup(string + command->start, command->end - command->start);
    return true;
}

static bool has_ours(const GPtrArray *commands)
{
    for (unsigned i = 0; commands && i < commands->len; i++) {
        if (is_ours(g_ptr_array_index(commands, i)))
            return true;
    }
    return false;
}

/* As virsh does it: all are parsed first, then all run, and the last one's status is the status. */
static int run_string(const struct front *f, const char *string)
{
    g_autoptr(GPtrArray) commands = words_split(string);
    g_autoptr(GPtrArray) steps = g_ptr_array_new_with_free_func(step_free);
    size_t start = 0;
    int status = 0;

    if (!has_ours(commands))
        return real_virsh_exec(f->argv);
    for (unsigned i = 0; i < commands->len; i++) {
        if (!add_step(f, steps, g_ptr_array_index(commands, i), string, &start))
            return 1;
    }
    for (unsigned i = 0; i < steps->len && !run_was_interrupted(); i++)
        status = run_step(f, g_ptr_array_index(steps, i));
    return status;
}

/* ---- completion: virsh complete -- WORDS... ---- */

static int run_complete(const struct front *f, char *const *words)
{
    char *const *line = words + 1;
    int status;

    if (*line && g_str_equal(*line, "--"))
        line++;
    if (line[0] && line[1]) {
        if (!g_str_equal(line[0], EXT_COMMAND))
            return real_virsh_exec(f->argv);
        complete_command(&f->globals, line);
        return 0;
    }
    status = real_virsh_run(f->argv);
    if (!line[0] || g_str_has_prefix(EXT_COMMAND, line[0]))
        printf(EXT_COMMAND "\n");
    return status;
}

/* ---- the command line ---- */

static char *program_text(const struct front *f)
{
    GString *text = g_string_new("virsh");

    if (f->globals.uri && f->globals.words > 1) {
        g_autofree char *quoted = g_shell_quote(f->globals.uri);

        g_string_append_printf(text, " -c %s", quoted);
    }
    g_string_append(text, " " EXT_COMMAND);
    return g_string_free(text, FALSE);
}

int front_end_main(int argc, char **argv)
{
    struct front f = {.argc = argc, .argv = argv};
    char *const *words;
    int count, status;

    if (!globals_parse(argc, argv, &f.globals))
        return real_virsh_exec(argv);
    count = argc - f.globals.words;
    words = argv + f.globals.words;
    if (count == 0)
        return real_virsh_exec(argv);
    f.program = program_text(&f);
    if (g_str_equal(words[0], "complete"))
        status = run_complete(&f, words);
    else if (count == 1)
        status = run_string(&f, words[0]);
    else
        status = run_words(&f, words);
    g_free(f.program);
    return status;
}
