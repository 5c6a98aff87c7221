/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* vr_problems.h: the problem table as C: VR_P_* row indices for code, struct vr_row for policy. */
#ifndef VR_PROBLEMS_H
#define VR_PROBLEMS_H

#include "vr_records.h"

/* Dense row index: position in vr_problems.def. */
enum vr_problem {
#define VR_PROBLEM(sym, code, sev, pol, flags, order, slug, spec, qemu, msg) VR_P_##sym,
#include "vr_problems.def"
#undef VR_PROBLEM
    VR_P_COUNT,
};
_Static_assert(VR_P_COUNT <= VR_ROWS_MAX, "raise VR_ROWS_MAX (and the ABI version)");

/* What a finding implies, whatever becomes of it; report.c adds it up in struct vr_ctx. */
#define VR_KEEPS_LEAKS 1u /* something is not followed, or not where it was: what looks leaked may be it */
#define VR_UNSOUND     2u /* pointers between structures contradict each other: entries are not rewritten */
#define VR_LOSSY       4u /* its repair gives something up that a tool could still have read */
#define VR_SUSPECT     8u /* a pointer may be lost: leaks that hold something, or that other maps share, are kept */
/*
 * The same, but what shows it are refcounts that are too low. Where nothing else speaks for it, they are not mended: the next run
 * would see nothing but leaks.
 */
#define VR_BEHIND      16u
#define VR_SHARES      32u /* of two owners of a cluster: no plan may leave more of it than there was */
#define VR_STOPS       64u /* the mode ends with it, and nothing is written */
#define VR_NOT_FORMAT  128u /* the file is not of the format at all */
#define VR_READ_ONLY   256u /* while it stands, QEMU opens the image for reading alone */
/* What qemu-img does, which only the host cares for. */
#define VR_COUNTS_ANEW 512u  /* after it qemu-img counts all references once more, or not at all */
#define VR_QEMU_EINVAL 1024u /* it gives up the check with this errno, after it has opened the image */
#define VR_QEMU_EFBIG  2048u

/* The columns that decide; the words (slug, spec, qemu, message) stay with the host. */
struct vr_row {
    uint16_t code;
    uint8_t severity; /* enum vr_severity */
    uint8_t policy;   /* enum vr_policy */
    uint16_t flags;   /* VR_KEEPS_LEAKS ... */
};

#define VR_ROW_PASS(row) ((row)->code >> 12) /* enum vr_pass */

#endif
