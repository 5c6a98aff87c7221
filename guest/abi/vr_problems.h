/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* vr_problems.h: the problem table as C: VR_P_* row indices for code, struct vr_row for policy. */
#ifndef VR_PROBLEMS_H
#define VR_PROBLEMS_H

#include "vr_records.h"

/* Dense row index: position in vr_problems.def. */
enum vr_problem {
#define VR_PROBLEM(sym, code, sev, pol, scope, order, slug, spec, qemu, msg) VR_P_##sym,
#include "vr_problems.def"
#undef VR_PROBLEM
    VR_P_COUNT,
};
_Static_assert(VR_P_COUNT <= VR_ROWS_MAX, "raise VR_ROWS_MAX (and the ABI version)");

/* The columns that decide; the words (slug, spec, qemu, message) stay with the host. */
struct vr_row {
    uint16_t code;
    uint8_t severity; /* enum vr_severity */
    uint8_t policy;   /* enum vr_policy */
    uint8_t scope;
};

#define VR_ROW_PASS(row) ((row)->code >> 12) /* enum vr_pass */

#endif
