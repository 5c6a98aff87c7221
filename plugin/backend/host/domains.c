/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * domains.c: whether a running domain has a block device for a disk, or in the backing chain of one. QEMU's locks do not
 * tell: libvirt gives a QEMU device nodes of its own, and a lock belongs to a node.
 */
#include <libxml/parser.h>
#include <libxml/tree.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host.h"

struct search {
    dev_t device;
    bool writers; /* who only reads does not count */
    char *domain; /* that has it; NULL = none */
    bool failed;  /* not all could be looked at */
};

static bool names_device(xmlNodePtr source, const char *attribute, dev_t device)
{
    xmlChar *path = xmlGetNoNsProp(source, BAD_CAST attribute);
    struct stat st;
    bool same = path && stat((const char *)path, &st) == 0 && S_ISBLK(st.st_mode) && st.st_rdev == device;

    xmlFree(path);
    return same;
}

static bool has_child(xmlNodePtr node, const char *name)
{
    for (node = xmlFirstElementChild(node); node; node = xmlNextElementSibling(node))
        if (xmlStrEqual(node->name, BAD_CAST name))
            return true;
    return false;
}

/* A disk that is read-only, and what lies below one. */
static bool is_only_read(xmlNodePtr node)
{
    return xmlStrEqual(node->name, BAD_CAST "backingStore") ||
           (xmlStrEqual(node->name, BAD_CAST "disk") && has_child(node, "readonly"));
}

/* In disks, and in the <backingStore> elements within them. */
static bool uses(xmlNodePtr node, const struct search *s)
{
    for (; node; node = node->next) {
        if (node->type != XML_ELEMENT_NODE || (s->writers && is_only_read(node)))
            continue;
        if (xmlStrEqual(node->name, BAD_CAST "source") &&
            (names_device(node, "dev", s->device) || names_device(node, "file", s->device)))
            return true;
        if (uses(node->children, s))
            return true;
    }
    return false;
}

static bool domain_uses(virDomainPtr domain, const struct search *s)
{
    g_autofree char *xml = virDomainGetXMLDesc(domain, 0);
    xmlDocPtr doc = xml ? xmlReadMemory(xml, strlen(xml), NULL, "UTF-8",
                                        XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING)
                        : NULL;
    bool found = doc && uses(xmlDocGetRootElement(doc)->children, s);

    xmlFreeDoc(doc);
    return found;
}

/*
 * Nobody answers. Without a QEMU driver there are no domains; one that has run since the host was started has left its directory,
 * and its domains live on without it.
 */
static bool may_have_domains(void)
{
    g_autofree char *dir = geteuid() == 0 ? g_strdup("/run/libvirt/qemu")
                                          : g_build_filename(g_get_user_runtime_dir(), "libvirt", "qemu", NULL);
    virErrorPtr err = virGetLastError();

    return !(err && err->code == VIR_ERR_NO_CONNECT) && access(dir, F_OK) == 0;
}

/* In a thread of its own, which acts for the daemon: the caller may not be allowed to see every domain. */
static void *search_domains(void *opaque)
{
    struct search *s = opaque;
    virDomainPtr *domains = NULL;

    identity_become_system();
    virConnectPtr conn = virConnectOpen(geteuid() == 0 ? "qemu:///system" : "qemu:///session");
    int n = conn ? virConnectListAllDomains(conn, &domains, VIR_CONNECT_LIST_DOMAINS_ACTIVE) : 0;

    /* A check does no harm where it cannot be known. */
    s->failed = n < 0 || (!conn && !s->writers && may_have_domains());
    for (int i = 0; i < n; i++) {
        if (!s->domain && domain_uses(domains[i], s))
            s->domain = g_strdup(virDomainGetName(domains[i]));
        virDomainFree(domains[i]);
    }
    free(domains);
    if (conn)
        virConnectClose(conn);
    virResetLastError();
    return NULL;
}

bool domains_user_of(dev_t device, bool writers, char **domain)
{
    struct search s = {.device = device, .writers = writers};
    GThread *thread = g_thread_try_new("vol-repair", search_domains, &s, NULL);

    *domain = NULL;
    if (!thread)
        return false;
    g_thread_join(thread);
    *domain = s.domain;
    return !s.failed;
}
