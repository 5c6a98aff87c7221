/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * tables.c: proves that the stock backend tables are what we think, then puts our entry points into them.
 *
 * For pools of files all or nothing: every check comes before the first change, and a doubt leaves all of libvirt
 * alone. For pools of devices a doubt leaves that type of pool alone.
 */
#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

#include "hook.h"

/* virGetVersion() of the releases that this was run on: the oldest, and the newest. */
#define OLDEST_LIBVIRT 9000000ul
#define NEWEST_TESTED 12008999ul

/*
 * Modules that hold a table of their own are loaded by the driver after us, and registered by the address of that
 * table. So we load them first, and the driver gets the same ones.
 */
static const struct {
    const char *symbol, *module; /* module NULL: the stub's own */
} table_names[POOL_TYPE_COUNT] = {
    [POOL_DIR] = {"virStorageBackendDirectory", NULL},
    [POOL_FS] = {"virStorageBackendFileSystem", NULL},
    [POOL_NETFS] = {"virStorageBackendNetFileSystem", NULL},
    [POOL_LOGICAL] = {"virStorageBackendLogical", "libvirt_storage_backend_logical.so"},
    [POOL_DISK] = {"virStorageBackendDisk", "libvirt_storage_backend_disk.so"},
    [POOL_ISCSI] = {"virStorageBackendISCSI", "libvirt_storage_backend_iscsi.so"},
    [POOL_SCSI] = {"virStorageBackendSCSI", "libvirt_storage_backend_scsi.so"},
    [POOL_MPATH] = {"virStorageBackendMpath", "libvirt_storage_backend_mpath.so"},
    [POOL_ZFS] = {"virStorageBackendZFS", "libvirt_storage_backend_zfs.so"},
};

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
        vr_log("repair is off: libvirt %lu is newer than newest_libvirt = %lu (vol-repair.conf; without a word there, the last that "
               "was tested)", version, cfg->newest_libvirt);
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

/* What must hold of every table. What is wrong, or NULL. */
static const char *table_fault(const struct backend_table *table, const char *type)
{
    ElfW(Sym) *sym = NULL;
    Dl_info info;

    if (!table)
        return "libvirt's backend has no such table";
    if (!dladdr1(table, &info, (void **)&sym, RTLD_DL_SYMENT) || !sym || sym->st_size != sizeof(*table))
        return "it is not of the known size";
    if (!is_writable(table, sizeof(*table)))
        return "it is in read-only memory";
    if (table->type != lv.pool_type_from_string(type))
        return "it is one of another type";
    return NULL;
}

static struct backend_table *prove_table(void *stock, void *driver, size_t which)
{
    const char *symbol = table_names[which].symbol, *type = pool_type_name[which];
    struct backend_table *table = dlsym(stock, symbol);
    const char *fault = table_fault(table, type);

    if (!fault && lv.backend_for_type(table->type) != table)
        fault = "it is not the backend in use for its type of pool";
    if (fault) {
        vr_log("repair is off: %s: %s", symbol, fault);
        return NULL;
    }
    return slots_are_known(table, driver, type) ? table : NULL;
}

/* ---- pools of devices: each by itself, and none of them needed ---- */

/* Data goes by the driver's functions; where we only guard, the module may have one of its own, or none. */
static const struct {
    int slot;
    const char *symbol; /* NULL: the module's own alone */
    bool needed;
} device_slots[] = {
    {SLOT_UPLOAD_VOL, "virStorageBackendVolUploadLocal", true},
    {SLOT_DOWNLOAD_VOL, "virStorageBackendVolDownloadLocal", true},
    {SLOT_WIPE_VOL, "virStorageBackendVolWipeLocal", false},
    {SLOT_BUILD_VOL_FROM, NULL, false},
    {SLOT_DELETE_VOL, NULL, false},
    {SLOT_RESIZE_VOL, NULL, false},
};

static bool is_of_module(const void *function, const void *table)
{
    Dl_info a, b;

    return dladdr(function, &a) && dladdr(table, &b) && a.dli_fbase == b.dli_fbase;
}

static bool device_slots_are_known(const struct backend_table *table, void *driver)
{
    for (size_t i = 0; i < G_N_ELEMENTS(device_slots); i++) {
        void *found = table->slot[device_slots[i].slot];
        void *expected = device_slots[i].symbol ? dlsym(driver, device_slots[i].symbol) : NULL;
        bool own = !device_slots[i].needed && (!found || is_of_module(found, table));

        if (!own && (!expected || found != expected))
            return false;
    }
    return true;
}

/* NULL: not installed, or not as we know it. files: a table of the stub's own module, in whose directory the others
 * are. */
static struct backend_table *prove_device_table(const struct backend_table *files, void *driver, size_t which)
{
    const char *type = pool_type_name[which], *fault;
    g_autofree char *dir = NULL, *path = NULL;
    struct backend_table *table = NULL;
    void *module;
    Dl_info info;

    if (!dladdr(files, &info) || !info.dli_fname)
        return NULL;
    dir = g_path_get_dirname(info.dli_fname);
    path = g_build_filename(dir, table_names[which].module, NULL);
    if (access(path, F_OK) < 0)
        return NULL;
    /* As libvirt does it. One that cannot be loaded is libvirt's to complain of. */
    module = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (module)
        table = dlsym(module, table_names[which].symbol);
    fault = module ? table_fault(table, type) : "its module cannot be loaded";
    if (!fault && !device_slots_are_known(table, driver))
        fault = "one of its functions is not the known one";
    if (!fault)
        return table;
    vr_log("repair is off for pools of type %s: %s: %s", type, table_names[which].symbol, fault);
    return NULL;
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
    void *ours;
    size_t stock;
} entry_points[] = {
    {SLOT_BUILD_VOL_FROM, (void *)create_from_build_vol, offsetof(struct stock_slots, build_vol_from)},
    {SLOT_DOWNLOAD_VOL, (void *)stream_download_vol, offsetof(struct stock_slots, download_vol)},
    {SLOT_UPLOAD_VOL, (void *)guard_upload_vol, offsetof(struct stock_slots, upload_vol)},
    {SLOT_DELETE_VOL, (void *)guard_delete_vol, offsetof(struct stock_slots, delete_vol)},
    {SLOT_RESIZE_VOL, (void *)guard_resize_vol, offsetof(struct stock_slots, resize_vol)},
    {SLOT_WIPE_VOL, (void *)guard_wipe_vol, offsetof(struct stock_slots, wipe_vol)},
};

/* A slot that libvirt has left empty stays so: the driver then says that such pools cannot do that. */
static void patch(size_t which, struct backend_table *table)
{
    struct stock_slots stock = {0};

    for (size_t i = 0; i < G_N_ELEMENTS(entry_points); i++)
        *(void **)((char *)&stock + entry_points[i].stock) = table->slot[entry_points[i].slot];
    stock_keep(which, table, &stock);
    for (size_t i = 0; i < G_N_ELEMENTS(entry_points); i++) {
        void **slot = &table->slot[entry_points[i].slot];

        if (*slot)
            *slot = entry_points[i].ours;
    }
    if (which == POOL_DIR)
        table->slot[SLOT_FIND_POOL_SOURCES] = (void *)control_find_pool_sources;
}

static bool may_begin(void *driver)
{
    const char *missing = NULL;

    if (!symbols_load(&missing)) {
        vr_log("repair is off: this libvirt has no function %s", missing);
        return false;
    }
    if (!driver) {
        vr_log("repair is off: libvirt's storage driver was not found in this process");
        return false;
    }
    return version_is_allowed();
}

static int install_entry_points(void *stock)
{
    struct backend_table *tables[POOL_TYPE_COUNT];
    void *driver = open_driver();

    if (!may_begin(driver))
        return -1;
    for (size_t i = 0; i < POOL_FILE_TYPES; i++) {
        tables[i] = prove_table(stock, driver, i);
        if (!tables[i])
            return -1;
    }
    /* A libvirt that looks for sources of directories itself would lose that to us. */
    if (tables[POOL_DIR]->slot[SLOT_FIND_POOL_SOURCES]) {
        vr_log("repair is off: the dir backend already has a way to find pool sources");
        return -1;
    }
    for (size_t i = POOL_FILE_TYPES; i < POOL_TYPE_COUNT; i++)
        tables[i] = prove_device_table(tables[POOL_DIR], driver, i);
    for (size_t i = 0; i < POOL_TYPE_COUNT; i++) {
        if (tables[i])
            patch(i, tables[i]);
    }
    return 0;
}

int __attribute__((visibility("default"))) vol_repair_backend_init(void *stock)
{
    int ret = install_entry_points(stock);
    g_autofree char *error = NULL;
    g_autoptr(Config) cfg = config_load(&error);

    if (ret == 0)
        history_load();
    if (ret < 0)
        syslog_loaded(vr_log_last());
    else
        syslog_loaded(cfg && !cfg->enabled ? "enabled = 0 in vol-repair.conf" : NULL);
    return ret;
}
