/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* supervise.c: starts the VMM child, listens to it, passes on the wish to stop, and reaps it. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli.h"
#include "test_hooks.h"

struct run {
    struct frames frames;
    struct progress *progress;
    const struct image *img;
    pid_t pid;
    int msg_fd, ctl_fd, signal_fd;
    bool asked_to_stop;
    size_t fill;
    union {
        struct vmm_msg head;
        uint8_t bytes[sizeof(struct vmm_msg) + VMM_MSG_MAX];
    } buf;
};

static bool failed(GError **error, const char *what)
{
    g_set_error(error, VR_ERROR, VR_ERROR_FAILED, "Could not %s: %s", what, g_strerror(errno));
    return false;
}

/* ---- signals ---------------------------------------------------------------------------------------- */

static const int stop_signals[] = {SIGINT, SIGTERM, SIGHUP};

static void stop_set(sigset_t *set)
{
    sigemptyset(set);
    for (size_t i = 0; i < G_N_ELEMENTS(stop_signals); i++)
        sigaddset(set, stop_signals[i]);
}

void signals_block(void)
{
    sigset_t set;

    stop_set(&set);
    sigprocmask(SIG_BLOCK, &set, NULL);
}

/* A descriptor that becomes readable with them. */
static int signals_open(void)
{
    sigset_t set;

    signal(SIGPIPE, SIG_IGN);
    signals_block();
    stop_set(&set);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* The child is told to stop through its pipe alone: a Ctrl-C of the terminal must not cut its commit. */
static void child_signals(void)
{
    sigset_t set;

    for (size_t i = 0; i < G_N_ELEMENTS(stop_signals); i++)
        signal(stop_signals[i], SIG_IGN);
    stop_set(&set);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
}

/* ---- starting ---------------------------------------------------------------------------------------- */

static bool open_resources(struct result *res, struct vmm_config *cfg, const struct undofile *uf, GError **error)
{
    if (!accel_open(res, cfg, error))
        return false;
    if (uf) {
        cfg->journal_fd = uf->fd;
        cfg->journal_max = uf->room;
        cfg->overlay_fd = overlay_open(uf->path);
        if (cfg->overlay_fd < 0)
            return failed(error, "open a file for the planned changes");
    }
    return true;
}

static struct vmm_config make_config(const struct options *opt, const struct image *img, bool interrupted)
{
    struct vmm_config cfg = {
        .mode = (enum vr_mode)opt->mode,
        .image_fd = img->fd,
        .kvm_fd = -1,
        .overlay_fd = -1,
        .journal_fd = -1,
        .msg_fd = -1,
        .ctl_fd = -1,
        .image_size = img->size,
        .image_is_device = img->is_device,
        .force_leaks = opt->force_leaks,
        .data_file = opt->data_file,
        /* What is to be rolled back first says nothing of what a repair would do. */
        .would = options_wants_report(opt) && !interrupted,
        .memory = opt->memory,
        .timeout = opt->timeout,
        /* One at least: the record of a refusal is the error message. */
        .examples = MAX(opt->examples, 1),
    };

    g_strlcpy(cfg.image_name, img->real_path, sizeof(cfg.image_name));
    g_strlcpy(cfg.image_identity, img->identity, sizeof(cfg.image_identity));
    return cfg;
}

static bool spawn(struct run *run, struct vmm_config *cfg, GError **error)
{
    int msg[2], ctl[2];

    if (pipe2(msg, O_CLOEXEC) < 0)
        return failed(error, "make a pipe");
    if (pipe2(ctl, O_CLOEXEC) < 0) {
        close(msg[0]);
        close(msg[1]);
        return failed(error, "make a pipe");
    }
    run->msg_fd = msg[0];
    run->ctl_fd = ctl[1];
    cfg->msg_fd = msg[1];
    cfg->ctl_fd = ctl[0];
    fflush(NULL);
    run->pid = fork();
    if (run->pid == 0) {
        close(run->msg_fd);
        close(run->ctl_fd);
        close(run->signal_fd);
        child_signals();
        vmm_child(cfg);
    }
    close(msg[1]);
    close(ctl[0]);
    return run->pid > 0 || failed(error, "start the VMM");
}

/* ---- listening ---------------------------------------------------------------------------------------- */

static void ask_to_stop(struct run *run)
{
    if (!run->asked_to_stop && write(run->ctl_fd, "q", 1) < 0 && errno == EAGAIN)
        return;
    run->asked_to_stop = true;
}

static void on_progress(void *opaque, enum vr_walk walk, enum vr_pass pass, double part)
{
    static const char *const phases[] = {
        [VR_WALK_CHECK] = "check", [VR_WALK_VERIFY] = "verify", [VR_WALK_FINAL] = "final"};
    const struct pass_words *words = &pass_words[pass];
    struct run *run = opaque;

    progress_update(run->progress, phases[walk], words->name, (words->begins + (words[1].begins - words->begins) * part) / 100);
}

static void on_commit(void *opaque, bool ended)
{
    struct run *run = opaque;

    progress_update(run->progress, "commit", NULL, ended ? 1.0 : 0.0);
}

/*
 * The run may have taken long, and who opens a device asks nobody: so it is looked again, as late as can be. What opens the image
 * after this is past all help.
 */
static void on_ready(void *opaque)
{
    static const char go = VMM_CTL_COMMIT;
    struct run *run = opaque;
    struct result *res = run->frames.res;
    g_autoptr(GError) busy = NULL;

    if (!in_use_test(run->img, false, options_shown_name(res->opt), &busy))
        res->in_use = g_strdup(busy->message);
    if (res->in_use || write(run->ctl_fd, &go, 1) != 1)
        ask_to_stop(run);
}

/* Takes whole frames off the buffer. */
static bool take_frames(struct run *run, GError **error)
{
    for (;;) {
        struct vmm_msg head;
        size_t whole;

        if (run->fill < sizeof(head))
            return true;
        memcpy(&head, run->buf.bytes, sizeof(head));
        if (head.len > VMM_MSG_MAX) {
            g_set_error(error, VR_ERROR, VR_ERROR_FAILED, "The repairer broke its protocol (frame too long)");
            return false;
        }
        whole = sizeof(head) + head.len;
        if (run->fill < whole)
            return true;
        if (!frames_take(&run->frames, &head, run->buf.bytes + sizeof(head), error))
            return false;
        run->fill -= whole;
        memmove(run->buf.bytes, run->buf.bytes + whole, run->fill);
    }
}

/* One read; *eof at the end of the pipe. */
static bool read_some(struct run *run, bool *eof, GError **error)
{
    ssize_t n = read(run->msg_fd, run->buf.bytes + run->fill, sizeof(run->buf) - run->fill);

    if (n < 0)
        return errno == EINTR || failed(error, "listen to the VMM");
    *eof = n == 0;
    run->fill += (size_t)n;
    return take_frames(run, error);
}

static bool listen_to_child(struct run *run, GError **error)
{
    bool eof = false;

    while (!eof) {
        struct pollfd fds[] = {{.fd = run->msg_fd, .events = POLLIN}, {.fd = run->signal_fd, .events = POLLIN}};
        struct signalfd_siginfo info;

        if (poll(fds, G_N_ELEMENTS(fds), -1) < 0 && errno != EINTR)
            return failed(error, "listen to the VMM");
        if (fds[1].revents && read(run->signal_fd, &info, sizeof(info)) == sizeof(info))
            ask_to_stop(run);
        if (fds[0].revents && !read_some(run, &eof, error))
            return false;
        if (run->progress->broken)
            ask_to_stop(run);
    }
    if (run->fill) {
        g_set_error(error, VR_ERROR, VR_ERROR_FAILED, "The repairer broke its protocol (half a frame)");
        return false;
    }
    return true;
}

/* ---- the end --------------------------------------------------------------------------------------------- */

static bool reap(struct run *run, bool listened, GError **error)
{
    const struct result *res = run->frames.res;
    int status = 0;

    if (!listened)
        kill(run->pid, SIGKILL);
    while (waitpid(run->pid, &status, 0) < 0) {
        if (errno != EINTR)
            return listened && failed(error, "wait for the VMM");
    }
    if (!listened)
        return false;
    if (WIFEXITED(status) && ((res->have_summary && WEXITSTATUS(status) == 0) ||
                              (res->have_fail && WEXITSTATUS(status) == 1)))
        return true;
    if (WIFSIGNALED(status))
        hook_child_died();
    if (WIFSIGNALED(status))
        g_set_error(error, VR_ERROR, VR_ERROR_FAILED, "The VMM died (signal %d)", WTERMSIG(status));
    else
        g_set_error(error, VR_ERROR, VR_ERROR_FAILED, "The VMM died (exit status %d)", WEXITSTATUS(status));
    return false;
}

static void close_run(struct run *run, const struct vmm_config *cfg)
{
    int fds[] = {run->msg_fd, run->ctl_fd, run->signal_fd, cfg->kvm_fd, cfg->overlay_fd};

    for (size_t i = 0; i < G_N_ELEMENTS(fds); i++) {
        if (fds[i] >= 0)
            close(fds[i]);
    }
    g_free(run);
}

bool supervise_run(struct result *res, const struct image *img, struct undofile *uf, struct progress *pr, GError **error)
{
    struct vmm_config cfg = make_config(res->opt, img, result_is_interrupted(res));
    struct run *run = g_new0(struct run, 1);
    bool ok = false;

    run->frames = (struct frames){.res = res,
                                  .first = true,
                                  .repair = options_is_repair(res->opt),
                                  .progress = on_progress,
                                  .commit = on_commit,
                                  .ready = on_ready,
                                  .opaque = run};
    run->progress = pr;
    run->img = img;
    run->msg_fd = run->ctl_fd = -1;
    run->signal_fd = signals_open();
    if (run->signal_fd < 0) {
        failed(error, "watch for signals");
    } else if (user_choose(res->opt->user, &cfg, error) && open_resources(res, &cfg, uf, error) && spawn(run, &cfg, error)) {
        res->ran = true;
        ok = listen_to_child(run, error);
        ok = reap(run, ok, error);
    }
    close_run(run, &cfg);
    return ok;
}
