/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * symbols.c: finds libvirt's private functions by name, so that no version of libvirt is linked against.
 */
#include <dlfcn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <syslog.h>

#include "backend.h"

struct libvirt_symbols lv;

static const struct {
    const char *name;
    size_t at;
    bool required;
} wanted[] = {
    {"virReportErrorHelper", offsetof(struct libvirt_symbols, report_error), true},
    {"virStorageBackendForType", offsetof(struct libvirt_symbols, backend_for_type), true},
    {"virStoragePoolTypeFromString", offsetof(struct libvirt_symbols, pool_type_from_string), true},
    {"virStoragePoolObjGetDef", offsetof(struct libvirt_symbols, pool_get_def), true},
    {"virStoragePoolDefFormat", offsetof(struct libvirt_symbols, pool_def_format), true},
    {"virStorageVolDefFormat", offsetof(struct libvirt_symbols, vol_def_format), true},
    {"virFDStreamOpen", offsetof(struct libvirt_symbols, fd_stream_open), true},
    {"virObjectLock", offsetof(struct libvirt_symbols, object_lock), false},
    {"virObjectUnlock", offsetof(struct libvirt_symbols, object_unlock), false},
    {"virIdentityGetCurrent", offsetof(struct libvirt_symbols, identity_current), false},
    {"virIdentityGetSystem", offsetof(struct libvirt_symbols, identity_system), false},
    {"virIdentitySetCurrent", offsetof(struct libvirt_symbols, identity_set_current), false},
    {"virIdentityGetUNIXUserID", offsetof(struct libvirt_symbols, identity_uid), false},
    {"virIdentityGetSASLUserName", offsetof(struct libvirt_symbols, identity_sasl), false},
    {"virIdentityGetX509DName", offsetof(struct libvirt_symbols, identity_x509), false},
};

bool symbols_load(const char **missing)
{
    for (size_t i = 0; i < G_N_ELEMENTS(wanted); i++) {
        void *sym = dlsym(RTLD_DEFAULT, wanted[i].name);

        if (!sym && wanted[i].required) {
            *missing = wanted[i].name;
            return false;
        }
        *(void **)((char *)&lv + wanted[i].at) = sym;
    }
    return true;
}

static __thread char last_line[1024];

const char *vr_log_last(void)
{
    return last_line;
}

void vr_log(const char *fmt, ...)
{
    char text[1024];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    g_strlcpy(last_line, text, sizeof(last_line));
    if (lv.report_error) {
        /* libvirt's own log is where people look, and the only log of a session daemon. */
        lv.report_error(VIR_FROM_STORAGE, VIR_ERR_INTERNAL_ERROR, __FILE__, __func__, __LINE__, "vol-repair: %s", text);
        virResetLastError();
        return;
    }
    fprintf(stderr, "vol-repair: %s\n", text);
    syslog(LOG_DAEMON | LOG_WARNING, "vol-repair: %s", text);
}
