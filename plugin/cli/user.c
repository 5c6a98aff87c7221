/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* user.c: whom the VMM runs as where root starts it. */
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

#define NOBODY 65534u /* not looked up: a user database takes a while to answer */

static bool find_user(const char *name, struct vmm_config *cfg)
{
    const struct passwd *user = getpwnam(name);
    uint64_t number;

    if (user) {
        cfg->uid = user->pw_uid;
        cfg->gid = user->pw_gid;
        return true;
    }
    if (!number_parse(name, 1, UINT32_MAX - 1, &number))
        return false;
    cfg->uid = cfg->gid = (uint32_t)number;
    return true;
}

static bool find_group(const char *name, struct vmm_config *cfg)
{
    const struct group *group = getgrnam(name);
    uint64_t number;

    if (!group && !number_parse(name, 1, UINT32_MAX - 1, &number))
        return false;
    cfg->gid = group ? group->gr_gid : (uint32_t)number;
    return true;
}

bool user_choose(const char *text, struct vmm_config *cfg, GError **error)
{
    g_auto(GStrv) parts = text ? g_strsplit(text, ":", 2) : NULL;

    if (geteuid() != 0)
        return true;
    if (!text)
        cfg->uid = cfg->gid = NOBODY;
    if (!text || (find_user(parts[0], cfg) && (!parts[1] || find_group(parts[1], cfg)) && cfg->uid != 0))
        return true;
    g_set_error(error, VR_ERROR, VR_ERROR_USAGE,
                "--user expects a user other than root, and perhaps :GROUP, not '%s'", text);
    return false;
}
