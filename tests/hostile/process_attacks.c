/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* process_attacks.c: a hostile guest under the process accelerator: each attack has to end as it is written here. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "boot.h"
#include "patience.h"
#include "vmm_proto.h"
#include "vr_records.h"

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

#define IMAGE_SIZE (256u << 10)
#define DEADLINE   30 /* seconds on an idle machine */

/* ---- the guest: these run behind the filter, where the engine's vr_guest_main() would ---------------------- */

static uint8_t *base;
static uint64_t heap_size;
static struct vr_ring *ring;
static uint32_t sq_tail;
static int pipe_ends[8]; /* of pipes that were made since the process before this one was, ascending */
static unsigned npipe_ends;
static pid_t test_pid;

static void post(const struct vr_sqe *q)
{
    ring->sq[sq_tail % VR_RING_ENTRIES] = *q;
    __atomic_store_n(&ring->sq_tail, ++sq_tail, __ATOMIC_RELEASE);
}

static void call(const struct vr_sqe *q)
{
    post(q);
    while (__atomic_load_n(&ring->cq_tail, __ATOMIC_ACQUIRE) != sq_tail)
        vr_doorbell(sq_tail);
}

static struct vr_sqe good_read(void)
{
    return (struct vr_sqe){.op = VR_OP_READ, .buf = {VR_GPA_HEAP}, .len = 4096};
}

static void finish(void)
{
    const struct vr_sqe q = {
        .op = VR_OP_FINISH, .buf = {VR_GPA_HEAP}, .len = sizeof(struct vr_summary)};

    memset(base + VR_GPA_HEAP, 0, sizeof(struct vr_summary));
    call(&q);
}

static void touch(uint64_t gpa)
{
    (void)*(volatile uint8_t *)(base + gpa);
}

#define TOUCH(name, gpa)      \
    static void name(void)    \
    {                         \
        touch(gpa);           \
    }
#define SYSTEM_CALL(name, ...)         \
    static void name(void)             \
    {                                  \
        (void)syscall(__VA_ARGS__);    \
    }
#define BAD_READ(name, ...)              \
    static void name(void)               \
    {                                    \
        struct vr_sqe q = good_read();   \
        __VA_ARGS__;                     \
        call(&q);                        \
    }

TOUCH(first_page, 0)
TOUCH(below_boot, VR_GPA_BOOT - 1)
TOUCH(behind_ring, (VR_GPA_RING + sizeof(struct vr_ring) + VR_PAGE_SIZE - 1) / VR_PAGE_SIZE * VR_PAGE_SIZE)
TOUCH(image_place, VR_GPA_IMAGE)
TOUCH(below_heap, VR_GPA_HEAP - 1)
TOUCH(heap_beyond, VR_GPA_HEAP + heap_size)
SYSTEM_CALL(opens, SYS_openat, AT_FDCWD, "/etc/passwd", O_RDONLY)
SYSTEM_CALL(forks, SYS_clone, SIGCHLD, 0, 0, 0, 0)
SYSTEM_CALL(kills, SYS_kill, test_pid, SIGTERM)
SYSTEM_CALL(maps, SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
SYSTEM_CALL(unguards, SYS_mprotect, base, VR_PAGE_SIZE, PROT_READ | PROT_WRITE)
SYSTEM_CALL(reads_image, SYS_pread64, 0, base + VR_GPA_HEAP, 512, 0)
SYSTEM_CALL(leaves, SYS_exit_group, 0)
BAD_READ(op_unknown, q.op = VR_OP_NEXT_DATA + 1)
BAD_READ(buf_ring, q.buf.gpa = VR_GPA_RING)
BAD_READ(buf_image, q.buf.gpa = VR_GPA_IMAGE)
BAD_READ(buf_heap_end, q.buf.gpa = VR_GPA_HEAP + heap_size - 4095)
BAD_READ(buf_wrap, q.buf.gpa = UINT64_MAX - 100)
BAD_READ(write_check, q.op = VR_OP_WRITE)
BAD_READ(next_data_len, q.op = VR_OP_NEXT_DATA)
BAD_READ(next_data_far, q.op = VR_OP_NEXT_DATA; q.len = 8; q.offset = VR_OFFSET_MAX + 1)

static void undefined(void)
{
#ifdef __aarch64__
    __asm__ volatile(".inst 0"); /* what the compiler calls a trap is a breakpoint here */
#else
    __builtin_trap();
#endif
}

static void boot_write(void)
{
    *(volatile uint8_t *)(base + VR_GPA_BOOT + 8) = 1;
}

static void loops(void)
{
    for (volatile unsigned i = 0;; i++)
        ;
}

static void waits_more(void)
{
    vr_doorbell(1);
}

static void tail_far(void)
{
    ring->sq_tail = VR_RING_ENTRIES + 1;
    vr_doorbell(0);
}

/* Both ends of the bell's pipe are the first, both of the answer's the next. */
static int bell(void)
{
    return pipe_ends[1];
}

static int answer(void)
{
    return pipe_ends[2];
}

static void half_bell(void)
{
    uint8_t go;

    if (write(bell(), "ab", 2) == 2)
        (void)!read(answer(), &go, 1);
}

/* Never reads the answers, until the pipe for them is full. */
static void rings_on(void)
{
    const uint32_t want = 0;

    for (;;)
        (void)!write(bell(), &want, sizeof(want));
}

/*
 * Another processor's view: a request changes while it is taken. What the VMM checked is what it has to use: behind the
 * image's end it fills the buffer itself, so that a length or an address that it looked at twice would be its end.
 */
static void changes(void)
{
    struct vr_sqe q = good_read();
    uint8_t go;

    q.offset = IMAGE_SIZE;
    for (uint32_t round = 0; round < 100000; round++) {
        volatile struct vr_sqe *shared = &ring->sq[sq_tail % VR_RING_ENTRIES];
        const uint32_t want = sq_tail + 1;
        post(&q);
        if (write(bell(), &want, sizeof(want)) != sizeof(want))
            return;
        while (__atomic_load_n(&ring->cq_tail, __ATOMIC_ACQUIRE) != want) {
            shared->len = UINT32_MAX;
            shared->buf.gpa = UINT64_C(0x7f0000000000);
            shared->buf.gpa = VR_GPA_HEAP;
            shared->len = q.len;
            for (volatile unsigned idle = 0; idle < 3; idle++)
                ;
        }
        if (read(answer(), &go, 1) != 1)
            return;
    }
    finish();
}

/* ---- what has to come of it ------------------------------------------------------------------------------------ */

#define ENDS 0 /* a summary instead of a failure */
#define ANY  (-1) /* a summary or a protocol violation, by luck */

static const struct attack {
    const char *name;
    void (*run)(void);
    int fail; /* enum vmm_fail_kind, ENDS or ANY */
    const char *text;
    bool filter;    /* held by the system call filter, which sanitizer builds run without */
    unsigned times; /* how often, where luck decides; 0 = once */
} attacks[] = {
    {"finishes", finish, ENDS, ""},
    {"an undefined instruction", undefined, VMM_FAIL_GUEST_CRASH, "signal 4"},
    {"reads address 0", first_page, VMM_FAIL_GUEST_CRASH, "signal 11"},
    {"reads below the boot page", below_boot, VMM_FAIL_GUEST_CRASH, "signal 11"},
    {"writes the boot page", boot_write, VMM_FAIL_GUEST_CRASH, "signal 11"},
    {"reads behind the ring", behind_ring, VMM_FAIL_GUEST_CRASH, "signal 11"},
    {"reads where a VM has its image", image_place, VMM_FAIL_GUEST_CRASH, "signal 11"},
    {"reads below the heap", below_heap, VMM_FAIL_GUEST_CRASH, "signal 11"},
    {"reads behind the heap", heap_beyond, VMM_FAIL_GUEST_CRASH, "signal 11"},
    {"opens a file", opens, VMM_FAIL_GUEST_CRASH, "signal 31 (a forbidden system call)", true},
    {"forks", forks, VMM_FAIL_GUEST_CRASH, "signal 31 (a forbidden system call)", true},
    {"kills a process", kills, VMM_FAIL_GUEST_CRASH, "signal 31 (a forbidden system call)", true},
    {"maps memory", maps, VMM_FAIL_GUEST_CRASH, "signal 31 (a forbidden system call)", true},
    {"takes a guard page away", unguards, VMM_FAIL_GUEST_CRASH, "signal 31 (a forbidden system call)", true},
    {"reads the image itself", reads_image, VMM_FAIL_GUEST_CRASH, "signal 31 (a forbidden system call)", true},
    {"leaves without a word", leaves, VMM_FAIL_GUEST_CRASH, "its process ended"},
    {"loops", loops, VMM_FAIL_GUEST_HANG, ""},
    {"rings on and on, and never reads the answer", rings_on, VMM_FAIL_GUEST_HANG, ""},
    {"half a doorbell", half_bell, VMM_FAIL_GUEST_PROTOCOL, "half a doorbell"},
    {"an unknown request", op_unknown, VMM_FAIL_GUEST_PROTOCOL, "an unknown request"},
    {"a buffer in the ring", buf_ring, VMM_FAIL_GUEST_PROTOCOL, "a buffer outside"},
    {"a buffer where a VM has its image", buf_image, VMM_FAIL_GUEST_PROTOCOL, "a buffer outside"},
    {"a buffer over the heap's end", buf_heap_end, VMM_FAIL_GUEST_PROTOCOL, "a buffer outside"},
    {"a buffer that wraps", buf_wrap, VMM_FAIL_GUEST_PROTOCOL, "a buffer outside"},
    {"asks for the next data with room for more than the answer", next_data_len, VMM_FAIL_GUEST_PROTOCOL, "a length outside"},
    {"asks for the next data behind every file", next_data_far, VMM_FAIL_GUEST_PROTOCOL, "an image offset outside"},
    {"a write in mode check", write_check, VMM_FAIL_GUEST_PROTOCOL, "a write in mode check"},
    {"waits for what was not asked", waits_more, VMM_FAIL_GUEST_PROTOCOL, "waits for more"},
    {"a tail beyond the ring", tail_far, VMM_FAIL_GUEST_PROTOCOL, "more requests than the ring holds"},
    {"changes requests while they are taken", changes, ANY, "", .times = 200},
};
#define ATTACKS (sizeof(attacks) / sizeof(attacks[0]))

void vr_guest_main(uint8_t *memory)
{
    const struct vr_boot *boot = (const void *)(memory + VR_GPA_BOOT);

    base = memory;
    heap_size = boot->heap_size;
    ring = (void *)(memory + VR_GPA_RING);
    if (boot->examples < ATTACKS)
        attacks[boot->examples].run();
    /* What should have ended the run did not: a crash of another kind than any expected one. */
    (void)syscall(SYS_exit_group, 5);
    __builtin_unreachable();
}

/* ---- the test ---------------------------------------------------------------------------------------------------- */

/* In every new process: the guest's is made by the VMM child, and finds the pipes that that has made. */
#define PIPE_ENDS (sizeof(pipe_ends) / sizeof(pipe_ends[0]))
static void note_pipes(void)
{
    static ino_t known[2 * PIPE_ENDS]; /* the process before has noted these */
    static unsigned nknown;
    const unsigned older = nknown;
    struct stat st;

    npipe_ends = 0;
    for (int fd = 0; fd < 64 && npipe_ends < PIPE_ENDS; fd++) {
        bool is_older = fstat(fd, &st) < 0 || !S_ISFIFO(st.st_mode);
        for (unsigned i = 0; i < older; i++)
            is_older = is_older || known[i] == st.st_ino;
        if (is_older)
            continue;
        pipe_ends[npipe_ends++] = fd;
        known[nknown++] = st.st_ino;
    }
}

struct outcome {
    int fail; /* enum vmm_fail_kind; ENDS: a summary */
    char text[240];
    int status; /* of the VMM child */
    bool left;  /* a process is left behind */
    bool image_same;
};

static void fill(uint8_t *bytes)
{
    for (uint32_t i = 0; i < IMAGE_SIZE; i++)
        bytes[i] = (uint8_t)(i * 2654435761u >> 24);
}

static int make_image(const uint8_t *bytes)
{
    int fd = memfd_create("image", MFD_CLOEXEC);

    if (fd < 0 || write(fd, bytes, IMAGE_SIZE) != IMAGE_SIZE) {
        perror("making an image");
        exit(2);
    }
    return fd;
}

static bool read_all(int fd, void *to, size_t len)
{
    uint8_t *p = to;
    ssize_t n;

    for (; len > 0; p += n, len -= (size_t)n)
        if ((n = read(fd, p, len)) <= 0)
            return false;
    return true;
}

static void take_frames(int fd, struct outcome *o)
{
    static union {
        uint8_t bytes[VMM_MSG_MAX];
        struct vmm_fail fail;
    } body;
    struct vmm_msg m;

    while (read_all(fd, &m, sizeof(m)) && m.len <= sizeof(body) && read_all(fd, &body, m.len)) {
        if (m.type == VMM_MSG_SUMMARY)
            o->fail = ENDS;
        if (m.type != VMM_MSG_FAIL || m.len != sizeof(body.fail))
            continue;
        o->fail = (int)body.fail.kind;
        memcpy(o->text, body.fail.text, sizeof(o->text));
        o->text[sizeof(o->text) - 1] = '\0';
    }
}

static pid_t vmm_pid;

static void on_alarm(int number)
{
    (void)number;
    kill(vmm_pid, SIGKILL);
}

static struct outcome run(unsigned number)
{
    static uint8_t before[IMAGE_SIZE], after[IMAGE_SIZE];
    struct outcome o = {.fail = VMM_FAIL_INTERNAL, .text = "no last word"};
    int msg[2], ctl[2];

    fill(before);
    struct vmm_config cfg = {.mode = VR_MODE_CHECK, .accel = VMM_ACCEL_PROCESS, .image_fd = make_image(before),
                             .kvm_fd = -1, .overlay_fd = -1, .journal_fd = -1, .image_size = IMAGE_SIZE,
                             .memory = 16u << 20, .timeout = patience(1), .examples = number, .image_name = "process"};
    if (pipe2(msg, O_CLOEXEC) < 0 || pipe2(ctl, O_CLOEXEC) < 0) {
        perror("making pipes");
        exit(2);
    }
    cfg.msg_fd = msg[1];
    cfg.ctl_fd = ctl[0];
    fflush(stdout);
    vmm_pid = fork();
    if (vmm_pid == 0)
        vmm_child(&cfg);
    close(msg[1]);
    close(ctl[0]);
    alarm(patience(DEADLINE));
    take_frames(msg[0], &o);
    while (waitpid(vmm_pid, &o.status, 0) < 0 && errno == EINTR)
        ;
    alarm(0);
    /* We are its reaper: nobody else's child is left where the VMM ended what it started. */
    o.left = waitpid(-1, NULL, WNOHANG) != -1 || errno != ECHILD;
    o.image_same = pread(cfg.image_fd, after, sizeof(after), 0) == sizeof(after) &&
                   memcmp(before, after, sizeof(after)) == 0;
    close(msg[0]);
    close(ctl[1]);
    close(cfg.image_fd);
    return o;
}

static bool as_expected(const struct attack *a, const struct outcome *o)
{
    bool end = o->fail == a->fail || (a->fail == ANY && (o->fail == ENDS || o->fail == VMM_FAIL_GUEST_PROTOCOL));
    int status = o->fail == ENDS ? 0 : 1;

    return end && (o->fail == ENDS || strstr(o->text, a->text)) && WIFEXITED(o->status) &&
           WEXITSTATUS(o->status) == status && !o->left && o->image_same;
}

/* The sanitizers' own signal handlers would turn a guest's fault into an exit. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "handle_segv=0:handle_sigill=0:handle_sigbus=0:handle_sigtrap=0";
}

/* Argument: the most times that one attack is made where luck decides; an emulator is slow. */
int main(int argc, char **argv)
{
    const unsigned most = argc > 1 ? (unsigned)atoi(argv[1]) : UINT_MAX;
    unsigned passed = 0, failed = 0;

    test_pid = getpid();
    signal(SIGALRM, on_alarm);
    if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0 || pthread_atfork(NULL, NULL, note_pipes) != 0) {
        perror("setting up");
        return 2;
    }
    for (unsigned i = 0; i < ATTACKS; i++) {
        const struct attack *a = &attacks[i];
        if (SANITIZED && a->filter) {
            printf("SKIP process: %s: built with a sanitizer, where filters are left out\n", a->name);
            continue;
        }
        struct outcome o = run(i);
        bool good = as_expected(a, &o);
        for (unsigned again = 1; good && again < a->times && again < most; again++) {
            o = run(i);
            good = as_expected(a, &o);
        }
        printf("%s process: %s", good ? "ok" : "FAILED", a->name);
        if (!good)
            printf(" (failure %d \"%s\", wait status %#x%s%s)", o.fail, o.text, (unsigned)o.status,
                   o.left ? ", a process is left" : "", o.image_same ? "" : ", the image changed");
        printf("\n");
        passed += good;
        failed += !good;
    }
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0;
}
