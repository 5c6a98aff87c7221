/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* client.h: what the files of the client library share. Not installed. */
#ifndef VOL_REPAIR_CLIENT_PRIVATE_H
#define VOL_REPAIR_CLIENT_PRIVATE_H

#include <stdbool.h>

#include <stdlib.h>

#include <json-glib/json-glib.h>

#include "vol-repair-client.h"

#define CLIENT_LINE_MAX (64u * 1024)          /* bytes, without the newline */
#define CLIENT_REPORT_MAX (64u * 1024 * 1024) /* bytes of the one line that may be longer */
#define CLIENT_ANSWER_MAX (4u * 1024 * 1024)  /* bytes of an answer of the control entry point */
#define CLIENT_DEPTH_MAX 32                   /* nested objects and arrays: a JSON parser recurses */
#define CLIENT_VALUES_MAX 4000000u            /* of a JSON text: each takes some hundred bytes of memory */

#define client_error(error, code, ...) g_set_error(error, VOL_REPAIR_ERROR, VOL_REPAIR_ERROR_##code, __VA_ARGS__)

/* ---- names.c ---- */

/* Index of name in a NULL-terminated list; -1 where it is not in it. */
int client_find_name(const char *const *names, const char *name);
extern const char *const client_mode_names[];
extern const char *const client_verdict_names[];

/* ---- requests.c: what goes over virConnectFindStoragePoolSources ---- */

/* Sends a request and returns the answer. Frees nothing of the caller's. */
char *client_control(virConnectPtr conn, const char *request, GError **error);
/* libvirt's last error as ours. */
void client_libvirt_error(GError **error, const char *what);
/* Leaves an option set with the daemon; its token, or 0 on error. */
guint64 client_send_options(virConnectPtr conn, const struct vol_repair_options *opts, GError **error);

/* ---- replies.c: pure functions on XML of any origin ---- */

char *client_options_xml(const struct vol_repair_options *opts);
struct vol_repair_capabilities *client_parse_capabilities(const char *xml, GError **error);
/* Of libvirt's definition of a pool; NULL where it is none. */
char *client_parse_pool_type(const char *xml);
GPtrArray *client_parse_jobs(const char *xml, GError **error);
guint64 client_parse_token(const char *xml, GError **error);
bool client_parse_abort(const char *xml, unsigned id, gboolean *sent, GError **error);

/* ---- stream_parser.c: the state machine of one job's stream ---- */

struct client_lines {
    enum vol_repair_mode mode; /* of the request */
    vol_repair_progress_fn progress;
    void *opaque;
    GString *partial; /* the unfinished line */
    bool started;
    bool writes; /* the last phase heard of is one in which the image is written to */
    guint64 job; /* the daemon's number; 0 = not known */
    char *report_name;
    unsigned percent;
    struct vol_repair_report *report; /* once it is there, all is said */
};

void client_lines_init(struct client_lines *lines, enum vol_repair_mode mode, vol_repair_progress_fn progress,
                       void *opaque);
void client_lines_clear(struct client_lines *lines);
/* Takes bytes as they come. FALSE: they break the contract; the job must not be listened to any more. */
bool client_lines_push(struct client_lines *lines, const char *data, size_t len, GError **error);
/* Where the connection breaks: what is known of the job, as the end of a sentence. */
char *client_lines_fate(const struct client_lines *lines);
/* At the end of the stream: the report, which is the caller's from now on. */
struct vol_repair_report *client_lines_end(struct client_lines *lines, GError **error);

/* ---- report.c ---- */

/* Parses JSON text of any origin: an object, UTF-8, not too deep. */
JsonNode *client_parse_json(const char *text, size_t len, GError **error);
/* Checks the report of a job of this mode. */
struct vol_repair_report *client_parse_report(JsonNode *node, enum vol_repair_mode mode, GError **error);
/* Members of objects: FALSE where they are there, but of another type (or negative, or not among the words). */
bool client_get_string(JsonObject *object, const char *name, const char **value);
bool client_get_count(JsonObject *object, const char *name, gint64 *value);

#endif
