/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * access.c: whether the caller may do to the damaged volume what the job would do. libvirt itself checks for a
 * create-from only that the caller may create the new volume.
 *
 * It is asked by a call that needs the same right: an upload, for a repair, or a download, for a check, on a connection
 * that this thread opens as the caller. The driver checks the right first. Then it refuses, because the volume is in
 * use; or it comes to our own slot, which knows what the call is for, and does nothing.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host.h"

/* Where the answer of this thread's question goes; NULL = it asks nothing. */
static __thread bool *question;

bool access_was_asked(void)
{
    if (!question)
        return false;
    *question = true;
    vr_error(VIR_ERR_OPERATION_INVALID, "%s", "vol-repair has its answer");
    return true;
}

static virStorageVolPtr find(virConnectPtr conn, const struct volume *vol)
{
    virStoragePoolPtr pool = vol->pool ? virStoragePoolLookupByName(conn, vol->pool) : NULL;
    virStorageVolPtr found = pool ? virStorageVolLookupByName(pool, vol->name) : NULL;

    if (!vol->pool)
        found = virStorageVolLookupByPath(conn, vol->path);
    if (pool)
        virStoragePoolFree(pool);
    return found;
}

/* On one connection: whether the caller has the right. */
static bool ask(virConnectPtr conn, const struct volume *vol, bool to_write)
{
    virStorageVolPtr found = find(conn, vol);
    virStreamPtr st = found ? virStreamNew(conn, VIR_STREAM_NONBLOCK) : NULL;
    bool reached = false, allowed = false;

    if (st) {
        question = &reached;
        int rc = to_write ? virStorageVolUpload(found, st, 0, 0, 0) : virStorageVolDownload(found, st, 0, 0, 0);
        question = NULL;
        /* A backend that is not ours may have begun: nothing was sent yet, and nothing will be. */
        if (rc == 0)
            virStreamAbort(st);
        allowed = rc == 0 || reached || virGetLastErrorCode() == VIR_ERR_OPERATION_INVALID;
        virStreamFree(st);
    }
    if (found)
        virStorageVolFree(found);
    return allowed;
}

/*
 * A connection as the caller: rules may speak of the driver by which he came, and that is not known here. NULL: no such
 * driver, or there are no more.
 */
static bool connect_as_caller(unsigned i, virConnectPtr *conn)
{
    static const char *const uris[2][2] = {{"storage:///session", "qemu:///session"},
                                           {"storage:///system", "qemu:///system"}};
    /* In virtstoraged the second leads to another daemon, which would ask in its own name and be allowed everything. */
    unsigned count = g_str_has_suffix(program_invocation_short_name, "libvirtd") ? 2 : 1;

    if (i >= count)
        return false;
    *conn = virConnectOpen(uris[geteuid() == 0][i]);
    return true;
}

static void learn_pool(virConnectPtr conn, struct volume *vol)
{
    virStorageVolPtr found = virStorageVolLookupByPath(conn, vol->path);
    virStoragePoolPtr pool = found ? virStoragePoolLookupByVolume(found) : NULL;
    char *xml = pool ? virStoragePoolGetXMLDesc(pool, 0) : NULL;

    volume_set_pool(vol, xml);
    free(xml);
    if (pool)
        virStoragePoolFree(pool);
    if (found)
        virStorageVolFree(found);
}

void access_learn_pool(struct volume *vol)
{
    virConnectPtr conn;

    volume_set_pool(vol, NULL);
    for (unsigned i = 0; !vol->pool && connect_as_caller(i, &conn); i++) {
        if (!conn)
            continue;
        learn_pool(conn, vol);
        virConnectClose(conn);
    }
    virResetLastError();
}

bool access_allows(const struct volume *vol, bool to_write)
{
    g_autofree char *why = NULL;
    bool allowed = false;
    virConnectPtr conn;

    for (unsigned i = 0; !allowed && connect_as_caller(i, &conn); i++) {
        if (conn) {
            allowed = ask(conn, vol, to_write);
            virConnectClose(conn);
        }
        if (!allowed && !why)
            why = g_strdup(virGetLastErrorMessage());
    }
    virResetLastError();
    if (!allowed)
        vr_error(VIR_ERR_ACCESS_DENIED, "volume '%s': %s", vol->name, why);
    return allowed;
}
