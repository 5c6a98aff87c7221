/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* accel.c: the front's part in what the guest runs in: opens /dev/kvm, and says why where there will be no VM. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"

#define DEVICE "/dev/kvm"

/* What to say of an error of open(): who may not open it is told which group may. */
static char *why_not_open(int err)
{
    const struct group *group = NULL;
    struct stat st;

    if ((err == EACCES || err == EPERM) && stat(DEVICE, &st) == 0 && (st.st_mode & 0060) == 0060)
        group = getgrgid(st.st_gid);
    if (group)
        return g_strdup_printf("%s (the group '%s' may use it)", g_strerror(err), group->gr_name);
    return g_strdup(g_strerror(err));
}

/* Opens /dev/kvm. NULL, or why there will be no VM. */
static char *open_kvm(struct vmm_config *cfg)
{
    g_autofree char *why = NULL;

    if (!VR_KVM_GUEST)
        return g_strdup("This build has no KVM guest for the processor " VR_CPU);
    cfg->kvm_fd = open(DEVICE, O_RDWR | O_CLOEXEC);
    if (cfg->kvm_fd >= 0)
        return NULL;
    why = why_not_open(errno);
    return g_strdup_printf("Could not open '" DEVICE "': %s", why);
}

bool accel_open(struct result *res, struct vmm_config *cfg, GError **error)
{
    char *why;

    cfg->accel = res->opt->accel;
    if (cfg->accel == VMM_ACCEL_PROCESS) {
        res->accel_reason = g_strdup("asked for");
        return true;
    }
    why = open_kvm(cfg);
    if (!why)
        return true;
    if (cfg->accel == VMM_ACCEL_KVM) {
        g_set_error(error, VR_ERROR, VR_ERROR_FAILED, "%s; --accel=auto or --accel=process works without KVM", why);
        g_free(why);
        return false;
    }
    cfg->accel = VMM_ACCEL_PROCESS;
    accel_fell_back(res, why);
    return true;
}

void accel_fell_back(struct result *res, char *reason)
{
    const struct options *opt = res->opt;

    res->accel_reason = reason;
    if (!opt->quiet && !opt->stream && isatty(STDERR_FILENO))
        fprintf(stderr, "%s: no KVM here, a sandboxed process reads the image instead: %s\n", g_get_prgname(), reason);
}
