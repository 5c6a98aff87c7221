/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* main.c: the VMM child from fork to exit: memory, guest, threads, sandbox, run; and the watchdog over it. */
#include "vmm.h"
#include "test_hooks.h"

#include <errno.h>
#include <linux/kvm.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* Of the budget, what is not the guest's heap: this program, its stacks, the guest's low memory. */
#define OVERHEAD   (8u << 20)
#define HEAP_MIN   (4u << 20)
#define ADDRESSES_BESIDE (UINT64_C(1) << 30)
#define FILE_PER_MEMORY 32u /* bytes of overlay or journal for each of the budget, at most */
#define TICK_MS    100
#define STOP_WAIT_US 1000000u /* for a read that is under way */
#define HUGE_FROM    (UINT64_C(1) << 36) /* size of an image, bytes */
#define HUGE_BUFFERS (4u << 20)

uint64_t child_now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

void child_phase(struct child *c, uint64_t *phase)
{
    uint64_t now = child_now_us();

    if (c->phase)
        *c->phase += now - c->phase_us;
    c->phase = phase;
    c->phase_us = now;
}

/* ---- messages and the end -------------------------------------------------------------------------------------- */

static bool write_all(int fd, const void *bytes, size_t len)
{
    const uint8_t *p = bytes;

    while (len > 0) {
        ssize_t n = write(fd, p, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        p += n;
        len -= (size_t)n;
    }
    return true;
}

void child_send(struct child *c, uint32_t type, const void *body, uint32_t len)
{
    struct vmm_msg head = {.type = type, .len = len};
    int none = 0;

    if (!write_all(c->cfg->msg_fd, &head, sizeof(head)) || !write_all(c->cfg->msg_fd, body, len))
        atomic_compare_exchange_strong(&c->stop, &none, VMM_FAIL_ABORTED);
}

void child_end(struct child *c)
{
    struct vmm_stats *s = &c->stats;

    s->bytes_read = atomic_load(&c->bytes_read);
    s->us_read = atomic_load(&c->us_read);
    s->requests = c->ring.requests;
    child_phase(c, NULL);
    if (c->guest_us)
        s->us_guest = child_now_us() - c->guest_us;
    child_send(c, VMM_MSG_STATS, s, sizeof(*s));
    process_end(c);
    _exit(c->failed);
}

void child_fail(struct child *c, enum vmm_fail_kind kind, int error, const char *text)
{
    struct vmm_fail f = {.kind = kind, .error = error < 0 ? -error : error};

    /* The words may be a hostile guest's. */
    for (size_t i = 0; i < sizeof(f.text) - 1 && text[i]; i++)
        f.text[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
    c->failed = 1;
    child_send(c, VMM_MSG_FAIL, &f, sizeof(f));
    child_end(c);
}

void child_check_stop(struct child *c)
{
    int kind = atomic_load(&c->stop);

    if (kind)
        child_fail(c, (enum vmm_fail_kind)kind, 0, kind == VMM_FAIL_GUEST_HANG ? "no request for too long" : "");
}

void child_ask_to_commit(struct child *c)
{
    child_send(c, VMM_MSG_READY, NULL, 0);
    pthread_mutex_lock(&c->lock);
    while (!c->may_commit && !atomic_load(&c->stop))
        pthread_cond_wait(&c->answered, &c->lock);
    pthread_mutex_unlock(&c->lock);
    child_check_stop(c);
}

/* ---- watchdog ------------------------------------------------------------------------------------------------------ */

static void on_wake(int signal_number)
{
    (void)signal_number; /* KVM_RUN and read() return with EINTR: that is all it is for */
}

static bool hangs(struct child *c)
{
    uint64_t limit = (uint64_t)c->cfg->timeout * 1000000;
    uint64_t last = atomic_load(&c->last_bell_us); /* before the clock: it must not be the later of the two */

    return limit && atomic_load(&c->in_guest) && child_now_us() - last > limit;
}

void child_read_waits(struct child *c, bool waits)
{
    pthread_mutex_lock(&c->reading_lock);
    c->reading = waits;
    c->read_us = child_now_us();
    pthread_mutex_unlock(&c->reading_lock);
}

/*
 * A thread that hangs in the kernel cannot be woken, so the watchdog itself says the last word; with the lock, so that the one
 * whose read comes back after all says nothing beside it.
 */
static void give_up_reading(struct child *c)
{
    uint64_t limit = (uint64_t)c->cfg->timeout * 1000000;
    int stop = atomic_load(&c->stop);

    pthread_mutex_lock(&c->reading_lock);
    uint64_t since = child_now_us() - c->read_us;
    if (c->reading && ((limit && since > limit) || (stop && since > STOP_WAIT_US)))
        child_fail(c, stop ? (enum vmm_fail_kind)stop : VMM_FAIL_READ, 0, stop ? "" : "a read has not come back for too long");
    pthread_mutex_unlock(&c->reading_lock);
}

/* What the front says; false where it is the last. Nobody else reads that pipe. */
static bool take_order(struct child *c)
{
    int none = 0;
    char order = 0;

    if (read(c->cfg->ctl_fd, &order, 1) != 1 || order != VMM_CTL_COMMIT) {
        atomic_compare_exchange_strong(&c->stop, &none, VMM_FAIL_ABORTED);
        return false;
    }
    pthread_mutex_lock(&c->lock);
    c->may_commit = true;
    pthread_cond_signal(&c->answered);
    pthread_mutex_unlock(&c->lock);
    return true;
}

/* Whoever runs the guest, or waits for an answer, looks at c->stop. */
static void wake_runner(struct child *c)
{
    if (c->run)
        c->run->immediate_exit = 1;
    pthread_mutex_lock(&c->lock);
    pthread_cond_signal(&c->answered);
    pthread_mutex_unlock(&c->lock);
    pthread_kill(c->runner, SIGUSR1);
}

static void *watch(void *arg)
{
    struct child *c = arg;
    struct pollfd ctl = {.fd = c->cfg->ctl_fd, .events = POLLIN};

    pthread_barrier_wait(&c->ready);
    for (;;) {
        int none = 0;
        if (poll(&ctl, 1, TICK_MS) > 0 && !take_order(c))
            ctl.fd = -1;
        give_up_reading(c);
        if (hangs(c))
            atomic_compare_exchange_strong(&c->stop, &none, VMM_FAIL_GUEST_HANG);
        /* Again and again: a signal that came just before the guest was entered is lost. */
        if (atomic_load(&c->stop) && !atomic_load(&c->committing))
            wake_runner(c);
    }
    return NULL;
}

/* All threads there will be: the filter that comes next has no place for making one. */
static void start_threads(struct child *c)
{
    struct sigaction sa = {.sa_handler = on_wake}; /* without SA_RESTART */
    pthread_t thread;

    sigaction(SIGUSR1, &sa, NULL);
    c->runner = pthread_self();
    pthread_mutex_init(&c->lock, NULL);
    pthread_mutex_init(&c->reading_lock, NULL);
    pthread_cond_init(&c->answered, NULL);
    int err = pthread_barrier_init(&c->ready, NULL, BLOCK_THREADS + 2);
    err = err ? err : -block_start(&c->block, c);
    err = err ? err : pthread_create(&thread, NULL, watch, c);
    if (err)
        child_fail(c, VMM_FAIL_INTERNAL, err, "starting threads");
    pthread_barrier_wait(&c->ready);
}

/* ---- setting up ------------------------------------------------------------------------------------------------------ */

/* The overlay's index, bytes; its data lies in a file. */
static uint64_t overlay_memory(const struct vmm_config *cfg)
{
    return cfg->mode == VR_MODE_CHECK ? 0 : cfg->memory / 8;
}

/*
 * The guest begins its heap with a bit for each cluster and a few MiB of buffers, and touches all of it: for the usual
 * cluster size that comes in huge pages, each of which saves 512 faults of some microseconds. For a small image they
 * would only be cleared in vain.
 */
static void advise_huge(struct child *c)
{
    uint64_t bytes = (c->cfg->image_size >> (16 + 3)) + HUGE_BUFFERS;

    bytes &= ~(uint64_t)(VR_HEAP_ALIGN - 1);
    if (c->cfg->image_size >= HUGE_FROM)
        (void)madvise(c->memory + VR_GPA_HEAP, bytes < c->heap_size ? bytes : c->heap_size, MADV_HUGEPAGE);
}

static void make_memory(struct child *c)
{
    const struct vmm_config *cfg = c->cfg;
    /* The process accelerator's guest is another process: it shares the memory. */
    int share = c->accel == VMM_ACCEL_PROCESS ? MAP_SHARED : MAP_PRIVATE;

    if (cfg->memory < OVERHEAD + 2 * HEAP_MIN)
        child_fail(c, VMM_FAIL_MEMORY, 0, "at least 16 MiB are needed");
    c->heap_size = (cfg->memory - OVERHEAD - overlay_memory(cfg)) & ~(uint64_t)(VR_HEAP_ALIGN - 1);
    c->memory_size = VR_GPA_HEAP + c->heap_size;
    /* And a page behind it, which the process accelerator makes a wall. */
    uint8_t *whole = mmap(NULL, c->memory_size + VR_HEAP_ALIGN, PROT_READ | PROT_WRITE,
                          share | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (whole == MAP_FAILED)
        child_fail(c, VMM_FAIL_MEMORY, errno, "mapping the guest's memory");
    /* Aligned, so that a huge page of the guest can be one of the host. */
    c->memory = whole + (-(uintptr_t)whole & (VR_HEAP_ALIGN - 1));
    advise_huge(c);
    *(struct vr_boot *)(void *)(c->memory + VR_GPA_BOOT) = (struct vr_boot){
        .magic = VR_BOOT_MAGIC, .version = VR_ABI_VERSION, .mode = cfg->mode, .image_size = cfg->image_size,
        .heap_size = c->heap_size, .examples = cfg->examples < VR_EXAMPLES_MAX ? cfg->examples : VR_EXAMPLES_MAX,
        .flags = (cfg->image_is_device ? VR_BOOT_DEVICE : 0) | (cfg->force_leaks ? VR_BOOT_FORCE_LEAKS : 0) |
                 (cfg->would ? VR_BOOT_WOULD : 0) | (cfg->data_file ? VR_BOOT_DATA_FILE : 0) | hook_boot_flags()};
}

static void load(struct child *c)
{
    const void *elf = c->cfg->guest_elf;
    uint64_t size = c->cfg->guest_elf_size;

    if (c->accel != VMM_ACCEL_KVM)
        return; /* the same code, compiled into this program */
    if (!elf)
        elf = load_embedded(&size);
    const char *fault = elf ? load_guest(elf, size, c->memory, &c->load) : "its checksum is wrong";
    if (fault)
        child_fail(c, VMM_FAIL_GUEST_IMAGE, 0, fault);
}

/* What the caller's environment says is nothing that a guest who got here should read. */
static void forget_environment(void)
{
    for (char **e = environ; e && *e; e++)
        memset(*e, 0, strlen(*e));
    environ = NULL;
}

static void enclose(struct child *c)
{
    const struct vmm_config *cfg = c->cfg;
    const int keep[] = {cfg->image_fd, cfg->kvm_fd, cfg->overlay_fd, cfg->journal_fd, cfg->msg_fd, cfg->ctl_fd};
    int err = 0;

    forget_environment();
    sandbox_close_others(keep, sizeof(keep) / sizeof(keep[0]));
    err = sandbox_drop(cfg->uid, cfg->gid);
    if (err)
        child_fail(c, VMM_FAIL_SANDBOX, err, "dropping rights");
}

/* A VM, or, where that is left to us and KVM makes none, a process; the front is told why. */
static void choose_accel(struct child *c)
{
    struct vmm_no_kvm why = {0};
    const char *lacks;

    c->accel = c->cfg->accel;
    if (c->accel == VMM_ACCEL_PROCESS)
        return;
    lacks = vm_open(c);
    if (lacks && c->accel == VMM_ACCEL_KVM)
        child_fail(c, VMM_FAIL_KVM, errno, lacks);
    c->accel = lacks ? VMM_ACCEL_PROCESS : VMM_ACCEL_KVM;
    if (!lacks)
        return;
    why.error = errno;
    snprintf(why.text, sizeof(why.text), "%s", lacks);
    child_send(c, VMM_MSG_ACCEL, &why, sizeof(why));
    close(c->cfg->kvm_fd);
}

/*
 * Beside the budget, addresses that cost nothing: stacks, and malloc's arena of each thread. A file is the image with all that it may
 * grow by, or overlay and journal, which hold what the overlay's index has room for.
 */
static int limit(const struct vmm_config *cfg)
{
    uint64_t image = cfg->image_size + cfg->image_size / 8 + VR_GROWTH_MAX, plan = cfg->memory * FILE_PER_MEMORY;

    return sandbox_limit(cfg->memory + ADDRESSES_BESIDE, image > plan ? image : plan);
}

void vmm_child(const struct vmm_config *cfg)
{
    static struct child child; /* one run, one child */
    struct child *c = &child;
    bool kvm;

    c->cfg = cfg;
    c->started_us = child_now_us();
    c->vm_fd = c->vcpu_fd = c->bell_fd = c->resume_fd = -1;
    signal(SIGPIPE, SIG_IGN);
    enclose(c);
    choose_accel(c);
    kvm = c->accel == VMM_ACCEL_KVM;
    make_memory(c);
    load(c);
    overlay_init(&c->overlay, cfg->overlay_fd, cfg->image_fd, cfg->image_size, overlay_memory(cfg));
    ring_open(&c->ring, c, (struct vr_ring *)(void *)(c->memory + VR_GPA_RING));
    if (kvm)
        vm_prepare(c);
    else
        process_prepare(c);
    start_threads(c);
    int err = limit(cfg);
    err = err ? err : sandbox_filter(c->accel, c->guest_pid);
    if (err)
        child_fail(c, VMM_FAIL_SANDBOX, err, "the system call filter");
    c->guest_us = child_now_us();
    atomic_store(&c->last_bell_us, c->guest_us);
    c->stats.us_start = c->guest_us - c->started_us;
    child_phase(c, &c->stats.us_boot);
    if (kvm)
        vm_run(c);
    process_run(c);
}
