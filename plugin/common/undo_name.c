/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* undo_name.c: the identity of an image, and the names of its journals. */
#include "common.h"

#include <errno.h>
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include <linux/fs.h>

#define READABLE_MAX 120 /* bytes of the image's name in a journal's */

/* Kernel 6.9 has it, older headers do not. */
struct fs_uuid {
    uint8_t len;
    uint8_t uuid[16];
};
#define GET_FS_UUID _IOR(0x15, 0, struct fs_uuid)

/* ---- files --------------------------------------------------------------------------------------------------- */

/* Whether f_fsid comes from the file system's own UUID. Elsewhere it may be the number of a device, or 0. */
static bool fsid_is_stable(uint32_t type)
{
    static const uint32_t types[] = {0xef53 /* ext2 to ext4 */, 0x9123683e /* btrfs */, 0xf2f52010 /* f2fs */,
                                     0x01021994 /* tmpfs: of this mount, as its inodes are */};

    for (size_t i = 0; i < G_N_ELEMENTS(types); i++)
        if (type == types[i])
            return true;
    return false;
}

static char *link_to_device(const char *dir_path, dev_t device)
{
    GDir *dir = g_dir_open(dir_path, 0, NULL);
    const char *name;
    char *found = NULL;

    while (dir && !found && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(dir_path, name, NULL);
        struct stat st;

        if (stat(path, &st) == 0 && S_ISBLK(st.st_mode) && st.st_rdev == device)
            found = g_strdup(name);
    }
    if (dir)
        g_dir_close(dir);
    return found;
}

static char *file_system(int fd, dev_t device)
{
    struct fs_uuid id = {0};
    struct statfs fs;

    if (fstatfs(fd, &fs) < 0)
        return NULL;
    if (fsid_is_stable((uint32_t)fs.f_type) && (fs.f_fsid.__val[0] || fs.f_fsid.__val[1]))
        return g_strdup_printf("%08x%08x", (unsigned)fs.f_fsid.__val[0], (unsigned)fs.f_fsid.__val[1]);
    if (ioctl(fd, GET_FS_UUID, &id) == 0 && id.len == sizeof(id.uuid)) {
        GString *text = g_string_new(NULL);

        for (size_t i = 0; i < sizeof(id.uuid); i++)
            g_string_append_printf(text, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", id.uuid[i]);
        return g_string_free(text, FALSE);
    }
    return link_to_device("/dev/disk/by-uuid", device);
}

/* The inode, and its generation where the file system counts: the number of a file that is gone is given out again. */
static char *file_identity(int fd, const struct stat *st)
{
    g_autofree char *fs = file_system(fd, st->st_dev);
    long generation = 0;

    if (!fs)
        return NULL;
    if (ioctl(fd, FS_IOC_GETVERSION, &generation) < 0)
        generation = 0;
    return g_strdup_printf("file:%s:%lu:%u", fs, (unsigned long)st->st_ino, (unsigned)generation);
}

/* ---- block devices -------------------------------------------------------------------------------------------- */

/* A line of sysfs; NULL where it is missing or empty, or holds what no identity would. */
static char *attribute(const char *dir, const char *name)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    g_autofree char *text = NULL;

    if (!g_file_get_contents(path, &text, NULL, NULL) || !g_utf8_validate(text, -1, NULL))
        return NULL;
    g_strstrip(text);
    return text[0] ? g_steal_pointer(&text) : NULL;
}

static char *uevent_value(const char *dir, const char *key)
{
    g_autofree char *text = attribute(dir, "uevent");
    g_auto(GStrv) lines = text ? g_strsplit(text, "\n", -1) : NULL;

    for (unsigned i = 0; lines && lines[i]; i++)
        if (g_str_has_prefix(lines[i], key))
            return g_strdup(lines[i] + strlen(key));
    return NULL;
}

static char *disk_identity(const char *dir)
{
    /* One after the other: a disk that has the first is not known by a later one. */
    static const char *const names[] = {"wwid", "device/wwid", "serial", "device/serial"};

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *value = attribute(dir, names[i]);

        if (value)
            return g_strconcat("disk:", value, NULL);
    }
    g_autofree char *file = attribute(dir, "loop/backing_file");
    g_autofree char *offset = attribute(dir, "loop/offset");
    return file ? g_strdup_printf("loop:%s:%s", offset ? offset : "0", file) : NULL;
}

static char *partition_identity(const char *dir, const char *number, const char *dev, dev_t device)
{
    g_autofree char *links = g_build_filename(dev, "disk", "by-partuuid", NULL);
    g_autofree char *uuid = uevent_value(dir, "PARTUUID=");
    g_autofree char *parent = g_build_filename(dir, "..", NULL);
    g_autofree char *disk = NULL;

    if (!uuid)
        uuid = link_to_device(links, device);
    if (uuid)
        return g_strconcat("part:", uuid, NULL);
    disk = disk_identity(parent);
    return disk ? g_strdup_printf("%s:%s", disk, number) : NULL;
}

char *undo_device_identity(const char *sys, const char *dev, dev_t device)
{
    g_autofree char *dir = g_strdup_printf("%s/dev/block/%u:%u", sys, major(device), minor(device));
    g_autofree char *uuid = attribute(dir, "dm/uuid");
    g_autofree char *name = attribute(dir, "dm/name");
    g_autofree char *number = attribute(dir, "partition");

    if (uuid)
        return g_strconcat("dm:", uuid, NULL);
    if (name)
        return g_strconcat("dm-name:", name, NULL);
    return number ? partition_identity(dir, number, dev, device) : disk_identity(dir);
}

char *undo_identity(int fd, const char *real_path)
{
    g_autofree char *identity = NULL;
    struct stat st;

    if (fstat(fd, &st) == 0)
        identity = S_ISBLK(st.st_mode) ? undo_device_identity("/sys", "/dev", st.st_rdev) : file_identity(fd, &st);
    if (!identity)
        identity = g_strconcat("path:", real_path, NULL);
    if (strlen(identity) < UNDO_IDENTITY_MAX)
        return g_steal_pointer(&identity);
    g_autofree char *sum = g_compute_checksum_for_string(G_CHECKSUM_SHA256, identity, -1);
    return g_strconcat("sha256:", sum, NULL);
}

/* ---- names ---------------------------------------------------------------------------------------------------- */

char *undo_prefix(const char *identity)
{
    g_autofree char *sum = g_compute_checksum_for_string(G_CHECKSUM_SHA256, identity, -1);

    return g_strdup_printf("%.16s-", sum);
}

char *undo_name(const char *identity, const char *real_path)
{
    g_autofree char *prefix = undo_prefix(identity);
    g_autofree char *base = g_path_get_basename(real_path);

    if (strlen(base) > READABLE_MAX)
        base[READABLE_MAX] = '\0';
    /* A report names the journal, in UTF-8; so the name is plain. */
    g_strcanon(base, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", '_');
    return g_strconcat(prefix, base, NULL);
}

char *undo_old_name(const char *real_path)
{
    g_autofree char *base = g_path_get_basename(real_path);
    g_autofree char *sum = g_compute_checksum_for_string(G_CHECKSUM_SHA256, real_path, -1);

    return g_strdup_printf("%.200s-%.16s", base, sum);
}

/* `<old name>.undo`, or that with a number: no other name begins so. */
static bool is_old_default(const char *name, const char *real_path)
{
    g_autofree char *old = undo_old_name(real_path);
    g_autofree char *file = g_strconcat(old, ".undo", NULL);
    size_t len = strlen(file);

    return g_str_has_prefix(name, file) &&
           (!name[len] || (name[len] == '.' && g_ascii_string_to_unsigned(name + len + 1, 10, 1, G_MAXINT, NULL, NULL)));
}

char *undo_file_name(int fd, const char *real_path, const char *name)
{
    g_autofree char *identity = undo_identity(fd, real_path);
    g_autofree char *prefix = undo_prefix(identity);
    g_autofree char *whole = undo_name(identity, real_path);

    if (g_str_has_prefix(name, prefix) || is_old_default(name, real_path))
        return g_strdup(name);
    return g_strdup_printf("%s.%s", whole, name);
}
