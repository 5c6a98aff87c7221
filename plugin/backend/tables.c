/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * tables.c: proves that the stock backend tables are what we think, then puts our doors into them.
 *
 * All or nothing: every check for every table comes before the first change, and a doubt leaves stock alone.
 */
#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <stdio.h>
#include <string.h>

#include "backend.h"

/* virGetVersion() of the releases that this was run on: the oldest, and the newest. */
#define OLDEST_LIBVIRT 9000000ul
#define NEWEST_TESTED 12008999ul

struct stock_slots stock_slots;

static const struct {
    const char *symbol, *type;
} table_names[] = {
    {"virStorageBackendDirectory", "dir"},
    {"virStorageBackendFileSystem", "fs"},
    {"virStorageBackendNetFileSystem", "netfs"},
};
enum { DIR_TABLE, TABLE_COUNT = G_N_ELEMENTS(table_names) };

/* Slots that hold functions which the storage driver exports by name. */
static const struct {
    int slot;
    const char *symbol;
} known_slots[] = {
    {SLOT_REFRESH_POOL, "virStorageBackendRefreshLocal"}, {SLOT_DELETE_POOL, "virStorageBackendDeleteLocal"},
    {SLOT_BUILD_VOL, "virStorageBackendVolBuildLocal"},   {SLOT_BUILD_VOL_FROM, "virStorageBackendVolBuildFromLocal"},
    {SLOT_CREATE_VOL, "virStorageBackendVolCreateLocal"}, {SLOT_REFRESH_VOL, "virStorageBackendVolRefreshLocal"},
    {SLOT_DELETE_VOL, "virStorageBackendVolDeleteLocal"}, {SLOT_RESIZE_VOL, "virStorageBackendVolResizeLocal"},
    {SLOT_UPLOAD_VOL, "virStorageBackendVolUploadLocal"}, {SLOT_DOWNLOAD_VOL, "virStorageBackendVolDownloadLocal"},
    {SLOT_WIPE_VOL, "virStorageBackendVolWipeLocal"},
};

G_STATIC_ASSERT(sizeof(struct backend_table) == 136);

static bool version_is_allowed(void)
{
    g_autofree char *error = NULL;
    g_autoptr(Config) cfg = config_load(&error);
    unsigned long version = 0;

    if (!cfg) {
        vr_log("repair is off: %s", error);
        return false;
    }
    if (virGetVersion(&version, NULL, NULL) < 0 || version < OLDEST_LIBVIRT) {
        vr_log("repair is off: libvirt %lu is older than %lu, the oldest one known to fit", version, OLDEST_LIBVIRT);
        return false;
    }
    if (cfg->newest_libvirt && version > cfg->newest_libvirt) {
        vr_log("repair is off: libvirt %lu is newer than newest_libvirt = %lu in vol-repair.conf", version,
               cfg->newest_libvirt);
        return false;
    }
    if (version > NEWEST_TESTED)
        vr_log("libvirt %lu is newer than any that vol-repair was tested with; its tables are checked all the same",
               version);
    return true;
}

/* A future libvirt may make its tables read-only; writing to them would end the daemon. */
static bool is_writable(const void *addr, size_t len)
{
    uintptr_t first = (uintptr_t)addr, last = first + len;
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[4096];
    bool ok = false;

    if (!maps)
        return false;
    while (!ok && fgets(line, sizeof(line), maps)) {
        unsigned long start, end;
        char perms[5];

        if (sscanf(line, "%lx-%lx %4s", &start, &end, perms) == 3)
            ok = first >= start && last <= end && perms[0] == 'r' && perms[1] == 'w';
    }
    fclose(maps);
    return ok;
}

static bool slots_are_known(const struct backend_table *table, void *driver, const char *type)
{
    for (size_t i = 0; i < G_N_ELEMENTS(known_slots); i++) {
        void *expected = dlsym(driver, known_slots[i].symbol);

        if (!expected || table->slot[known_slots[i].slot] != expected) {
            vr_log("repair is off: the %s backend's slot %d is not %s", type, known_slots[i].slot,
                   known_slots[i].symbol);
            return false;
        }
    }
    return true;
}

static struct backend_table *prove_table(void *stock, void *driver, size_t which)
{
    const char *symbol = table_names[which].symbol, *type = table_names[which].type;
    struct backend_table *table = dlsym(stock, symbol);
    ElfW(Sym) *sym = NULL;
    Dl_info info;

    if (!table) {
        vr_log("repair is off: libvirt's backend has no table %s", symbol);
        return NULL;
    }
    if (!dladdr1(table, &info, (void **)&sym, RTLD_DL_SYMENT) || !sym || sym->st_size != sizeof(*table)) {
        vr_log("repair is off: %s is not a table of %zu bytes", symbol, sizeof(*table));
        return NULL;
    }
    if (!is_writable(table, sizeof(*table))) {
        vr_log("repair is off: %s is in read-only memory", symbol);
        return NULL;
    }
    if (table->type != lv.pool_type_from_string(type) || lv.backend_for_type(table->type) != table) {
        vr_log("repair is off: %s is not the backend in use for pools of type %s", symbol, type);
        return NULL;
    }
    return slots_are_known(table, driver, type) ? table : NULL;
}

/* The storage driver itself: its own functions, whatever else in the process bears the same names. */
static void *open_driver(void)
{
    void *addr = dlsym(RTLD_DEFAULT, "virStorageBackendForType");
    Dl_info info;

    if (!addr || !dladdr(addr, &info) || !info.dli_fname)
        return NULL;
    return dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
}

/* What stands in a slot from now on, and where the stock function is kept. */
static const struct {
    int slot;
    void *ours, *stock;
} doors[] = {
    {SLOT_BUILD_VOL_FROM, (void *)create_build_vol_from, &stock_slots.build_vol_from},
    {SLOT_DOWNLOAD_VOL, (void *)stream_download_vol, &stock_slots.download_vol},
    {SLOT_UPLOAD_VOL, (void *)guard_upload_vol, &stock_slots.upload_vol},
    {SLOT_DELETE_VOL, (void *)guard_delete_vol, &stock_slots.delete_vol},
    {SLOT_RESIZE_VOL, (void *)guard_resize_vol, &stock_slots.resize_vol},
    {SLOT_WIPE_VOL, (void *)guard_wipe_vol, &stock_slots.wipe_vol},
};

static bool patch(struct backend_table *table, bool with_control)
{
    const struct backend_table before = *table, *active;

    for (size_t i = 0; i < G_N_ELEMENTS(doors); i++)
        table->slot[doors[i].slot] = doors[i].ours;
    if (with_control)
        table->slot[SLOT_FIND_POOL_SOURCES] = (void *)control_find_pool_sources;

    active = lv.backend_for_type(table->type);
    if (active && active->slot[SLOT_DOWNLOAD_VOL] == (void *)stream_download_vol)
        return true;
    *table = before;
    return false;
}

int __attribute__((visibility("default"))) vol_repair_backend_init(void *stock)
{
    struct backend_table *tables[TABLE_COUNT];
    const char *missing = NULL;
    void *driver = open_driver();

    if (!symbols_load(&missing)) {
        vr_log("repair is off: this libvirt has no function %s", missing);
        return -1;
    }
    if (!driver) {
        vr_log("repair is off: libvirt's storage driver was not found in this process");
        return -1;
    }
    if (!version_is_allowed())
        return -1;
    for (size_t i = 0; i < TABLE_COUNT; i++) {
        tables[i] = prove_table(stock, driver, i);
        if (!tables[i])
            return -1;
    }
    /* A libvirt that looks for sources of directories itself would lose that to us. */
    if (tables[DIR_TABLE]->slot[SLOT_FIND_POOL_SOURCES]) {
        vr_log("repair is off: the dir backend already has a way to find pool sources");
        return -1;
    }

    for (size_t i = 0; i < G_N_ELEMENTS(doors); i++)
        *(void **)doors[i].stock = tables[DIR_TABLE]->slot[doors[i].slot];
    for (size_t i = 0; i < TABLE_COUNT; i++) {
        if (!patch(tables[i], i == DIR_TABLE)) {
            vr_log("repair is off for pools of type %s: the patched table is not the one in use", table_names[i].type);
            return i == 0 ? -1 : 0;
        }
    }
    return 0;
}
