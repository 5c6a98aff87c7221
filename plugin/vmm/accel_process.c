/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * accel_process.c: the same guest code in a child process that can do nothing but the ring.
 *
 * For hosts without KVM: a system call filter and shared memory stand where the VM's walls were. The doorbell is a write to one pipe and a read from another.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "boot.h"
#include "vmm.h"

#define HOST_PAGE_MAX (64u << 10) /* of arm64; the page behind the guest's memory is one of these */

/* In the guest's process only. */
static int guest_bell_fd = -1, guest_resume_fd = -1;

void vr_doorbell(uint32_t want)
{
    uint8_t go;

    if (write(guest_bell_fd, &want, sizeof(want)) != sizeof(want) || read(guest_resume_fd, &go, 1) != 1)
        _exit(1);
}

/*
 * As in the VM: boot information is read-only, and what has no place in the map is not there. Code and stack are its own.
 * Where the host's pages are larger than the guest's (arm64: up to 64 KiB), boot information and ring share one, which is
 * writable then: nobody but the guest reads boot information. VR_GPA_BOOT and VR_GPA_HEAP begin a page of any size.
 */
static int guard(const struct child *c)
{
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    const uint64_t ring_end = (VR_GPA_RING + sizeof(struct vr_ring) + page - 1) & ~(page - 1);

    _Static_assert(VR_GPA_BOOT % HOST_PAGE_MAX == 0 && VR_GPA_HEAP % HOST_PAGE_MAX == 0, "a page has two kinds");
    if (page > HOST_PAGE_MAX || mprotect(c->memory, VR_GPA_BOOT, PROT_NONE) < 0 ||
        (page == VR_PAGE_SIZE && mprotect(c->memory + VR_GPA_BOOT, page, PROT_READ) < 0) ||
        mprotect(c->memory + ring_end, VR_GPA_HEAP - ring_end, PROT_NONE) < 0)
        return -1;
    return mprotect(c->memory + c->memory_size, page, PROT_NONE);
}

static void guest_process(struct child *c, int bell, int resume) __attribute__((noreturn));
static void guest_process(struct child *c, int bell, int resume)
{
    const int keep[] = {bell, resume};

    guest_bell_fd = bell;
    guest_resume_fd = resume;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_DFL);
    sandbox_close_others(keep, 2);
    if (guard(c) < 0 || sandbox_filter_guest(resume, bell) < 0)
        _exit(1);
    vr_guest_main(c->memory);
}

void process_prepare(struct child *c)
{
    int bell[2], resume[2];

    if (pipe(bell) < 0 || pipe(resume) < 0)
        child_fail(c, VMM_FAIL_INTERNAL, errno, "making pipes for the guest");
    c->guest_pid = fork();
    if (c->guest_pid < 0)
        child_fail(c, VMM_FAIL_INTERNAL, errno, "starting the guest's process");
    if (c->guest_pid == 0) {
        uint8_t go;
        close(bell[0]);
        close(resume[1]);
        /* The first instruction waits until the ring is served. */
        if (read(resume[0], &go, 1) != 1)
            _exit(1);
        guest_process(c, bell[1], resume[0]);
    }
    close(bell[1]);
    close(resume[0]);
    c->bell_fd = bell[0];
    c->resume_fd = resume[1];
}

void process_end(struct child *c)
{
    if (c->guest_pid <= 0)
        return;
    (void)kill(c->guest_pid, SIGKILL);
    /* The watchdog goes on with its signals. */
    while (waitpid(c->guest_pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

static void crashed(struct child *c)
{
    char text[100] = "its process ended";
    int status;

    /* One that ends already ends as it was going to; one that only looks like it must not keep us waiting. */
    (void)kill(c->guest_pid, SIGKILL);
    bool reaped = waitpid(c->guest_pid, &status, 0) == c->guest_pid;
    c->guest_pid = 0;
    if (reaped && WIFSIGNALED(status))
        snprintf(text, sizeof(text), "its process ended with signal %d%s", WTERMSIG(status),
                 WTERMSIG(status) == SIGSYS ? " (a forbidden system call)" : "");
    child_fail(c, VMM_FAIL_GUEST_CRASH, 0, text);
}

/* Both ways the guest can keep us waiting: it may not ring, and may ring without ever reading what it is told. */
static ssize_t talk(struct child *c, bool tell, void *bytes, size_t len)
{
    ssize_t n;

    do {
        atomic_store(&c->in_guest, true);
        n = tell ? write(c->resume_fd, bytes, len) : read(c->bell_fd, bytes, len);
        atomic_store(&c->in_guest, false);
        child_check_stop(c);
    } while (n < 0 && errno == EINTR);
    return n;
}

void process_run(struct child *c)
{
    uint8_t go = 1;
    uint32_t want;

    for (;;) {
        if (talk(c, true, &go, sizeof(go)) != sizeof(go))
            crashed(c);
        ssize_t n = talk(c, false, &want, sizeof(want));
        c->stats.exits++;
        if (n <= 0)
            crashed(c);
        if (n != sizeof(want))
            child_fail(c, VMM_FAIL_GUEST_PROTOCOL, 0, "half a doorbell");
        ring_doorbell(&c->ring, want);
    }
}
