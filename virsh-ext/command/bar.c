/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* bar.c: the progress of a job as a bar on a terminal. */
#include <string.h>

#include "command.h"

#define BAR_WIDTH 40u

void bar_progress(const struct vol_repair_progress *progress, void *opaque)
{
    struct bar *bar = opaque;
    unsigned full = progress->percent * BAR_WIDTH / 100;
    char line[BAR_WIDTH + 1];

    if (!bar->on)
        return;
    memset(line, ' ', BAR_WIDTH);
    memset(line, '=', full);
    line[BAR_WIDTH] = '\0';
    fprintf(stderr, "\r[%s] %3u%% %-6s", line, progress->percent, progress->phase);
    fflush(stderr);
    bar->drawn = true;
}

void bar_clear(struct bar *bar)
{
    if (bar->drawn)
        fprintf(stderr, "\r%*s\r", (int)BAR_WIDTH + 16, "");
    bar->drawn = false;
}
