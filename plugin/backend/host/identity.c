/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * identity.c: who asks, as libvirt has authenticated him, and how our own thread acts for the daemon.
 */
#include <glib-object.h>
#include <string.h>
#include <unistd.h>

#include "host.h"

char *identity_caller(void)
{
    void *identity = lv.identity_current ? lv.identity_current() : NULL;
    const char *text = NULL;
    char *caller = NULL;
    uid_t uid;

    if (!identity)
        return g_strdup("");
    if (lv.identity_uid && lv.identity_uid(identity, &uid) > 0)
        caller = g_strdup_printf("uid:%lu", (unsigned long)uid);
    else if (lv.identity_sasl && lv.identity_sasl(identity, &text) > 0)
        caller = g_strdup_printf("sasl:%s", text);
    else if (lv.identity_x509 && lv.identity_x509(identity, &text) > 0)
        caller = g_strdup_printf("x509:%s", text);
    g_object_unref(identity);
    return caller ? caller : g_strdup("");
}

bool identity_is_trusted(const char *caller)
{
    g_autofree char *daemon = g_strdup_printf("uid:%lu", (unsigned long)geteuid());

    return g_str_equal(caller, "uid:0") || g_str_equal(caller, daemon);
}

bool identity_may_see(const char *caller, const char *owner)
{
    return identity_is_trusted(caller) || (caller[0] && g_str_equal(caller, owner));
}

void identity_become_system(void)
{
    void *identity = lv.identity_system ? lv.identity_system() : NULL;

    if (!identity)
        return;
    if (lv.identity_set_current)
        lv.identity_set_current(identity);
    g_object_unref(identity);
}
