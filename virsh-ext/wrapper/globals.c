/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* globals.c: the options that stand between virsh and its command. */
#include <getopt.h>

#include "wrapper.h"

#define NO_PKTTYAGENT 256

static const struct option long_options[] = {
    {"connect", required_argument, NULL, 'c'},
    {"debug", required_argument, NULL, 'd'},
    {"escape", required_argument, NULL, 'e'},
    {"help", no_argument, NULL, 'h'},
    {"keepalive-interval", required_argument, NULL, 'k'},
    {"keepalive-count", required_argument, NULL, 'K'},
    {"log", required_argument, NULL, 'l'},
    {"no-pkttyagent", no_argument, NULL, NO_PKTTYAGENT},
    {"quiet", no_argument, NULL, 'q'},
    {"readonly", no_argument, NULL, 'r'},
    {"timing", no_argument, NULL, 't'},
    {"version", optional_argument, NULL, 'v'},
    {NULL, 0, NULL, 0},
};

static bool to_number(const char *text, int *number)
{
    gint64 value;

    if (!g_ascii_string_to_signed(text, 10, 0, G_MAXINT, &value, NULL))
        return false;
    *number = value;
    return true;
}

bool globals_parse(int argc, char **argv, struct globals *g)
{
    int c, debug;

    globals_init(g);
    optind = 0; /* start anew, in GNU's way */
    opterr = 0;
    while ((c = getopt_long(argc, argv, "+:c:d:e:hk:K:l:qrtvV", long_options, NULL)) != -1) {
        switch (c) {
        case 'c':
            g->uri = optarg;
            break;
        case 'd':
            if (!to_number(optarg, &debug))
                return false;
            break;
        case 'k':
            if (!to_number(optarg, &g->keepalive_interval))
                return false;
            break;
        case 'K':
            if (!to_number(optarg, &g->keepalive_count))
                return false;
            break;
        case 'q':
            g->quiet = true;
            break;
        case 'r':
            g->readonly = true;
            break;
        case 't':
            g->timing = true;
            break;
        case 'e':
        case 'l':
        case NO_PKTTYAGENT:
            break;
        default: /* help, versions, and what is wrong */
            return false;
        }
    }
    g->words = optind;
    return true;
}
