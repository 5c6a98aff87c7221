/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * hook.h: how the entry points get into libvirt's storage driver. Includes host, jobs and entry.
 */
#ifndef BACKEND_HOOK_H
#define BACKEND_HOOK_H

#include "entry/entry.h"

/* ---- symbols.c: finds libvirt's private functions ---- */

/* Fills lv. On failure: NULL-terminated name of the first missing symbol in *missing. */
bool symbols_load(const char **missing);

/* ---- tables.c: load-time proof and patching; main thread, before any pool is loaded ---- */

/* Called by the stub with the stock module's handle. 0 = the entry points are in place, -1 = stock is untouched and
 * the log says why. */
int vol_repair_backend_init(void *stock);

#endif
