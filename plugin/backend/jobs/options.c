/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * options.c: what a request may set, and whether the configuration lets it.
 */
#include "jobs.h"

void job_options_free(struct job_options *opts)
{
    if (!opts)
        return;
    g_free(opts->format);
    g_free(opts->accel);
    g_free(opts->memory);
    g_free(opts->undo);
    g_free(opts);
}

bool job_options_are_allowed(const struct job_options *opts, const struct config *cfg)
{
    bool forever = opts->timeout == 0 || (unsigned)MAX(opts->timeout, 0) > cfg->timeout;

    if (opts->accel && g_str_equal(cfg->accel, "kvm") && g_str_equal(opts->accel, "process"))
        vr_error(VIR_ERR_OPERATION_DENIED, "%s", "this host's vol-repair.conf insists on accel = kvm");
    else if (opts->memory && config_memory_bytes(opts->memory) > config_memory_bytes(cfg->memory))
        vr_error(VIR_ERR_OPERATION_DENIED, "this host's vol-repair.conf allows a job memory = %s and no more", cfg->memory);
    else if (opts->timeout >= 0 && cfg->timeout && forever)
        vr_error(VIR_ERR_OPERATION_DENIED, "this host's vol-repair.conf allows timeout = %u and no more", cfg->timeout);
    else
        return true;
    return false;
}
