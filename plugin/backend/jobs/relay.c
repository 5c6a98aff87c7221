/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * relay.c: reads what a helper says, keeps the job table up to date, and passes it on to the client.
 *
 * The helper is always read at once, so a client that reads slowly, or not at all, holds up neither the
 * repair nor the daemon: progress that such a client has no room for is left out. Start and report are kept, in a file.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "jobs.h"

/* The report is one line, and may be long. What is taken from it stands in its first part; the rest is only passed on. */
#define LINE_HELD (1024u * 1024)
#define CLIENT_BACKLOG (16u * 1024) /* a client this far behind gets no more progress */

static const char report_start[] = "{\"event\":\"report\",";

struct state {
    struct relay *relay;
    struct helper_result *result;
    GString *in;           /* the helper's unfinished line */
    bool passing;          /* the rest of that line goes to the client as it comes */
    struct spool *rest;    /* what the client has not taken */
    char last_error[1024]; /* last line on standard error */
    bool broken;           /* the helper does not keep to the contract */
    bool client_gone;
    bool started;
};

/* The helper does not know its number; a client that loses us looks for the job by it. */
static void pass_start(struct state *s, const char *line, size_t len)
{
    const struct job *job = s->relay->job;
    g_autofree char *report = job->event_path ? g_path_get_basename(job->event_path) : NULL;

    g_autoptr(GString) text = g_string_new_len(line, len);

    if (len >= 3 && line[len - 2] == '}' && !s->started) {
        g_string_truncate(text, len - 2);
        g_string_append_printf(text, ",\"job\":%u", job->id);
        if (report) {
            g_string_append(text, ",\"report\":");
            json_append_string(text, report);
        }
        g_string_append(text, "}\n");
    }
    spool_add(s->rest, text->str, text->len);
}

static bool listens(const struct state *s)
{
    return s->relay->client_fd >= 0 && !s->client_gone;
}

/* line ends with its newline. */
static void take_line(struct state *s, const char *line, size_t len)
{
    struct relay *relay = s->relay;
    char event[16] = "", phase[16] = "";
    int percent = 0;

    json_find_string(line, len, "event", event, sizeof(event));
    if (g_str_equal(event, "progress")) {
        json_find_string(line, len, "phase", phase, sizeof(phase));
        json_find_int(line, len, "percent", &percent);
        if (g_str_equal(phase, "commit") || g_str_equal(phase, "undo"))
            s->result->may_have_written = true;
        job_progress(relay->job, phase, percent);
        if (relay->on_progress)
            relay->on_progress(relay->opaque, CLAMP(percent, 0, 100));
        if (spool_size(s->rest) > CLIENT_BACKLOG)
            return;
    } else if (g_str_equal(event, "start")) {
        if (listens(s))
            pass_start(s, line, len);
        s->started = true;
        return;
    } else if (g_str_equal(event, "report")) {
        helper_take_report(s->result, line, len);
    }
    if (listens(s))
        spool_add(s->rest, line, len);
}

/* A line that is too long to be held: a report has said by now how the job ended, and anything else is no word of ours. */
static void pass_on(struct state *s)
{
    if (!g_str_has_prefix(s->in->str, report_start)) {
        s->broken = true;
        job_abort(s->relay->job);
    } else if (!s->passing) {
        helper_take_report(s->result, s->in->str, s->in->len);
        s->passing = true;
    }
    if (listens(s) && !s->broken)
        spool_add(s->rest, s->in->str, s->in->len);
    g_string_truncate(s->in, 0);
}

/* Of a line that is passed on: how much of data belongs to it. */
static size_t pass_rest(struct state *s, const char *data, size_t len)
{
    const char *newline = memchr(data, '\n', len);
    size_t part = newline ? (size_t)(newline + 1 - data) : len;

    if (listens(s))
        spool_add(s->rest, data, part);
    s->passing = !newline;
    return part;
}

static void take_output(struct state *s, const char *data, size_t len)
{
    const char *newline;
    size_t part = s->passing ? pass_rest(s, data, len) : 0, from = s->in->len, done = 0;

    if (s->broken)
        return;
    data += part;
    len -= part;
    g_string_append_len(s->in, data, len);
    while ((newline = memchr(s->in->str + from, '\n', s->in->len - from))) {
        size_t end = newline + 1 - s->in->str;

        take_line(s, s->in->str + done, end - done);
        done = from = end;
    }
    g_string_erase(s->in, 0, done);
    if (s->in->len > LINE_HELD)
        pass_on(s);
}

/* Keeps the last whole line, without the program's prefix. */
static void take_error_output(struct state *s, char *data)
{
    char *line = g_strchomp(data), *newline = strrchr(line, '\n');

    if (newline)
        line = newline + 1;
    if (g_str_has_prefix(line, "vol-repair: "))
        line += strlen("vol-repair: ");
    if (line[0])
        g_strlcpy(s->last_error, line, sizeof(s->last_error));
}

/* False at the end of the file. */
static bool read_helper(struct state *s, int fd, bool is_error)
{
    char buffer[64 * 1024];
    ssize_t n = read(fd, buffer, sizeof(buffer) - 1);

    if (n < 0)
        return errno == EINTR || errno == EAGAIN;
    if (n == 0)
        return false;
    buffer[n] = '\0';
    if (is_error)
        take_error_output(s, buffer);
    else
        take_output(s, buffer, n);
    return true;
}

/* The reading end of the client's pipe is closed when its stream ends, however that comes about. */
static bool serve_client(int fd, struct spool *rest, short events)
{
    if (events & (POLLERR | POLLHUP | POLLNVAL))
        return false;
    return !(events & POLLOUT) || spool_write(rest, fd);
}

static void explain_death(struct state *s)
{
    struct helper_result *r = s->result;

    g_strlcpy(r->verdict, "failed", sizeof(r->verdict));
    if (s->last_error[0])
        g_strlcpy(r->error, s->last_error, sizeof(r->error));
    else if (WIFSIGNALED(r->status))
        snprintf(r->error, sizeof(r->error), "the repair program was killed by signal %d", WTERMSIG(r->status));
    else
        snprintf(r->error, sizeof(r->error), "the repair program ended with status %d and no report",
                 WEXITSTATUS(r->status));
    r->never_began = !s->started;
    r->image_changed = r->may_have_written;
}

static void pump(struct state *s)
{
    struct relay *relay = s->relay;
    struct pollfd fds[3] = {
        {.fd = relay->helper.out, .events = POLLIN},
        {.fd = relay->helper.err, .events = POLLIN},
        {.fd = relay->client_fd},
    };

    while (fds[0].fd >= 0) {
        fds[2].events = spool_size(s->rest) ? POLLOUT : 0;
        if (poll(fds, 3, -1) < 0)
            continue;
        if (fds[1].revents && !read_helper(s, fds[1].fd, true))
            fds[1].fd = -1;
        if (fds[0].revents && !read_helper(s, fds[0].fd, false))
            fds[0].fd = -1;
        if (fds[2].revents && !serve_client(fds[2].fd, s->rest, fds[2].revents)) {
            s->client_gone = true;
            fds[2].fd = -1;
            job_abort(relay->job);
        }
    }
    /* What is left of the error output is short and there already: the program has closed both. */
    fcntl(relay->helper.err, F_SETFL, O_NONBLOCK);
    if (fds[1].fd >= 0)
        read_helper(s, fds[1].fd, true);
}

void relay_run(struct relay *relay, struct helper_result *result, struct spool *rest)
{
    struct state s = {.relay = relay, .result = result, .in = g_string_new(NULL), .rest = rest};

    memset(result, 0, sizeof(*result));
    fcntl(relay->helper.out, F_SETFL, O_NONBLOCK);
    if (relay->client_fd >= 0)
        fcntl(relay->client_fd, F_SETFL, O_NONBLOCK);
    pump(&s);
    result->status = job_reap(relay->job);
    close(relay->helper.out);
    close(relay->helper.err);
    if (!result->reported)
        explain_death(&s);
    g_string_free(s.in, TRUE);
    if (s.client_gone) {
        close(relay->client_fd);
        relay->client_fd = -1;
    }
}

void relay_drain(struct relay *relay, struct spool *rest)
{
    struct pollfd fd = {.fd = relay->client_fd, .events = POLLOUT};
    int patience = relay->job->patience ? (int)relay->job->patience * 1000 : -1;

    if (relay->client_fd < 0)
        return;
    while (spool_size(rest) > 0) {
        int n = poll(&fd, 1, patience);

        if (n == 0)
            vr_log("job %u: its client took nothing of the report for %u seconds, and gets no more of it", relay->job->id,
                   relay->job->patience);
        if (n == 0 || (n > 0 && !serve_client(fd.fd, rest, fd.revents)))
            break;
    }
    close(relay->client_fd);
    relay->client_fd = -1;
}
