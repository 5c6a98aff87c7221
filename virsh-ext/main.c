/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* main.c: one program, two names: virt-vol-repair, and a front end for virsh. */
#include <locale.h>
#include <stdlib.h>

#include "wrapper/wrapper.h"

static char *program_text(const struct request *req)
{
    g_autofree char *quoted = req->connect ? g_shell_quote(req->connect) : NULL;

    return g_strconcat("virt-vol-repair", quoted ? " -c " : "", quoted, NULL);
}

static int run(const struct request *req)
{
    g_autofree char *program = NULL;
    struct globals globals;
    int status;

    if (req->help) {
        help_standalone(stdout);
        return 0;
    }
    if (req->version) {
        printf("virt-vol-repair %s\n", VR_VERSION);
        return 0;
    }
    globals_init(&globals);
    globals.quiet = req->quiet;
    if (req->connect)
        globals.uri = req->connect;
    program = program_text(req);
    status = run_command(req, &globals, program);
    if (!req->quiet)
        printf("\n");
    return status;
}

/* For completion.bash. words: the command line without the program's name, the last one unfinished. */
static int complete(char **words)
{
    g_autoptr(GPtrArray) line = g_ptr_array_new();
    struct globals globals;
    char name[] = EXT_COMMAND;

    globals_init(&globals);
    g_ptr_array_add(line, name);
    for (; *words; words++) {
        bool connect = g_str_equal(*words, "-c") || g_str_equal(*words, "--connect");

        if (connect && words[1])
            globals.uri = *++words;
        else
            g_ptr_array_add(line, *words);
    }
    g_ptr_array_add(line, NULL);
    complete_command(&globals, (char *const *)line->pdata);
    return 0;
}

int main(int argc, char **argv)
{
    g_autofree char *name = g_path_get_basename(argc > 0 ? argv[0] : "");
    g_autofree char *error = NULL;
    struct request req;
    int status;

    setlocale(LC_ALL, "");
    if (g_str_equal(name, "virsh"))
        return front_end_main(argc, argv);
    if (argc > 2 && g_str_equal(argv[1], "--complete") && g_str_equal(argv[2], "--"))
        return complete(argv + 3);
    if (!args_parse(&req, argv + (argc > 0), true, &error)) {
        show_error("%s", error);
        fprintf(stderr, "Try 'virt-vol-repair --help'.\n");
        return 1;
    }
    status = run(&req);
    args_clear(&req);
    return status;
}
