/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* connect.c: from a URI to a connection, and from what the user calls a volume to the volume. */
#include <libvirt/virterror.h>
#include <stdlib.h>

#include "command.h"

/* ---- the connection ---- */

void globals_init(struct globals *g)
{
    /* As virsh sets them, so that a daemon that does not answer any more is noticed. */
    *g = (struct globals){.keepalive_interval = 5, .keepalive_count = 6};
    g->uri = getenv("VIRSH_DEFAULT_CONNECT_URI");
}

static void *event_main(void *opaque G_GNUC_UNUSED)
{
    while (virEventRunDefaultImpl() == 0)
        ;
    return NULL;
}

/* A connection answers and sends keep-alive messages only where somebody runs an event loop. */
static bool start_event_loop(void)
{
    static GThread *thread;

    if (thread)
        return true;
    if (virEventRegisterDefaultImpl() < 0)
        return false;
    thread = g_thread_new("event-loop", event_main, NULL);
    return true;
}

/* libvirt prints each error by itself unless told otherwise. */
static void silent(void *opaque G_GNUC_UNUSED, virErrorPtr error G_GNUC_UNUSED)
{
}

virConnectPtr connect_open(const struct globals *g)
{
    virConnectPtr conn;

    virSetErrorFunc(NULL, silent);
    if (virInitialize() < 0 || !start_event_loop()) {
        show_error("Failed to initialize libvirt");
        show_libvirt_error();
        return NULL;
    }
    conn = virConnectOpenAuth(g->uri, virConnectAuthPtrDefault, g->readonly ? VIR_CONNECT_RO : 0);
    if (!conn) {
        show_error("failed to connect to the hypervisor");
        show_libvirt_error();
        return NULL;
    }
    /* Not every driver has a connection to keep alive; libvirt says 1 then, or fails. */
    if (g->keepalive_interval > 0)
        virConnectSetKeepAlive(conn, g->keepalive_interval, g->keepalive_count);
    return conn;
}

/* ---- the volume ---- */

static virStoragePoolPtr find_pool(virConnectPtr conn, const char *name)
{
    virStoragePoolPtr pool = virStoragePoolLookupByName(conn, name);

    if (!pool)
        pool = virStoragePoolLookupByUUIDString(conn, name);
    if (!pool) {
        /* The second error would speak of a malformed UUID. */
        pool = virStoragePoolLookupByName(conn, name);
        if (!pool) {
            show_error("failed to get pool '%s'", name);
            show_libvirt_error();
        }
    }
    return pool;
}

static virStorageVolPtr by_path_or_key(virConnectPtr conn, const char *text)
{
    virStorageVolPtr vol = virStorageVolLookupByPath(conn, text);

    return vol ? vol : virStorageVolLookupByKey(conn, text);
}

static bool is_in_pool(virStorageVolPtr vol, virStoragePoolPtr pool)
{
    virStoragePoolPtr its_pool = virStoragePoolLookupByVolume(vol);
    bool same = its_pool && g_str_equal(virStoragePoolGetName(its_pool), virStoragePoolGetName(pool));

    if (its_pool)
        virStoragePoolFree(its_pool);
    return same;
}

static virStorageVolPtr find_in_pool(virConnectPtr conn, virStoragePoolPtr pool, const char *name)
{
    virStorageVolPtr vol = virStorageVolLookupByName(pool, name);

    if (!vol && (vol = by_path_or_key(conn, name)) && !is_in_pool(vol, pool)) {
        show_error("Requested volume '%s' is not in pool '%s'", name, virStoragePoolGetName(pool));
        virStorageVolFree(vol);
        return NULL;
    }
    if (!vol) {
        virStorageVolLookupByName(pool, name); /* for the error that fits */
        show_error("failed to get vol '%s'", name);
        show_libvirt_error();
    }
    return vol;
}

virStorageVolPtr connect_find_volume(virConnectPtr conn, const struct request *req)
{
    virStoragePoolPtr pool;
    virStorageVolPtr vol;

    if (req->pool) {
        pool = find_pool(conn, req->pool);
        if (!pool)
            return NULL;
        vol = find_in_pool(conn, pool, req->vol);
        virStoragePoolFree(pool);
        return vol;
    }
    vol = by_path_or_key(conn, req->vol);
    if (!vol) {
        virStorageVolLookupByPath(conn, req->vol); /* for the error that fits */
        show_error("failed to get vol '%s', specifying --pool might help", req->vol);
        show_libvirt_error();
    }
    return vol;
}
