/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* errors.c: the domain of our errors. */
#include "common.h"

#include <glib.h>

uint32_t vr_error_quark(void)
{
    return g_quark_from_static_string("vol-repair");
}
