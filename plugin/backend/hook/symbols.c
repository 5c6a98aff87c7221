/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * symbols.c: finds libvirt's private functions by name, so that no version of libvirt is linked against.
 */
#include <dlfcn.h>
#include <stddef.h>

#include "hook.h"

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
