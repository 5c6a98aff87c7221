/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* test_hooks.c: a kill -9 or a power cut in the middle of a commit, at a place that a test names; for vol-repair-test alone. */
#include <glib.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test_hooks.h"
#include "vr_abi.h"

/* Set before the fork: the VMM child has a copy. */
static uint64_t crash_after;     /* so many writes to the image; 0 = never */
static uint64_t vmm_crash_after; /* the same, and the front lives on to roll back */
static uint64_t crash_epoch;     /* before the flush of that one, 1 = the first; 0 = never */
static uint64_t crash_seed;      /* which of its sectors are lost: 0 none, 1 all, else about half of them */
static uint64_t wide_map;        /* VR_BOOT_WIDE */

static uint64_t writes, epochs, sectors; /* sectors: of the epoch at hand */

static const struct {
    const char *name;
    uint64_t *value;
} options[] = {
    {"--test-crash-after", &crash_after}, {"--test-vmm-crash-after", &vmm_crash_after},
    {"--test-crash-epoch", &crash_epoch}, {"--test-crash-seed", &crash_seed},
    {"--test-wide-map", &wide_map},
};

/* --test-NAME=NUMBER; without a number it is 1. */
static void take_option(const char *text)
{
    size_t len = strcspn(text, "=");

    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
        if (strlen(options[i].name) == len && strncmp(text, options[i].name, len) == 0) {
            *options[i].value = text[len] ? strtoull(text + len + 1, NULL, 10) : 1;
            return;
        }
    }
    fprintf(stderr, "vol-repair: unrecognized option '%s'\n", text);
    exit(EXIT_FAILURE);
}

void hook_options(int *argc, char **argv)
{
    int kept = 0;

    g_set_prgname("vol-repair"); /* the lines of one are the lines of the other */

    for (int i = 0; i < *argc; i++) {
        if (strncmp(argv[i], "--test-", strlen("--test-")) == 0)
            take_option(argv[i]);
        else
            argv[kept++] = argv[i];
    }
    argv[kept] = NULL;
    *argc = kept;
}

void hook_written(void)
{
    writes++;
    if (writes == crash_after || writes == vmm_crash_after)
        raise(SIGKILL);
}

bool hook_sector_is_lost(void)
{
    uint64_t mixed = (crash_seed * UINT64_C(0x9e3779b97f4a7c15)) ^ (++sectors * UINT64_C(0xbf58476d1ce4e5b9));

    if (epochs + 1 != crash_epoch || crash_seed == 0)
        return false;
    return crash_seed == 1 || (mixed >> 37 & 1);
}

void hook_epoch_written(void)
{
    sectors = 0;
    if (++epochs == crash_epoch)
        raise(SIGKILL);
}

void hook_child_died(void)
{
    if (crash_after || crash_epoch)
        raise(SIGKILL);
}

uint32_t hook_boot_flags(void)
{
    return wide_map ? VR_BOOT_WIDE : 0;
}
