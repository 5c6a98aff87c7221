/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * notes.c: what libvirt knows of an image that whoever checks or repairs it should know too: a domain that was saved
 * with it as a disk, and other volumes of its pool that lie upon it. Neither is a reason to refuse, since a repair
 * leaves alone what the guest sees; both are told in the report.
 *
 * Best effort: what cannot be looked at soon enough is left out, and nothing here fails a job.
 */
#include <libxml/parser.h>
#include <libxml/tree.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host.h"

#define LOOKED_AT_MAX 256   /* domains, and volumes */
#define OVERLAYS_TOLD 12  /* which leaves room for domains */
#define NAME_MAX_BYTES 1024 /* the helper takes no more */
#define TIME_MAX (2 * G_USEC_PER_SEC)

struct file {
    dev_t dev; /* as open_identity() gives them */
    ino_t ino;
};

/* A volume that has a backing file. */
struct layer {
    struct file file, backing;
    char *name;
    bool told;
};

struct search {
    const struct volume *vol;
    gint64 deadline;
    GPtrArray *notes;
    GArray *files;  /* struct file: the image, and what lies upon it */
    GArray *layers; /* struct layer: of the pool */
};

static bool is_over(const struct search *s)
{
    return s->notes->len >= NOTES_MAX || g_get_monotonic_time() > s->deadline;
}

static void add(struct search *s, const char *id, const char *name)
{
    if (name && name[0] && strlen(name) < NAME_MAX_BYTES && s->notes->len < NOTES_MAX)
        g_ptr_array_add(s->notes, g_strdup_printf("%s:%s", id, name));
}

static bool identify(const char *path, struct file *file)
{
    struct stat st;

    if (!path || path[0] != '/' || stat(path, &st) < 0)
        return false;
    open_identity(&st, &file->dev, &file->ino);
    return true;
}

static bool is_among(const GArray *files, const struct file *file)
{
    for (unsigned i = 0; i < files->len; i++) {
        const struct file *other = &g_array_index(files, struct file, i);

        if (other->dev == file->dev && other->ino == file->ino)
            return true;
    }
    return false;
}

/* ---- domains ---- */

static bool source_is_image(const struct search *s, xmlNodePtr source)
{
    xmlChar *file = xmlGetNoNsProp(source, BAD_CAST "file"), *dev = xmlGetNoNsProp(source, BAD_CAST "dev");
    struct file id;
    bool found = identify(file ? (char *)file : (char *)dev, &id) && is_among(s->files, &id);

    xmlFree(file);
    xmlFree(dev);
    return found;
}

/* In a disk, or in the backing chain of one, where the definition has it. */
static bool names_image(const struct search *s, xmlNodePtr node)
{
    for (node = xmlFirstElementChild(node); node; node = xmlNextElementSibling(node)) {
        if (xmlStrEqual(node->name, BAD_CAST "source") && source_is_image(s, node))
            return true;
        if (names_image(s, node))
            return true;
    }
    return false;
}

static void look_at_domain(struct search *s, virDomainPtr domain)
{
    /* The saved one counts; the domain may have been given other disks since. */
    char *xml = virDomainManagedSaveGetXMLDesc(domain, 0);
    xmlDocPtr doc =
        xml ? xmlReadMemory(xml, strlen(xml), NULL, "UTF-8", XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING)
            : NULL;

    if (doc && names_image(s, xmlDocGetRootElement(doc)))
        add(s, "managed-save", virDomainGetName(domain));
    xmlFreeDoc(doc);
    free(xml);
}

static void look_at_domains(struct search *s)
{
    virConnectPtr conn = virConnectOpen(geteuid() == 0 ? "qemu:///system" : "qemu:///session");
    virDomainPtr *domains = NULL;
    int n = conn ? virConnectListAllDomains(conn, &domains, VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE) : 0;

    for (int i = 0; i < n; i++) {
        if (i < LOOKED_AT_MAX && !is_over(s))
            look_at_domain(s, domains[i]);
        virDomainFree(domains[i]);
    }
    free(domains);
    if (conn)
        virConnectClose(conn);
}

/* ---- volumes ---- */

static void free_layer(void *layer)
{
    g_free(((struct layer *)layer)->name);
}

static void look_at_volume(struct search *s, virStorageVolPtr vol)
{
    char *xml = virStorageVolGetXMLDesc(vol, 0), *path = virStorageVolGetPath(vol);
    g_autofree char *backing = volume_backing_path(xml);
    struct layer layer = {.told = false};

    if (identify(backing, &layer.backing) && identify(path, &layer.file)) {
        layer.name = g_strdup(virStorageVolGetName(vol));
        g_array_append_val(s->layers, layer);
    }
    free(xml);
    free(path);
}

/* Layer upon layer, until nothing more is found. */
static void tell_layers(struct search *s)
{
    bool more = true;

    while (more) {
        more = false;
        for (unsigned i = 0; i < s->layers->len; i++) {
            struct layer *layer = &g_array_index(s->layers, struct layer, i);

            if (layer->told || !is_among(s->files, &layer->backing))
                continue;
            layer->told = more = true;
            g_array_append_val(s->files, layer->file);
            if (s->notes->len < OVERLAYS_TOLD)
                add(s, "overlay", layer->name);
        }
    }
}

static void look_at_pool(struct search *s)
{
    virConnectPtr conn = virConnectOpen(geteuid() == 0 ? "storage:///system" : "storage:///session");
    virStoragePoolPtr pool = conn && s->vol->pool ? virStoragePoolLookupByName(conn, s->vol->pool) : NULL;
    virStorageVolPtr *vols = NULL;
    int n = pool ? virStoragePoolListAllVolumes(pool, &vols, 0) : 0;

    for (int i = 0; i < n; i++) {
        if (i < LOOKED_AT_MAX && !is_over(s) && g_strcmp0(virStorageVolGetName(vols[i]), s->vol->name) != 0)
            look_at_volume(s, vols[i]);
        virStorageVolFree(vols[i]);
    }
    free(vols);
    if (pool)
        virStoragePoolFree(pool);
    if (conn)
        virConnectClose(conn);
}

/* In a thread of its own, which acts for the daemon: the caller may not be allowed to see every domain. */
static void *search_main(void *opaque)
{
    struct search *s = opaque;

    identity_become_system();
    /* libvirt does not look into devices, so that it knows of no volume what lies below it. */
    if (!pool_type_holds_devices(s->vol->pool_type))
        look_at_pool(s);
    tell_layers(s);
    look_at_domains(s);
    virResetLastError();
    return NULL;
}

GPtrArray *notes_collect(const struct volume *vol, const struct stat *st)
{
    struct search s = {.vol = vol, .deadline = g_get_monotonic_time() + TIME_MAX};
    struct file image;
    GThread *thread;

    s.notes = g_ptr_array_new_with_free_func(g_free);
    s.files = g_array_new(FALSE, FALSE, sizeof(struct file));
    s.layers = g_array_new(FALSE, FALSE, sizeof(struct layer));
    g_array_set_clear_func(s.layers, free_layer);
    open_identity(st, &image.dev, &image.ino);
    g_array_append_val(s.files, image);
    thread = g_thread_try_new("vol-repair-note", search_main, &s, NULL);
    if (thread)
        g_thread_join(thread);
    g_array_unref(s.files);
    g_array_unref(s.layers);
    return s.notes;
}
