/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libvirt.c: libvirt's private functions, as hook/symbols.c has found them, and lines for the daemon's log.
 */
#include <stdarg.h>
#include <stdio.h>
#include <syslog.h>

#include "host.h"

struct libvirt_symbols lv;

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
