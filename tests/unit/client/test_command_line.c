/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* test_command_line.c: virsh's global options, command strings, and the arguments of vol-repair. */
#include <string.h>

#include "wrapper/wrapper.h"
#include "unit.h"

/* ---- command strings ---- */

struct string_row {
    const char *text, *expected; /* commands joined by " ; ", words by "|"; NULL: not balanced */
};

static const struct string_row string_rows[] = {
    {"", ""},
    {" \t ; ;\n", ""},
    {"list", "list"},
    {"list --all", "list|--all"},
    {"list;version", "list ; version"},
    {"list\nversion", "list ; version"},
    {"a;;b;", "a ; b"},
    {"a 'b c' \"d e\"", "a|b c|d e"},
    {"a 'b;c' \"d;e\"\\;f", "a|b;c|d;e;f"},
    {"a ''", "a|"},
    {"a b\\ c", "a|b c"},
    {"a 'b\\c' \"d\\e\"", "a|b\\c|de"},
    {"a \"b'c\" 'd\"e'", "a|b'c|d\"e"},
    {"a x'b c'y", "a|xb cy"},
    {"# nothing\nb", "b"},
    {"a # b; c", "a"},
    {"a # b\nc", "a ; c"},
    {"a b#c", "a|b#c"},
    {"a '#b'", "a|#b"},
    {"a b\\\nc", "a|bc"},
    {"a 'b", "a|b"}, /* virsh forgives that */
    {"a \"b", NULL},
    {"a b\\", NULL},
};

static char *joined(const GPtrArray *commands)
{
    GString *text = g_string_new(NULL);

    for (unsigned i = 0; i < commands->len; i++) {
        const struct command *command = g_ptr_array_index(commands, i);
        g_autofree char *words = g_strjoinv("|", command->words);

        g_string_append_printf(text, "%s%s", i ? " ; " : "", words);
    }
    return g_string_free(text, FALSE);
}

static void command_strings(void **state)
{
    (void)state;
    for (size_t i = 0; i < G_N_ELEMENTS(string_rows); i++) {
        g_autoptr(GPtrArray) commands = words_split(string_rows[i].text);
        g_autofree char *got = commands ? joined(commands) : NULL;

        if (g_strcmp0(got, string_rows[i].expected) != 0)
            fail_msg("<%s> became <%s>", string_rows[i].text, got ? got : "(refused)");
    }
}

/* The real virsh gets a command in the user's own words. */
static void command_keeps_its_text(void **state)
{
    const char *text = " a  'b;c' ;# x\n d\\;  ";
    g_autoptr(GPtrArray) commands = words_split(text);
    static const char *const expected[] = {"a  'b;c'", "d\\;"};

    (void)state;
    assert_int_equal(commands->len, 2);
    for (unsigned i = 0; i < 2; i++) {
        const struct command *c = g_ptr_array_index(commands, i);
        g_autofree char *own = g_strndup(text + c->start, c->end - c->start);

        assert_string_equal(own, expected[i]);
    }
}

/* ---- virsh's own options ---- */

struct globals_row {
    const char *line;  /* words split at blanks, after "virsh" */
    const char *found; /* uri, then letters of flags, then the first word; NULL: not ours to judge */
};

static const struct globals_row globals_rows[] = {
    {"list", "- - list"},
    {"-c x list", "x - list"},
    {"-cx list", "x - list"},
    {"--connect x list", "x - list"},
    {"--connect=x list", "x - list"},
    {"--conn x list", "x - list"},
    {"-qc x list", "x q list"},
    {"-qrt list", "- qrt list"},
    {"-rqcx list", "x qr list"},
    {"--quiet --readonly --timing list", "- qrt list"},
    {"-q -- list", "- q list"},
    {"-k 0 -K 3 -d 2 -e ^] -l file list", "- - list"},
    {"list -q -c y", "- - list"},
    {"-c x -c y list", "y - list"},
    {"-q", "- q (none)"},
    {"", "- - (none)"},
    {"-h", NULL},
    {"--help", NULL},
    {"-v", NULL},
    {"-V", NULL},
    {"--version", NULL},
    {"--version=long list", NULL},
    {"--bogus list", NULL},
    {"-x list", NULL},
    {"-c", NULL},
    {"-k soon list", NULL},
    {"-d much list", NULL},
};

static void global_options(void **state)
{
    (void)state;
    g_unsetenv("VIRSH_DEFAULT_CONNECT_URI");
    for (size_t i = 0; i < G_N_ELEMENTS(globals_rows); i++) {
        g_autofree char *line = g_strconcat("virsh", *globals_rows[i].line ? " " : "", globals_rows[i].line, NULL);
        g_auto(GStrv) argv = g_strsplit(line, " ", -1);
        g_autofree char *got = NULL;
        struct globals g;

        if (globals_parse(g_strv_length(argv), argv, &g))
            got = g_strdup_printf("%s %s%s%s%s %s", g.uri ? g.uri : "-", g.quiet ? "q" : "", g.readonly ? "r" : "",
                                  g.timing ? "t" : "", g.quiet || g.readonly || g.timing ? "" : "-",
                                  argv[g.words] ? argv[g.words] : "(none)");
        if (g_strcmp0(got, globals_rows[i].found) != 0)
            fail_msg("<%s>: %s", line, got ? got : "(refused)");
    }
}

static void uri_of_the_environment(void **state)
{
    char virsh[] = "virsh", option[] = "-cy", *plain[] = {virsh, NULL}, *chosen[] = {virsh, option, NULL};
    struct globals g;

    (void)state;
    g_setenv("VIRSH_DEFAULT_CONNECT_URI", "x", TRUE);
    assert_true(globals_parse(1, plain, &g));
    assert_string_equal(g.uri, "x");
    assert_true(globals_parse(2, chosen, &g));
    assert_string_equal(g.uri, "y");
    g_unsetenv("VIRSH_DEFAULT_CONNECT_URI");
}

/* ---- the arguments of vol-repair ---- */

struct args_row {
    const char *line;
    const char *found; /* pool vol mode flags; or "!" and a part of the error */
    bool standalone;
};

static const struct args_row args_rows[] = {
    {"p v", "p v check -"},
    {"v", "- v check -"},
    {"p v --mode=all", "p v all -"},
    {"--mode all p v", "p v all -"},
    {"p --mode leaks v", "p v leaks -"},
    {"--pool p v", "p v check -"},
    {"v --pool=p", "p v check -"},
    {"--vol v", "- v check -"},
    {"--vol v p", "p v check -"},
    {"--vol=v --pool=p --mode=undo", "p v undo -"},
    {"p v --json --verbose", "p v check jv"},
    {"p -- --json", "p --json check -"},
    {"-p v", "-p v check -"}, /* one dash is data to virsh */
    {"-- -p -v", "-p -v check -"},
    {"", "!requires <vol>"},
    {"--json", "!requires <vol>"},
    {"--pool p", "!requires <vol>"},
    {"a b c", "!unexpected data 'c'"},
    {"--pool p a b", "!unexpected data 'b'"},
    {"--pool p --vol v x", "!unexpected data 'x'"},
    {"p v --bogus", "!doesn't support option --bogus"},
    {"p v --bogus=1", "!doesn't support option --bogus"},
    {"p v --mod=all", "!doesn't support option --mod"},
    {"p v --quiet", "!doesn't support option --quiet"},
    {"p v --mode", "!expected syntax: --mode <string>"},
    {"p v --timeout", "!expected syntax: --timeout <number>"},
    {"p v --mode=ALL", "!is one of: check, leaks, all, undo"},
    {"p v --mode=", "!Unknown value ''"},
    {"p v --mode=all --mode=all", "!option --mode already seen"},
    {"p v --json --json", "!option --json already seen"},
    {"p v --timeout=1 --timeout 1", "!option --timeout already seen"},
    {"p v --json=yes", "!invalid '=' after option --json"},
    {"p v --timeout=soon", "!malformed"},
    {"p v --timeout=-1", "!malformed"},
    {"p v --timeout=99999999999", "!malformed"},
    {"p v --memory=0", "!malformed"},
    {"p v --memory=-1", "!malformed"},
    {"p v --memory=12x", "!malformed"},
    {"p v --memory=1MM", "!malformed"},
    {"p v --memory=99999999999T", "!malformed"},
    {"p v --accel=magic", "!is one of: auto, kvm, process"},
    {"-q -c uri p v", "p v check q", true},
    {"p v -curi", "p v check -", true},
    {"p v -x", "!doesn't support option -x", true},
    {"-qx p v", "!unexpected data 'x' after option -q", true},
    {"p v --connect", "!expected syntax: --connect", true},
};

static void check_row(const struct args_row *row)
{
    g_auto(GStrv) words = g_strsplit(row->line, " ", -1);
    g_autofree char *error = NULL, *got = NULL;
    struct request req;

    if (!args_parse(&req, words, row->standalone, &error)) {
        if (row->found[0] != '!' || !strstr(error, row->found + 1))
            fail_msg("<%s>: %s", row->line, error);
        return;
    }
    got = g_strdup_printf("%s %s %s %s%s%s%s", req.pool ? req.pool : "-", req.vol, vol_repair_mode_name(req.mode),
                          req.json ? "j" : "", req.verbose ? "v" : "", req.quiet ? "q" : "",
                          req.json || req.verbose || req.quiet ? "" : "-");
    if (!g_str_equal(got, row->found))
        fail_msg("<%s>: %s", row->line, got);
    args_clear(&req);
}

static void arguments(void **state)
{
    (void)state;
    for (size_t i = 0; i < G_N_ELEMENTS(args_rows); i++)
        check_row(&args_rows[i]);
}

static void sizes(void **state)
{
    static const struct {
        const char *text;
        guint64 bytes;
    } rows[] = {{"4096", 4096},    {"4096b", 4096},    {"1k", 1024},       {"1K", 1024},
                {"64M", 64 << 20}, {"1G", 1ull << 30}, {"2T", 2ull << 40}, {"64MiB", 64 << 20}};

    (void)state;
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *option = g_strconcat("--memory=", rows[i].text, NULL), *error = NULL;
        char *const words[] = {option, (char *)"v", NULL};
        struct request req;

        assert_true(args_parse(&req, words, false, &error));
        assert_int_equal(req.options.memory, rows[i].bytes);
        args_clear(&req);
    }
}

static void options_left_out_are_the_hosts(void **state)
{
    char *const words[] = {(char *)"v", NULL};
    g_autofree char *error = NULL;
    struct request req;

    (void)state;
    assert_true(args_parse(&req, words, false, &error));
    assert_int_equal(req.options.timeout, -1);
    assert_int_equal(req.options.max_messages, -1);
    assert_int_equal(req.options.memory, 0);
    assert_null(req.options.format);
    args_clear(&req);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(command_strings),
        cmocka_unit_test(command_keeps_its_text),
        cmocka_unit_test(global_options),
        cmocka_unit_test(uri_of_the_environment),
        cmocka_unit_test(arguments),
        cmocka_unit_test(sizes),
        cmocka_unit_test(options_left_out_are_the_hosts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
