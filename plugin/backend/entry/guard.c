/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * guard.c: what else libvirt can do with a volume, refused while a job works on it: a delete or an upload in the middle
 * of a repair would lose the disk. A volume that nobody works on goes to the stock function.
 */
#include "entry.h"

/*
 * The stock functions for the volume; NULL and an error where a job stands against it. The driver keeps the pool locked
 * while a volume is deleted, resized or wiped, and lets go of it for transfers of data.
 */
static const struct stock_slots *allowed(void *pool, void *vol, bool locked, bool only_reads)
{
    g_autoptr(Volume) facts = volume_from_defs(pool, vol, locked);

    return facts && !job_stands_against(facts, only_reads) ? stock_of(facts->pool_type) : NULL;
}

const struct stock_slots *guard_reading(void *pool, void *vol)
{
    return allowed(pool, vol, false, true);
}

int guard_delete_vol(void *pool, void *vol, unsigned int flags)
{
    const struct stock_slots *stock = allowed(pool, vol, true, false);

    return stock ? stock->delete_vol(pool, vol, flags) : -1;
}

int guard_resize_vol(void *pool, void *vol, unsigned long long capacity, unsigned int flags)
{
    const struct stock_slots *stock = allowed(pool, vol, true, false);

    return stock ? stock->resize_vol(pool, vol, capacity, flags) : -1;
}

int guard_wipe_vol(void *pool, void *vol, unsigned int algorithm, unsigned int flags)
{
    const struct stock_slots *stock = allowed(pool, vol, true, false);

    return stock ? stock->wipe_vol(pool, vol, algorithm, flags) : -1;
}

int guard_upload_vol(void *pool, void *vol, virStreamPtr st, unsigned long long offset, unsigned long long length,
                     unsigned int flags)
{
    const struct stock_slots *stock = access_was_asked() ? NULL : allowed(pool, vol, false, false);

    return stock ? stock->upload_vol(pool, vol, st, offset, length, flags) : -1;
}
