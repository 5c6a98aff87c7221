/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* help.c: help texts, all from the table of options. */
#include "command.h"

#define SUMMARY "check and repair the image of a storage volume"

static const char description[] = "Looks for damage in the metadata of a volume's qcow2 image and mends it in place. "
                                  "No virtual machine may use\n%sthe volume meanwhile. Every repair can be taken back "
                                  "with --mode=undo.\n%sExit status: 0 no damage is left, 1 failed or refused, "
                                  "2 corruptions are left, 3 leaks are left, 63 not a\n%sqcow2 image.\n";

static void print_description(FILE *out, const char *indent)
{
    fputs(indent, out);
    fprintf(out, description, indent, indent, indent);
}

void help_group(FILE *out)
{
    fprintf(out, " Volume Repair (help keyword 'repair'):\n    %-30s %s\n\n", EXT_COMMAND, SUMMARY);
}

void help_command(FILE *out)
{
    fprintf(out, "  NAME\n    %s - %s\n\n  SYNOPSIS\n    %s [<pool>] <vol>", EXT_COMMAND, SUMMARY, EXT_COMMAND);
    for (const struct opt *opt = args_table + 2; opt->name && !opt->letter; opt++) {
        if (opt->kind == OPT_FLAG)
            fprintf(out, " [--%s]", opt->name);
        else
            fprintf(out, " [--%s <%s>]", opt->name, opt->kind == OPT_NUMBER ? "number" : "string");
    }
    fprintf(out, "\n\n  DESCRIPTION\n");
    print_description(out, "    ");
    fprintf(out, "\n  OPTIONS\n");
    for (const struct opt *opt = args_table; opt->name && !opt->letter; opt++) {
        bool positional = opt < args_table + 2;
        g_autofree char *name = g_strdup_printf(positional ? "[--%s]" : "--%s", opt->name);
        g_autofree char *left = opt->kind == OPT_FLAG
                                    ? g_strdup(name)
                                    : g_strdup_printf("%s <%s>", name, opt->kind == OPT_NUMBER ? "number" : "string");

        fprintf(out, "    %-15s  %s\n", left, opt->help);
    }
    fprintf(out, "\n");
}

void help_standalone(FILE *out)
{
    fprintf(out, "Usage: virt-vol-repair [-c URI] [OPTION]... POOL VOL\n"
                 "       virt-vol-repair [-c URI] [OPTION]... PATH-OR-KEY\n\n");
    print_description(out, "");
    fprintf(out, "\n");
    for (const struct opt *opt = args_table; opt->name; opt++) {
        g_autofree char *letter = opt->letter ? g_strdup_printf("-%c, ", opt->letter) : g_strdup("    ");
        g_autofree char *left = g_strconcat(letter, "--", opt->name, opt->value ? "=" : "", opt->value, NULL);

        fprintf(out, "  %-26s  %s\n", left, opt->help);
    }
}
