/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* undo_name.h: what the names of an image's undo journals begin with; no other image's begin so. */
#ifndef UNDO_NAME_H
#define UNDO_NAME_H

#include <glib.h>

/* `disk.qcow2-0123456789abcdef`; real_path: as the kernel names the image. Caller frees. */
static inline char *undo_name(const char *real_path)
{
    g_autofree char *base = g_path_get_basename(real_path);
    g_autofree char *sum = g_compute_checksum_for_string(G_CHECKSUM_SHA256, real_path, -1);

    return g_strdup_printf("%.200s-%.16s", base, sum);
}

#endif
