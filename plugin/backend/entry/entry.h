/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * entry.h: the entry points: what stands in the slots of libvirt's backend tables. Includes host, helper and jobs.
 */
#ifndef BACKEND_ENTRY_H
#define BACKEND_ENTRY_H

#include "jobs/jobs.h"

/* ---- stock.c: libvirt's tables, and the stock functions behind our entry points ---- */

enum {
    SLOT_FIND_POOL_SOURCES,
    SLOT_CHECK_POOL,
    SLOT_START_POOL,
    SLOT_BUILD_POOL,
    SLOT_REFRESH_POOL,
    SLOT_STOP_POOL,
    SLOT_DELETE_POOL,
    SLOT_BUILD_VOL,
    SLOT_BUILD_VOL_FROM,
    SLOT_CREATE_VOL,
    SLOT_REFRESH_VOL,
    SLOT_DELETE_VOL,
    SLOT_RESIZE_VOL,
    SLOT_UPLOAD_VOL,
    SLOT_DOWNLOAD_VOL,
    SLOT_WIPE_VOL,
    SLOT_COUNT,
};

/* virStorageBackend as every libvirt since 3.1 lays it out: a type and sixteen function pointers. */
struct backend_table {
    int type;
    void *slot[SLOT_COUNT];
};

/* The stock functions behind our slots in the table of one type of pool; NULL where libvirt has none. */
struct stock_slots {
    int (*build_vol_from)(void *pool, void *vol, void *src, unsigned int flags);
    int (*download_vol)(void *pool, void *vol, virStreamPtr st, unsigned long long offset, unsigned long long length,
                        unsigned int flags);
    int (*upload_vol)(void *pool, void *vol, virStreamPtr st, unsigned long long offset, unsigned long long length,
                      unsigned int flags);
    int (*delete_vol)(void *pool, void *vol, unsigned int flags);
    int (*resize_vol)(void *pool, void *vol, unsigned long long capacity, unsigned int flags);
    int (*wipe_vol)(void *pool, void *vol, unsigned int algorithm, unsigned int flags);
};
/* At the start: the table of a type of pool, and what its slots held. */
void stock_keep(size_t which, const struct backend_table *table, const struct stock_slots *slots);
/* NULL and an error: the type is none of those that we serve. */
const struct stock_slots *stock_of(const char *pool_type);
/* `<type name='...'/>` for each type of pool whose table is ours and is the one in use. */
void stock_append_types(GString *xml);

/* ---- stream.c ---- */

int stream_download_vol(void *pool, void *vol, virStreamPtr st, unsigned long long offset, unsigned long long length,
                        unsigned int flags);

/* ---- create_from.c ---- */

int create_from_build_vol(void *pool, void *vol, void *src, unsigned int flags);

/* ---- control.c ---- */

char *control_find_pool_sources(const char *spec, unsigned int flags);
/* A token's options leave the table. Reports and returns NULL. */
struct job_options *control_take_options(unsigned long long token);

/* ---- guard.c ---- */

int guard_delete_vol(void *pool, void *vol, unsigned int flags);
int guard_resize_vol(void *pool, void *vol, unsigned long long capacity, unsigned int flags);
int guard_wipe_vol(void *pool, void *vol, unsigned int algorithm, unsigned int flags);
int guard_upload_vol(void *pool, void *vol, virStreamPtr st, unsigned long long offset, unsigned long long length,
                     unsigned int flags);
/* For the entry points that also clone and download: the stock functions for the pool at hand. Reports and returns
 * NULL where a repair is working on the volume. */
const struct stock_slots *guard_reading(void *pool, void *vol);

#endif
