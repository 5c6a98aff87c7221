/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* progress.c: one percentage for the whole job, as a bar on a terminal or as lines of the stream. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

/* Where each phase begins in the whole job, percent. A phase ends where the next begins. */
struct phase_start {
    const char *name;
    unsigned check, repair;
};

static const struct phase_start phases[] = {
    {"check", 0, 0}, {"verify", 100, 40}, {"commit", 100, 65}, {"final", 100, 75}, {NULL, 100, 100},
};

#define PROGRESS_INTERVAL_US (G_USEC_PER_SEC / 10)
#define PROGRESS_BAR_WIDTH 40u

void progress_init(struct progress *pr, const struct options *opt)
{
    memset(pr, 0, sizeof(*pr));
    pr->opt = opt;
    pr->bar = !opt->stream && !opt->quiet &&
              (opt->progress == PROGRESS_ALWAYS || (opt->own_mode && !opt->json && isatty(STDERR_FILENO)));
}

static unsigned overall(const struct progress *pr, const char *phase, double part)
{
    bool repair = options_is_repair(pr->opt);

    for (const struct phase_start *p = phases; p->name; p++) {
        unsigned from = repair ? p->repair : p->check;
        unsigned to = repair ? p[1].repair : p[1].check;

        if (g_str_equal(p->name, phase))
            return from + (unsigned)((to - from) * CLAMP(part, 0.0, 1.0));
    }
    return (unsigned)(100 * CLAMP(part, 0.0, 1.0)); /* undo: one phase */
}

static void draw_bar(const struct progress *pr)
{
    char bar[PROGRESS_BAR_WIDTH + 1];
    unsigned full = pr->percent * PROGRESS_BAR_WIDTH / 100;

    memset(bar, ' ', PROGRESS_BAR_WIDTH);
    memset(bar, '=', full);
    bar[PROGRESS_BAR_WIDTH] = '\0';
    fprintf(stderr, "\r[%s] %3u%% %-6s", bar, pr->percent, pr->phase);
    fflush(stderr);
}

void progress_update(struct progress *pr, const char *phase, const char *pass, double part)
{
    unsigned percent = MAX(pr->percent, overall(pr, phase, part));
    bool new_phase = !pr->phase || !g_str_equal(pr->phase, phase);
    gint64 now = g_get_monotonic_time();

    /* A new phase is shown at once, all else at most ten times a second. */
    if (!new_phase && (percent == pr->percent || now - pr->last_us < PROGRESS_INTERVAL_US))
        return;
    pr->percent = percent;
    pr->phase = phase;
    pr->last_us = now;
    if (pr->opt->stream && !pr->broken)
        pr->broken = !stream_progress(phase, pass, percent);
    else if (pr->bar)
        draw_bar(pr);
}

void progress_done(struct progress *pr)
{
    if (pr->bar && pr->phase)
        fprintf(stderr, "\r%*s\r", (int)PROGRESS_BAR_WIDTH + 16, "");
    pr->bar = false;
}
