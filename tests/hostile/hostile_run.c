/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* hostile_run.c: runs one hostile guest in a real VMM child, prints the frames that it sends, one a line. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cases.h"
#include "patience.h"
#include "undo.h"
#include "vmm_proto.h"
#include "vr_records.h"

#define NAME(name) #name,
static const char *const names[] = {HOSTILE_CASES(NAME)};
#undef NAME
#define NAMES (sizeof(names) / sizeof(names[0]))
#define DEADLINE 60 /* seconds on an idle machine */
#define NOBODY   65534u /* whom a child of root's runs as */

struct setup {
    const char *image, *guest;
    const char *broken; /* what does not do what it has to: image, journal, overlay, size; or NULL */
    uint32_t number;
    enum vr_mode mode;
    unsigned timeout, abort_after; /* seconds; 0 = never */
    uint64_t memory;
    bool device, hang_up, undo;
};

static void die(const char *what)
{
    fprintf(stderr, "hostile_run: %s: %s\n", what, strerror(errno));
    exit(2);
}

static uint32_t number_of(const char *name)
{
    for (uint32_t i = 0; i < NAMES; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    errno = ENOENT;
    die(name);
    return 0;
}

static void *read_file(const char *path, uint64_t *size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        die(path);
    *size = (uint64_t)st.st_size;
    uint8_t *bytes = malloc(*size ? *size : 1);
    if (!bytes || read(fd, bytes, *size) != (ssize_t)*size)
        die(path);
    close(fd);
    return bytes;
}

/* The same file, only to be read. */
static void make_read_only(int *fd)
{
    char path[64];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", *fd);
    int read_only = open(path, O_RDONLY | O_CLOEXEC);
    if (read_only < 0)
        die(path);
    close(*fd);
    *fd = read_only;
}

static void break_one(struct vmm_config *cfg, const char *what)
{
    if (strcmp(what, "image") == 0)
        make_read_only(&cfg->image_fd);
    else if (strcmp(what, "journal") == 0)
        make_read_only(&cfg->journal_fd);
    else if (strcmp(what, "overlay") == 0)
        make_read_only(&cfg->overlay_fd);
    else if (strcmp(what, "size") == 0)
        cfg->image_size -= VR_PAGE_SIZE;
    else
        die(what);
}

static void configure(struct vmm_config *cfg, const struct setup *s)
{
    struct stat st;

    *cfg = (struct vmm_config){.mode = s->mode, .accel = VMM_ACCEL_KVM, .uid = geteuid() == 0 ? NOBODY : 0, .gid = NOBODY, .overlay_fd = -1, .journal_fd = -1,
                               .image_is_device = s->device, .memory = s->memory, .timeout = s->timeout,
                               .examples = s->number, .image_name = "hostile"};
    cfg->image_fd = open(s->image, (s->mode == VR_MODE_CHECK ? O_RDONLY : O_RDWR) | O_CLOEXEC);
    if (cfg->image_fd < 0 || fstat(cfg->image_fd, &st) < 0)
        die(s->image);
    cfg->image_size = (uint64_t)st.st_size;
    cfg->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (cfg->kvm_fd < 0)
        die("/dev/kvm");
    if (s->mode != VR_MODE_CHECK) {
        cfg->overlay_fd = memfd_create("overlay", MFD_CLOEXEC);
        cfg->journal_fd = memfd_create("journal", MFD_CLOEXEC);
        if (cfg->overlay_fd < 0 || cfg->journal_fd < 0)
            die("memfd_create");
    }
    if (s->broken)
        break_one(cfg, s->broken);
    cfg->guest_elf = read_file(s->guest, &cfg->guest_elf_size);
}

/* ---- frames ------------------------------------------------------------------------------------------------------ */

static bool read_all(int fd, void *to, size_t len)
{
    uint8_t *p = to;

    while (len > 0) {
        ssize_t n = read(fd, p, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        p += n;
        len -= (size_t)n;
    }
    return true;
}

static uint64_t records;

static int orders = -1; /* write end of the VMM's control pipe */

static void show(const struct vmm_msg *m, const void *body)
{
    static const char go = VMM_CTL_COMMIT;
    const struct vr_record *r = body;
    const struct vmm_progress *p = body;
    const struct vmm_commit *c = body;
    const struct vr_summary *s = body;
    const struct vmm_stats *t = body;
    const struct vmm_fail *f = body;

    if (m->type == VMM_MSG_RECORDS && m->len % sizeof(*r) == 0) {
        if (records == 0)
            printf("records %#x\n", r->code);
        records += m->len / sizeof(*r);
    } else if (m->type == VMM_MSG_PROGRESS && m->len == sizeof(*p)) {
        printf("progress %u %u %u %u\n", p->walk, p->pass, p->done, p->total);
    } else if (m->type == VMM_MSG_COMMIT && m->len == sizeof(*c)) {
        printf("commit %u %d %" PRIu64 "\n", c->state, c->error, c->bytes_changed);
    } else if (m->type == VMM_MSG_READY && m->len == 0) {
        if (write(orders, &go, 1) != 1)
            printf("nobody waits for an answer\n");
    } else if (m->type == VMM_MSG_SUMMARY && m->len == sizeof(*s)) {
        printf("summary %d committed=%u mark=%#" PRIx64 "\n", s->status, s->committed, s->heap_used);
    } else if (m->type == VMM_MSG_STATS && m->len == sizeof(*t)) {
        printf("stats requests=%" PRIu64 " exits=%" PRIu64 "\n", t->requests, t->exits);
    } else if (m->type == VMM_MSG_FAIL && m->len == sizeof(*f)) {
        printf("fail %u %d %.*s\n", f->kind, f->error, (int)sizeof(f->text), f->text);
    } else {
        printf("bad frame type %u length %u\n", m->type, m->len);
    }
    fflush(stdout);
}

static void show_frames(int fd)
{
    static union {
        uint8_t bytes[VMM_MSG_MAX];
        uint64_t align;
    } body;
    struct vmm_msg m;

    while (read_all(fd, &m, sizeof(m))) {
        if (m.len > sizeof(body) || !read_all(fd, &body, m.len)) {
            printf("bad frame type %u length %u\n", m.type, m.len);
            break;
        }
        show(&m, &body);
    }
    if (records)
        printf("records in all %" PRIu64 "\n", records);
}

/* ---- one run ----------------------------------------------------------------------------------------------------- */

static pid_t child_pid;
static int abort_fd = -1;

static void on_alarm(int number)
{
    static bool asked;

    (void)number;
    if (abort_fd >= 0 && !asked) {
        asked = true;
        close(abort_fd); /* end of file means abort, too */
        alarm(patience(DEADLINE));
        return;
    }
    kill(child_pid, SIGKILL);
}

static void undo(const struct vmm_config *cfg)
{
    struct vmm_undo u;
    int err = vmm_undo_apply(cfg->image_fd, cfg->journal_fd, true, &u);

    printf("undo %d state %u finished %d\n", err, u.state, u.finished);
}

static void run(const struct setup *s)
{
    struct vmm_config cfg;
    int msg[2], ctl[2], status;

    configure(&cfg, s);
    if (pipe2(msg, O_CLOEXEC) < 0 || pipe2(ctl, O_CLOEXEC) < 0)
        die("pipe");
    cfg.msg_fd = msg[1];
    cfg.ctl_fd = ctl[0];
    fflush(stdout);
    child_pid = fork();
    if (child_pid < 0)
        die("fork");
    if (child_pid == 0)
        vmm_child(&cfg);
    close(msg[1]);
    close(ctl[0]);
    orders = ctl[1];
    printf("pid %d\n", (int)child_pid);
    fflush(stdout);
    signal(SIGALRM, on_alarm);
    abort_fd = s->abort_after ? ctl[1] : -1;
    alarm(s->abort_after ? s->abort_after : patience(DEADLINE));
    if (s->hang_up)
        close(msg[0]);
    else
        show_frames(msg[0]);
    while (waitpid(child_pid, &status, 0) < 0)
        if (errno != EINTR)
            die("waitpid");
    if (WIFEXITED(status))
        printf("exit %d\n", WEXITSTATUS(status));
    else
        printf("signal %d\n", WTERMSIG(status));
    if (s->undo)
        undo(&cfg);
    free((void *)(uintptr_t)cfg.guest_elf);
}

int main(int argc, char **argv)
{
    struct setup s = {.mode = VR_MODE_CHECK, .timeout = patience(20), .memory = 32u << 20};
    int option;

    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        for (uint32_t i = 0; i < NAMES; i++)
            puts(names[i]);
        return 0;
    }
    while ((option = getopt(argc, argv, "m:t:M:a:b:dhu")) != -1) {
        switch (option) {
        case 'm':
            s.mode = (enum vr_mode)atoi(optarg);
            break;
        case 't':
            s.timeout = (unsigned)atoi(optarg);
            break;
        case 'M':
            s.memory = strtoull(optarg, NULL, 0);
            break;
        case 'a':
            s.abort_after = (unsigned)atoi(optarg);
            break;
        case 'b':
            s.broken = optarg;
            break;
        case 'd':
            s.device = true;
            break;
        case 'h':
            s.hang_up = true;
            break;
        case 'u':
            s.undo = true;
            break;
        default:
            optind = argc + 1;
        }
    }
    if (argc - optind != 3) {
        fprintf(stderr, "usage: hostile-run [-m MODE] [-t TIMEOUT] [-M MEMORY] [-a ABORT-AFTER] [-b BROKEN] [-dhu] "
                        "GUEST CASE IMAGE\n");
        return 2;
    }
    s.guest = argv[optind];
    s.number = number_of(argv[optind + 1]);
    s.image = argv[optind + 2];
    run(&s);
    return 0;
}
