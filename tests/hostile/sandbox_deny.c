/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* sandbox_deny.c: tries what the sandbox forbids, each in a process of its own that has to die of it. */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "vmm.h"
#include "patience.h"

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif

/* Where the attempt is made: behind the VMM's filter (with KVM's ioctls or not), or behind the guest process's. */
enum wall { KVM = VMM_ACCEL_KVM, PROCESS = VMM_ACCEL_PROCESS, GUEST };

static int pipe_fds[2];
static pid_t parent;
static pid_t guest; /* what stands for the process accelerator's guest */
static char page[4096] __attribute__((aligned(4096)));
#ifndef SYS_poll
static const struct timespec no_time;
#endif

struct attempt {
    enum wall wall;
    const char *name;
    long number; /* of the system call */
    long args[6];
};

#define P(pointer) ((long)(intptr_t)(pointer))
#define DENY(wall, call, ...) {wall, #call " (" #__VA_ARGS__ ")", SYS_##call, {__VA_ARGS__}}
#define X32 0x40000000L /* of x86-64: the same calls with pointers of 32 bits */

static const struct attempt denied[] = {
    DENY(KVM, openat, AT_FDCWD, P("/etc/passwd"), O_RDONLY),
    DENY(KVM, openat2, AT_FDCWD, P("/etc/passwd"), 0, 0),
    DENY(KVM, open_by_handle_at, 0, 0, 0),
    DENY(KVM, memfd_create, P("x"), 0),
    DENY(KVM, execve, P("/bin/true"), 0, 0),
    DENY(KVM, execveat, AT_FDCWD, P("/bin/true"), 0, 0, 0),
    DENY(KVM, clone, SIGCHLD, 0),
    DENY(KVM, clone3, 0, 0),
    DENY(KVM, unshare, CLONE_NEWUSER),
    DENY(KVM, setns, 0, 0),
    DENY(KVM, socket, 1, 1, 0),
    DENY(KVM, socketpair, 1, 1, 0, 0),
    DENY(KVM, connect, 0, 0, 0),
    DENY(KVM, bind, 0, 0, 0),
    DENY(KVM, sendmsg, 0, 0, 0),
    DENY(KVM, recvmsg, 0, 0, 0),
    DENY(KVM, sendto, 0, 0, 0, 0, 0, 0),
    DENY(KVM, ptrace, PTRACE_TRACEME, 0, 0, 0),
    DENY(KVM, process_vm_readv, 1, 0, 0, 0, 0, 0),
    DENY(KVM, process_vm_writev, 1, 0, 0, 0, 0, 0),
    DENY(KVM, pidfd_open, 1, 0),
    DENY(KVM, pidfd_getfd, 0, 0, 0),
    DENY(KVM, tkill, 1, 0),
    DENY(KVM, rt_sigqueueinfo, 1, 0, 0),
    DENY(KVM, rt_sigaction, SIGUSR1, 0, 0, 8),
    DENY(KVM, unlinkat, AT_FDCWD, P("/tmp/never"), 0),
    DENY(KVM, fchmod, 1, 0777),
    DENY(KVM, fchown, 1, 0, 0),
    DENY(KVM, setxattr, P("/tmp/never"), 0, 0, 0, 0),
    DENY(KVM, truncate, P("/tmp/never"), 0),
    DENY(KVM, utimensat, 1, 0, 0, 0),
    DENY(KVM, newfstatat, AT_FDCWD, P("/etc/passwd"), P(page), 0),
    DENY(KVM, newfstatat, -1, P(""), P(page), AT_EMPTY_PATH),
    DENY(KVM, statx, AT_FDCWD, P("/etc/passwd"), 0, 0, P(page)),
    DENY(KVM, getdents64, 0, P(page), 100),
    DENY(KVM, chdir, P("/")),
    DENY(KVM, chroot, P("/")),
    DENY(KVM, pivot_root, P("/"), P("/")),
    DENY(KVM, mount, 0, P("/mnt"), P("tmpfs"), 0, 0),
    DENY(KVM, umount2, P("/mnt"), 0),
    DENY(KVM, setuid, 0),
    DENY(KVM, setresuid, 0, 0, 0),
    DENY(KVM, setgroups, 0, 0),
    DENY(KVM, capset, 0, 0),
    DENY(KVM, prctl, 4, 1, 0, 0, 0),
    DENY(KVM, seccomp, 0, 0, 0),
    DENY(KVM, personality, 0x0400000),
    DENY(KVM, setrlimit, 0, 0),
    DENY(KVM, prlimit64, 0, 0, 0, 0),
    DENY(KVM, io_uring_setup, 1, P(page)),
    DENY(KVM, io_setup, 1, P(page)),
    DENY(KVM, bpf, 0, 0, 0),
    DENY(KVM, userfaultfd, 0),
    DENY(KVM, perf_event_open, 0, 0, 0, 0, 0),
    DENY(KVM, keyctl, 0, 0),
    DENY(KVM, add_key, 0, 0, 0, 0, 0),
    DENY(KVM, init_module, 0, 0, 0),
    DENY(KVM, kexec_load, 0, 0, 0, 0),
    DENY(KVM, reboot, 0, 0, 0, 0),
    DENY(KVM, settimeofday, 0, 0),
    DENY(KVM, sethostname, P("x"), 1),
    DENY(KVM, shmget, 0, 4096, 0600),
    DENY(KVM, dup, 1),
    DENY(KVM, fcntl, 1, F_DUPFD, 0),
    DENY(KVM, fallocate, 1, 0, 0, 1),
    DENY(KVM, copy_file_range, 0, 0, 1, 0, 1, 0),
    DENY(KVM, sendfile, 1, 0, 0, 1),
    DENY(KVM, splice, 0, 0, 1, 0, 1, 0),
    DENY(KVM, vmsplice, 1, 0, 0, 0),
    DENY(KVM, mmap, 0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
    DENY(KVM, mmap, 0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
    DENY(KVM, mprotect, P(page), 4096, PROT_READ | PROT_EXEC),
    DENY(KVM, pkey_mprotect, P(page), 4096, PROT_READ | PROT_EXEC, -1),
    DENY(KVM, shmat, 0, 0, 0),
    DENY(KVM, remap_file_pages, P(page), 4096, 0, 0, 0),
    DENY(KVM, ioctl, 1, KVM_CREATE_VM, 0),
    DENY(KVM, ioctl, 1, KVM_CREATE_VCPU, 0),
    DENY(KVM, ioctl, 1, KVM_SET_USER_MEMORY_REGION, 0),
    DENY(KVM, ioctl, 1, KVM_SET_REGS, 0),
    DENY(KVM, ioctl, 1, KVM_SET_SREGS, 0),
    DENY(KVM, ioctl, 1, 0x5412 /* TIOCSTI */, P(page)),
    DENY(KVM, ioctl, 1, 0x5401 /* TCGETS */, P(page)),
    {KVM, "an unknown system call", 1000, {0}},
#ifdef SYS_open /* newer architectures have none of these */
    DENY(KVM, open, P("/etc/passwd"), O_RDONLY),
    DENY(KVM, creat, P("/tmp/never"), 0600),
    DENY(KVM, fork, 0),
    DENY(KVM, vfork, 0),
    DENY(KVM, unlink, P("/tmp/never")),
    DENY(KVM, rename, P("/tmp/never"), P("/tmp/ever")),
    DENY(KVM, link, P("/tmp/never"), P("/tmp/ever")),
    DENY(KVM, symlink, P("/tmp/never"), P("/tmp/ever")),
    DENY(KVM, mkdir, P("/tmp/never"), 0700),
    DENY(KVM, mknod, P("/tmp/never"), 0600, 0),
    DENY(KVM, chmod, P("/tmp/never"), 0777),
    DENY(KVM, chown, P("/tmp/never"), 0, 0),
    DENY(KVM, stat, P("/etc/passwd"), P(page)),
    DENY(KVM, access, P("/etc/passwd"), 0),
    DENY(KVM, readlink, P("/proc/self/exe"), P(page), 100),
    DENY(KVM, dup2, 1, 9),
    DENY(PROCESS, clone, SIGCHLD, 0),
    DENY(GUEST, fork, 0),
#endif
#ifdef __x86_64__
    {KVM, "getpid of the x32 ABI", X32 + SYS_getpid, {0}},
    {GUEST, "getpid of the x32 ABI", X32 + SYS_getpid, {0}},
#endif
    DENY(PROCESS, ioctl, 1, KVM_RUN, 0),
    DENY(PROCESS, ioctl, 1, KVM_GET_REGS, P(page)),
    DENY(PROCESS, openat, AT_FDCWD, P("/etc/passwd"), O_RDONLY),
    DENY(PROCESS, ptrace, PTRACE_ATTACH, 1, 0, 0),
    DENY(GUEST, getpid, 0),
    DENY(GUEST, read, 0, P(page), 1),
    DENY(GUEST, write, 2, P("x"), 1),
    DENY(GUEST, pread64, 3, P(page), 1, 0),
    DENY(GUEST, pwrite64, 3, P(page), 1, 0),
    DENY(GUEST, openat, AT_FDCWD, P("/etc/passwd"), O_RDONLY),
    DENY(GUEST, socket, 1, 1, 0),
    DENY(GUEST, execve, P("/bin/true"), 0, 0),
    DENY(GUEST, clone, SIGCHLD, 0),
    DENY(GUEST, ptrace, PTRACE_TRACEME, 0, 0, 0),
    DENY(GUEST, mmap, 0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
    DENY(GUEST, mprotect, P(page), 4096, PROT_READ),
    DENY(GUEST, munmap, P(page), 4096),
    DENY(GUEST, brk, 0),
    DENY(GUEST, futex, P(page), 1, 1, 0, 0, 0),
    DENY(GUEST, rt_sigreturn, 0),
    DENY(GUEST, exit, 0),
};

static const struct attempt allowed[] = {
    DENY(KVM, pread64, -1, P(page), 1, 0),
    DENY(KVM, pwrite64, -1, P(page), 1, 0),
    DENY(KVM, fdatasync, -1),
    DENY(KVM, fsync, -1),
    DENY(KVM, ftruncate, -1, 0),
    DENY(KVM, lseek, -1, 0, SEEK_END),
    DENY(KVM, fstat, -1, P(page)),
#ifdef SYS_poll
    DENY(KVM, poll, 0, 0, 0),
#else
    DENY(KVM, ppoll, 0, 0, P(&no_time), 0, 0),
#endif
    DENY(KVM, mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
    DENY(KVM, mprotect, P(page), 4096, PROT_READ | PROT_WRITE),
    DENY(KVM, ioctl, -1, KVM_RUN, 0),
    DENY(KVM, ioctl, -1, KVM_GET_REGS, P(page)),
    DENY(PROCESS, pread64, -1, P(page), 1, 0),
    DENY(PROCESS, read, -1, P(page), 1),
    DENY(PROCESS, wait4, -1, 0, WNOHANG, 0),
};

/* ---- attempts that are not one system call with constants ---------------------------------------------- */

static void kill_parent(void)
{
    syscall(SYS_kill, parent, 0);
}

static void kill_self(void)
{
    syscall(SYS_kill, getpid(), SIGKILL);
}

static void tgkill_parent(void)
{
    syscall(SYS_tgkill, parent, parent, 0);
}

static void kill_guest(void)
{
    if (syscall(SYS_kill, guest, SIGKILL) < 0 || syscall(SYS_wait4, guest, NULL, 0, NULL) != guest)
        syscall(SYS_exit_group, 1);
}

static void stop_guest(void)
{
    syscall(SYS_kill, guest, SIGSTOP);
}

#ifdef __x86_64__
static void use_int80(void)
{
    __asm__ volatile("int $0x80" : : "a"(20L) : "memory"); /* getpid of the 32-bit ABI */
}

/* What ends a process that makes such a call and is in no sandbox: 0, or SIGSEGV where the kernel has no such ABI. */
static int end_of_int80(void)
{
    int status = 0;
    pid_t pid = fork();

    if (pid == 0) {
        use_int80();
        syscall(SYS_exit_group, 0);
    }
    return pid > 0 && waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}
#endif

static void guest_reads_other_end(void)
{
    syscall(SYS_read, pipe_fds[1], page, 1);
}

/* The filter is on all threads, also on those made before. */
static pthread_barrier_t filtered;

static void *open_in_thread(void *arg)
{
    pthread_barrier_wait(&filtered);
    syscall(SYS_openat, AT_FDCWD, "/etc/passwd", O_RDONLY);
    return arg;
}

static void wait_for_thread(void)
{
    pthread_barrier_wait(&filtered);
    for (;;)
        (void)poll(NULL, 0, 1000);
}

static void guest_rings(void)
{
    if (syscall(SYS_write, pipe_fds[1], "x", 1) != 1 || syscall(SYS_read, pipe_fds[0], page, 1) != 1)
        syscall(SYS_exit_group, 1);
}

static void tgkill_self(void)
{
    if (syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), 0) < 0)
        syscall(SYS_exit_group, 1);
}

/* Memory as the overlay's index uses it: larger and larger. */
static void use_malloc(void)
{
    void *p = NULL;

    for (size_t size = 64; size < 32u << 20; size *= 4) {
        void *grown = realloc(p, size);
        if (!grown)
            syscall(SYS_exit_group, 1);
        p = memset(grown, 1, size);
    }
    free(p);
}

struct act {
    enum wall wall;
    const char *name;
    void (*act)(void);
    bool thread, dies;
    int (*end)(void); /* the signal that ends it already without a sandbox, or 0 */
};

static const struct act acts[] = {
    {KVM, "kill of another process", kill_parent, false, true},
    {KVM, "kill of itself", kill_self, false, true},
    {KVM, "tgkill of another process", tgkill_parent, false, true},
    {KVM, "openat in a thread made before", wait_for_thread, true, true},
    {PROCESS, "kill of another process", kill_parent, false, true},
    {PROCESS, "tgkill of another process", tgkill_parent, false, true},
    {PROCESS, "another signal than KILL for its guest", stop_guest, false, true},
    {PROCESS, "kill of its guest", kill_guest, false, false},
    {GUEST, "read of the descriptor that is for writing", guest_reads_other_end, false, true},
    {GUEST, "the doorbell", guest_rings, false, false},
    {KVM, "tgkill of itself", tgkill_self, false, false},
    {KVM, "malloc, realloc, free", use_malloc, false, false},
#ifdef __x86_64__
    {KVM, "a system call of the 32-bit ABI", use_int80, false, true, end_of_int80},
    {GUEST, "a system call of the 32-bit ABI", use_int80, false, true, end_of_int80},
#endif
};

/* ---- running them -------------------------------------------------------------------------------------- */

/* A call that is let through may wait for ever. */
enum { TRY_SECONDS = 5 };

static unsigned passed, failed;

/* Ends with the process that made it. */
static void start_guest(void)
{
    pid_t maker = getpid();

    guest = fork();
    if (guest != 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != maker) /* it has ended already */
        _exit(0);
    for (;;)
        pause();
}

static int enter(enum wall wall, bool thread)
{
    pthread_t t;

    alarm(patience(TRY_SECONDS));
    if (wall == PROCESS)
        start_guest();
    if (sandbox_drop(0, 0) < 0)
        return -1;
    if (thread && (pthread_barrier_init(&filtered, NULL, 2) || pthread_create(&t, NULL, open_in_thread, NULL)))
        return -1;
    if (wall == GUEST)
        return sandbox_filter_guest(pipe_fds[0], pipe_fds[1]);
    return sandbox_filter((enum vmm_accel)wall, guest);
}

/* signal_number: what it has to die of; 0 = it has to live. */
static void judge(pid_t pid, enum wall wall, const char *name, int signal_number)
{
    static const char *const walls[] = {[KVM] = "kvm", [PROCESS] = "process", [GUEST] = "guest process"};
    int status = 0;
    bool good = pid > 0 && waitpid(pid, &status, 0) == pid;

    good = good && (signal_number ? WIFSIGNALED(status) && WTERMSIG(status) == signal_number : status == 0);

    printf("%s sandbox, %s: %s %s", good ? "ok" : "FAILED", walls[wall], signal_number ? "forbids" : "allows",
           name);
    printf(good ? "\n" : " (wait status %#x)\n", (unsigned)status);
    fflush(stdout);
    passed += good;
    failed += !good;
}

static void try_call(const struct attempt *a, bool dies)
{
    pid_t pid = fork();

    if (pid == 0) {
        if (enter(a->wall, false) < 0)
            _exit(9);
        syscall(a->number, a->args[0], a->args[1], a->args[2], a->args[3], a->args[4], a->args[5]);
        syscall(SYS_exit_group, 0);
    }
    judge(pid, a->wall, a->name, dies ? SIGSYS : 0);
}

static void try_act(const struct act *a)
{
    int end = a->end ? a->end() : 0;
    pid_t pid = fork();

    if (pid == 0) {
        if (enter(a->wall, a->thread) < 0)
            _exit(9);
        a->act();
        syscall(SYS_exit_group, 0);
    }
    judge(pid, a->wall, a->name, !a->dies ? 0 : end ? end : SIGSYS);
}

/* sandbox_close_others() keeps what it is told to, and nothing else. */
static void try_close(void)
{
    pid_t pid = fork();

    if (pid == 0) {
        const int keep[] = {40, -1, 7, 41, -1};
        const int made[] = {5, 6, 7, 8, 39, 40, 41, 42, 900};
        for (unsigned i = 0; i < sizeof(made) / sizeof(made[0]); i++)
            dup2(pipe_fds[0], made[i]);
        sandbox_close_others(keep, sizeof(keep) / sizeof(keep[0]));
        for (int fd = 0; fd < 1024; fd++)
            if ((fcntl(fd, F_GETFD) >= 0) != (fd == 7 || fd == 40 || fd == 41))
                _exit(1);
        _exit(0);
    }
    judge(pid, KVM, "only the descriptors that were named", 0);
}

/* Root without its rights, where the configured user is root. */
static void try_drop(void)
{
    pid_t pid = fork();

    if (pid == 0) {
        char line[256];
        FILE *status = sandbox_drop(0, 0) < 0 ? NULL : fopen("/proc/self/status", "re");
        unsigned sets = 0, empty = 0;

        while (status && fgets(line, sizeof(line), status)) {
            if (strncmp(line, "Cap", 3) != 0)
                continue;
            sets++;
            /* Who is not root has no say on the bounding set. */
            empty += strtoull(line + 7, NULL, 16) == 0 || (strncmp(line, "CapBnd", 6) == 0 && geteuid() != 0);
        }
        struct rlimit core;
        bool no_core = prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0 && getrlimit(RLIMIT_CORE, &core) == 0 && core.rlim_max == 0;
        _exit(sets != 5 || empty != sets || !no_core);
    }
    judge(pid, KVM, "a process without capabilities, of which no core is dumped", 0);
}

int main(void)
{
#ifdef SANITIZED
    puts("SKIP sandbox: built with a sanitizer, whose run-time needs system calls that the filters forbid");
    return 77;
#endif
    parent = getpid();
    if (pipe(pipe_fds) < 0)
        return 2;
    for (unsigned i = 0; i < sizeof(denied) / sizeof(denied[0]); i++)
        try_call(&denied[i], true);
    for (unsigned i = 0; i < sizeof(allowed) / sizeof(allowed[0]); i++)
        try_call(&allowed[i], false);
    for (unsigned i = 0; i < sizeof(acts) / sizeof(acts[0]); i++)
        try_act(&acts[i]);
    try_close();
    try_drop();
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0;
}
