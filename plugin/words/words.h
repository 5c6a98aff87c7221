/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* words.h: the words of the problem table: rows, passes, sentences for records, names of snapshots. */
#ifndef WORDS_H
#define WORDS_H

#include <glib.h>
#include <stdbool.h>

#include "vr_problems.h"

/* ---- words.c: from a record to a sentence ------------------------------------------------------- */

struct row_words {
    uint32_t code;
    uint8_t severity, policy, order;
    uint16_t flags;
    const char *slug, *spec, *qemu, *message;
};
extern const struct row_words row_words[VR_P_COUNT];

struct pass_words {
    const char *name;
    unsigned begins; /* percent of a walk that are behind it when the pass begins */
    unsigned flags;  /* VR_PASS_TIMED, VR_PASS_OF_MAPS */
};
/* By number; the last one begins where a walk ends. */
extern const struct pass_words pass_words[VR_PASS_COUNT + 1];

/* Row index of a code, or -1. */
int row_find(uint32_t code);
/* The first row with this flag of which there is something in found, or -1. */
int row_found(const uint64_t *found, unsigned flag);
/* Appends tmpl with the record's fields put in. names may be NULL. fixed: {op} is Repairing. */
void message_render(GString *out, const char *tmpl, GHashTable *names, const struct vr_record *rec, bool fixed);
char *message_of(GHashTable *names, const struct vr_record *rec);
const char *severity_name(uint8_t severity);
const char *kept_name(uint8_t kept);
/* The mode that mends a row: leaks, all, or report for none. */
const char *policy_name(uint8_t policy);

/* ---- names.c: ids and names of snapshots ------------------------------------------------------------- */

/* Root (VR_REC_NAME) to id and name. */
GHashTable *names_new(void);
/* False: malformed. */
bool names_take(GHashTable *names, const struct vr_record *rec);
/* "?" where it is not known. Valid UTF-8 without control and format characters. */
const char *names_get(GHashTable *names, uint32_t root, bool id);

#endif
