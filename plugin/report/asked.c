/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* asked.c: the names of what was asked for: the mode, the image. */
#include "report.h"

const char *options_mode_name(enum front_mode mode)
{
    static const char *const names[] = {
        [FRONT_CHECK] = "check", [FRONT_LEAKS] = "leaks", [FRONT_ALL] = "all", [FRONT_UNDO] = "undo"};

    return names[mode];
}

const char *options_shown_name(const struct options *opt)
{
    return opt->name ? opt->name : opt->filename;
}

bool options_wants_report(const struct options *opt)
{
    return opt->own_mode || opt->stream || opt->report || opt->report_fd >= 0;
}

bool options_is_repair(const struct options *opt)
{
    return opt->mode == FRONT_LEAKS || opt->mode == FRONT_ALL;
}
