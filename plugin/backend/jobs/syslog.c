/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * syslog.c: what an administrator looks for afterwards: an entry in the system's log when the extension is loaded, and
 * when a job starts and ends.
 *
 * With journald the facts are fields of the entry; elsewhere they stand behind the sentence as key="value". Names come
 * from callers and from files, so in either form they hold nothing but printable characters.
 */
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#if HAVE_SYSTEMD
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>
#endif

#include "jobs.h"

#define JOURNAL_SOCKET "/run/systemd/journal/socket"
#define VALUE_MAX 2048 /* bytes of one value, of a path for instance */

/* Of each kind of entry, for ever: docs/libvirt.md names them. */
#define ID_LOADED "9676e6c1266b426fb5f916ac64fa57ac"
#define ID_STARTED "101db182bd7249528d2077d294030816"
#define ID_ENDED "8e0059778d6743c59c7b68dc3da6a9c2"

/* Printable UTF-8 as it is; the bytes of anything else as \xHH, and a backslash doubled. */
char *syslog_escape(const char *text)
{
    GString *out = g_string_new(NULL);

    while (*text && out->len < VALUE_MAX) {
        gunichar c = g_utf8_get_char_validated(text, -1);
        bool valid = c != (gunichar)-1 && c != (gunichar)-2;
        int len = valid ? g_utf8_skip[(unsigned char)*text] : 1;
        bool plain = valid && g_unichar_isprint(c) && g_unichar_type(c) != G_UNICODE_FORMAT;

        if (*text == '\\')
            g_string_append(out, "\\\\");
        else if (plain)
            g_string_append_len(out, text, len);
        else
            for (int i = 0; i < len; i++)
                g_string_append_printf(out, "\\x%02x", (unsigned char)text[i]);
        text += len;
    }
    if (*text)
        g_string_append(out, "...");
    return g_string_free(out, FALSE);
}

/* ---- an entry ---- */

struct entry {
    int priority;
    const char *id;
    GPtrArray *names, *values; /* names: static strings */
};

static void entry_init(struct entry *e, int priority, const char *id)
{
    *e = (struct entry){.priority = priority, .id = id, .names = g_ptr_array_new()};
    e->values = g_ptr_array_new_with_free_func(g_free);
}

/* value: may be NULL or empty, and is left out then. */
static void add(struct entry *e, const char *name, const char *value)
{
    if (!value || !value[0])
        return;
    g_ptr_array_add(e->names, (void *)name);
    g_ptr_array_add(e->values, syslog_escape(value));
}

static void add_number(struct entry *e, const char *name, gint64 value)
{
    g_ptr_array_add(e->names, (void *)name);
    g_ptr_array_add(e->values, g_strdup_printf("%" G_GINT64_FORMAT, value));
}

#if HAVE_SYSTEMD
static bool send_to_journal(const struct entry *e, const char *message)
{
    g_autoptr(GPtrArray) lines = g_ptr_array_new_with_free_func(g_free);
    g_autofree struct iovec *iov = NULL;

    /* Without journald the library drops the entry, and calls that a success. */
    if (access(JOURNAL_SOCKET, W_OK) < 0)
        return false;
    g_ptr_array_add(lines, g_strconcat("MESSAGE=", message, NULL));
    g_ptr_array_add(lines, g_strconcat("MESSAGE_ID=", e->id, NULL));
    g_ptr_array_add(lines, g_strdup_printf("PRIORITY=%d", e->priority));
    g_ptr_array_add(lines, g_strdup("SYSLOG_IDENTIFIER=vol-repair"));
    for (unsigned i = 0; i < e->names->len; i++) {
        g_autofree char *name = g_ascii_strup(g_ptr_array_index(e->names, i), -1);

        g_strdelimit(name, "-", '_');
        g_ptr_array_add(lines, g_strdup_printf("VOL_REPAIR_%s=%s", name, (char *)g_ptr_array_index(e->values, i)));
    }
    iov = g_new0(struct iovec, lines->len);
    for (unsigned i = 0; i < lines->len; i++)
        iov[i] = (struct iovec){g_ptr_array_index(lines, i), strlen(g_ptr_array_index(lines, i))};
    return sd_journal_sendv(iov, lines->len) == 0;
}
#else
static bool send_to_journal(const struct entry *e G_GNUC_UNUSED, const char *message G_GNUC_UNUSED)
{
    return false;
}
#endif

static void send_to_syslog(const struct entry *e, const char *message)
{
    g_autoptr(GString) line = g_string_new(message);

    g_string_append_printf(line, " [id=%s", e->id);
    for (unsigned i = 0; i < e->names->len; i++) {
        g_auto(GStrv) parts = g_strsplit(g_ptr_array_index(e->values, i), "\"", -1);
        g_autofree char *quoted = g_strjoinv("\\\"", parts);

        g_string_append_printf(line, " %s=\"%s\"", (char *)g_ptr_array_index(e->names, i), quoted);
    }
    syslog(LOG_DAEMON | e->priority, "vol-repair: %s]", line->str);
}

/* Sends the entry, and frees what it holds. */
static void entry_send(struct entry *e, const char *message)
{
    if (!send_to_journal(e, message))
        send_to_syslog(e, message);
    g_ptr_array_unref(e->names);
    g_ptr_array_unref(e->values);
}

/* ---- the entries there are ---- */

void syslog_loaded(const char *off)
{
    unsigned long version = 0;
    g_autofree char *libvirt = NULL, *message = NULL, *why = syslog_escape(off ? off : "");
    struct entry e;

    virGetVersion(&version, NULL, NULL);
    libvirt = g_strdup_printf("%lu.%lu.%lu", version / 1000000, version / 1000 % 1000, version % 1000);
    entry_init(&e, off ? LOG_WARNING : LOG_NOTICE, ID_LOADED);
    add(&e, "state", off ? "off" : "on");
    add(&e, "reason", off);
    add(&e, "version", VR_VERSION);
    add(&e, "libvirt", libvirt);
    if (off)
        message = g_strdup_printf("vol-repair " VR_VERSION " does nothing in libvirt %s: %s", libvirt, why);
    else
        message = g_strdup_printf("vol-repair " VR_VERSION " is in use in libvirt %s", libvirt);
    entry_send(&e, message);
}

static void add_job(struct entry *e, const struct job *job)
{
    add_number(e, "job", job->id);
    add(e, "mode", job_mode_name[job->mode]);
    add(e, "door", job->create_from ? "create" : "stream");
    add(e, "owner", job->owner);
    add(e, "pool", job->pool);
    add(e, "volume", job->volume);
    add(e, "path", job->path);
}

/* "job 7, all of 'disk.qcow2' for uid:0" */
static char *describe(const struct job *job)
{
    g_autofree char *volume = syslog_escape(job->volume), *owner = syslog_escape(job->owner);

    return g_strdup_printf("job %u, %s of '%s' for %s,", job->id, job_mode_name[job->mode], volume,
                           owner[0] ? owner : "a caller without a name");
}

void syslog_job_started(const struct job *job, pid_t pid)
{
    g_autofree char *what = describe(job), *message = g_strconcat(what, " has started", NULL);
    struct entry e;

    entry_init(&e, LOG_NOTICE, ID_STARTED);
    add_job(&e, job);
    add_number(&e, "pid", pid);
    entry_send(&e, message);
}

void syslog_job_ended(const struct job *job, const struct helper_result *result)
{
    g_autofree char *what = describe(job), *error = syslog_escape(result->error);
    g_autofree char *message =
        g_strdup_printf("%s has ended: %s%s%s", what, result->verdict, error[0] ? ": " : "", error);
    bool bad = g_str_equal(result->verdict, "failed") || g_str_equal(result->verdict, "refused") ||
               g_str_equal(result->verdict, "blocked");
    struct entry e;

    entry_init(&e, bad ? LOG_WARNING : LOG_NOTICE, ID_ENDED);
    add_job(&e, job);
    add(&e, "verdict", result->verdict);
    add_number(&e, "exit-code", job->exit_code);
    add(&e, "error", result->error);
    add(&e, "image-changed", result->image_changed ? "yes" : "no");
    add(&e, "undo", result->undo);
    add(&e, "report", job->report_path ? job->report_path : job->event_path);
    add_number(&e, "seconds", g_get_real_time() / G_USEC_PER_SEC - job->started);
    entry_send(&e, message);
}
