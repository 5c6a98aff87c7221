/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * try_backend.c: loads libvirt's storage driver and the stub into a process that nobody needs, and says whether repair would be on.
 *
 * Packages run it when libvirt's files have changed; no daemon is started or asked, and nothing is written.
 * Exit status: 0 repair is on; 1 libvirt works as stock; anything else: libvirt's daemon would not start.
 */
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "entry/entry.h"

#define DRIVER "libvirt/connection-driver/libvirt_driver_storage.so"
#define STUB "libvirt_storage_backend_fs.so"
#define REAL_CODE "libvol-repair-backend.so"

enum { ON = 0, STOCK = 1, BROKEN = 2 };

static int say(int status, const char *what, const char *why)
{
    printf("vol-repair: %s%s%s\n", what, why ? ": " : "", why ? why : "");
    return status;
}

/* The directory of the object that holds addr, then tail. */
static bool beside(const void *addr, const char *tail, char path[PATH_MAX])
{
    const char *slash;
    Dl_info info;
    int n;

    if (!dladdr(addr, &info) || !info.dli_fname)
        return false;
    slash = strrchr(info.dli_fname, '/');
    if (!slash)
        return false;
    n = snprintf(path, PATH_MAX, "%.*s/%s", (int)(slash - info.dli_fname), info.dli_fname, tail);
    return n > 0 && n < PATH_MAX;
}

/* Whose function answers a download from a directory pool. */
static bool entry_point_is_ours(void)
{
    struct backend_table *(*for_type)(int type);
    int (*type_of)(const char *name);
    const struct backend_table *table;
    const char *name;
    Dl_info info;

    *(void **)&for_type = dlsym(RTLD_DEFAULT, "virStorageBackendForType");
    *(void **)&type_of = dlsym(RTLD_DEFAULT, "virStoragePoolTypeFromString");
    table = for_type && type_of ? for_type(type_of("dir")) : NULL;
    if (!table || !dladdr(table->slot[SLOT_DOWNLOAD_VOL], &info) || !info.dli_fname)
        return false;
    name = strrchr(info.dli_fname, '/');
    return name && strcmp(name + 1, REAL_CODE) == 0;
}

int main(int argc, char **argv)
{
    const char *stub_path = argc > 1 ? argv[1] : VR_BACKEND_DIR "/" STUB;
    void *libvirt = dlopen("libvirt.so.0", RTLD_NOW | RTLD_GLOBAL), *version, *stub;
    char driver[PATH_MAX];
    int (*enter)(void);

    version = libvirt ? dlsym(libvirt, "virGetVersion") : NULL;
    if (!version || !beside(version, DRIVER, driver))
        return say(STOCK, "libvirt's library cannot be loaded", dlerror());
    if (!dlopen(driver, RTLD_NOW | RTLD_GLOBAL))
        return say(STOCK, "libvirt's storage driver cannot be loaded", dlerror());
    stub = dlopen(stub_path, RTLD_NOW | RTLD_GLOBAL);
    if (!stub)
        return say(BROKEN, "the backend cannot be loaded", dlerror());
    *(void **)&enter = dlsym(stub, "virStorageBackendFsRegister");
    if (!enter || enter() != 0)
        return say(BROKEN, "the backend does not register", NULL);
    if (!entry_point_is_ours())
        return say(STOCK, "repair is off with this libvirt, whose pools work as ever", NULL);
    return say(ON, "repair is on with this libvirt", NULL);
}
