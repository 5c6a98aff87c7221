/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * volume.c: pool and volume facts, taken from the XML that libvirt formats of its own definitions.
 */
#include <libxml/parser.h>
#include <libxml/tree.h>
#include <stdlib.h>
#include <string.h>

#include "host.h"

void volume_free(struct volume *vol)
{
    if (!vol)
        return;
    g_free(vol->pool);
    g_free(vol->pool_type);
    g_free(vol->pool_path);
    g_free(vol->name);
    g_free(vol->path);
    g_free(vol->format);
    g_free(vol);
}

/* libvirt's XML may hold names that are not UTF-8. Read as Latin-1 each byte is a character, so nothing is
 * refused, and bytes() turns the characters back into the bytes they were. */
static xmlDocPtr parse(const char *xml)
{
    size_t len = xml ? strlen(xml) : 0;

    if (len == 0 || len > 16 * 1024 * 1024)
        return NULL;
    return xmlReadMemory(xml, len, NULL, "ISO-8859-1", XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
}

static char *bytes(const xmlChar *text)
{
    int in = text ? xmlStrlen(text) : 0, out = in;
    char *copy = g_malloc0(out + 1);

    if (in && UTF8Toisolat1((unsigned char *)copy, &out, text, &in) < 0)
        copy[0] = '\0';
    return copy;
}

static xmlNodePtr child(xmlNodePtr node, const char *name)
{
    for (node = node ? node->children : NULL; node; node = node->next) {
        if (node->type == XML_ELEMENT_NODE && xmlStrEqual(node->name, BAD_CAST name))
            return node;
    }
    return NULL;
}

/* "" where the element is missing. */
static char *text_of(xmlNodePtr node)
{
    xmlChar *content = node ? xmlNodeGetContent(node) : NULL;
    char *copy = bytes(content);

    xmlFree(content);
    return copy;
}

static char *attribute_of(xmlNodePtr node, const char *name)
{
    xmlChar *content = node ? xmlGetNoNsProp(node, BAD_CAST name) : NULL;
    char *copy = bytes(content);

    xmlFree(content);
    return copy;
}

static int number_of(xmlNodePtr node, int base)
{
    g_autofree char *text = text_of(node);
    gint64 value;

    if (!text[0] || !g_ascii_string_to_signed(text, base, -1, G_MAXINT, &value, NULL))
        return -1;
    return value;
}

void volume_set_pool(struct volume *vol, const char *pool_xml)
{
    xmlDocPtr doc = parse(pool_xml);
    xmlNodePtr root = doc ? xmlDocGetRootElement(doc) : NULL;

    g_clear_pointer(&vol->pool, g_free);
    g_clear_pointer(&vol->pool_type, g_free);
    g_clear_pointer(&vol->pool_path, g_free);
    if (root) {
        vol->pool = text_of(child(root, "name"));
        vol->pool_type = attribute_of(root, "type");
        vol->pool_path = text_of(child(child(root, "target"), "path"));
    }
    xmlFreeDoc(doc);
}

static void read_volume(struct volume *vol, xmlNodePtr root)
{
    xmlNodePtr target = child(root, "target"), permissions = child(target, "permissions");

    vol->name = text_of(child(root, "name"));
    vol->path = text_of(child(target, "path"));
    vol->format = attribute_of(child(target, "format"), "type");
    vol->mode = number_of(child(permissions, "mode"), 8);
    vol->owner = number_of(child(permissions, "owner"), 10);
    vol->group = number_of(child(permissions, "group"), 10);
}

char *volume_backing_path(const char *vol_xml)
{
    xmlDocPtr doc = parse(vol_xml);
    xmlNodePtr backing = doc ? child(xmlDocGetRootElement(doc), "backingStore") : NULL;
    char *path = backing ? text_of(child(backing, "path")) : NULL;

    xmlFreeDoc(doc);
    return path;
}

struct volume *volume_from_defs(void *pool, void *vol, bool locked)
{
    bool lock = !locked && lv.object_lock && lv.object_unlock;
    g_autofree char *pool_xml = NULL, *vol_xml = NULL;
    g_autoptr(Volume) facts = g_new0(struct volume, 1);
    xmlDocPtr doc;
    void *def;

    /* Another call may be updating the definitions. */
    if (lock)
        lv.object_lock(pool);
    def = lv.pool_get_def(pool);
    pool_xml = lv.pool_def_format(def);
    vol_xml = lv.vol_def_format(def, vol);
    if (lock)
        lv.object_unlock(pool);

    volume_set_pool(facts, pool_xml);
    doc = parse(vol_xml);
    if (doc)
        read_volume(facts, xmlDocGetRootElement(doc));
    xmlFreeDoc(doc);
    if (!facts->pool || !facts->name || !facts->name[0] || !facts->path || facts->path[0] != '/') {
        vr_error(VIR_ERR_INTERNAL_ERROR, "%s", "vol-repair cannot read libvirt's definition of the volume");
        return NULL;
    }
    return g_steal_pointer(&facts);
}
