/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * pool_types.c: the types of pool whose volumes can be repaired, and what their volumes are.
 */
#include "host.h"

const char *const pool_type_name[POOL_TYPE_COUNT] = {
    [POOL_DIR] = "dir",         [POOL_FS] = "fs",     [POOL_NETFS] = "netfs",
    [POOL_LOGICAL] = "logical", [POOL_DISK] = "disk", [POOL_ISCSI] = "iscsi",
    [POOL_SCSI] = "scsi",       [POOL_MPATH] = "mpath", [POOL_ZFS] = "zfs",
};

size_t pool_type_find(const char *pool_type)
{
    size_t i = 0;

    while (i < POOL_TYPE_COUNT && !(pool_type && g_str_equal(pool_type_name[i], pool_type)))
        i++;
    return i;
}

bool pool_type_holds_devices(const char *pool_type)
{
    size_t which = pool_type_find(pool_type);

    return which >= POOL_FILE_TYPES && which < POOL_TYPE_COUNT;
}
