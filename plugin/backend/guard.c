/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * guard.c: what else libvirt can do with a volume, refused while a job works on it: a delete or an upload in the middle
 * of a repair would lose the disk. A volume that nobody works on goes to the stock function.
 */
#include "backend.h"

/*
 * Reports and returns true where a job stands against it. Trouble in finding out is no reason to refuse. The driver keeps
 * the pool locked while a volume is deleted, resized or wiped, and lets go of it for transfers of data.
 */
static bool refused(void *pool, void *vol, bool locked, bool only_reads)
{
    g_autoptr(Volume) facts = volume_from_defs(pool, vol, locked);

    if (!facts) {
        virResetLastError();
        return false;
    }
    return job_stands_against(facts, only_reads);
}

bool guard_reading(void *pool, void *vol)
{
    return refused(pool, vol, false, true);
}

int guard_delete_vol(void *pool, void *vol, unsigned int flags)
{
    return refused(pool, vol, true, false) ? -1 : stock_slots.delete_vol(pool, vol, flags);
}

int guard_resize_vol(void *pool, void *vol, unsigned long long capacity, unsigned int flags)
{
    return refused(pool, vol, true, false) ? -1 : stock_slots.resize_vol(pool, vol, capacity, flags);
}

int guard_wipe_vol(void *pool, void *vol, unsigned int algorithm, unsigned int flags)
{
    return refused(pool, vol, true, false) ? -1 : stock_slots.wipe_vol(pool, vol, algorithm, flags);
}

int guard_upload_vol(void *pool, void *vol, virStreamPtr st, unsigned long long offset, unsigned long long length,
                     unsigned int flags)
{
    if (access_was_asked())
        return -1;
    return refused(pool, vol, false, false) ? -1 : stock_slots.upload_vol(pool, vol, st, offset, length, flags);
}
