/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* unit.h: what every unit test of the front needs: cmocka in its order of headers, and small makers. */
#ifndef FRONT_UNIT_H
#define FRONT_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli.h"

static inline struct vr_record record_of(enum vr_problem row)
{
    return (struct vr_record){.code = row_words[row].code, .host = VR_NONE, .guest = VR_NONE, .index = VR_NONE,
                              .count = 1};
}

static inline struct options options_of(enum front_mode mode)
{
    return (struct options){.mode = mode, .accel = VMM_ACCEL_PROCESS, .examples = 100, .memory = 1 << 28,
                            .filename = (char *)"disk.qcow2", .path = (char *)"disk.qcow2", .image_fd = -1,
                            .report_fd = -1};
}

#endif
