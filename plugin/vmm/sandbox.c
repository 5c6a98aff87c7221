/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* sandbox.c: what the VMM child gives up before the first guest instruction: descriptors, rights, system calls. */
#include <cap-ng.h>
#include <errno.h>
#include <linux/kvm.h>
#include <seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "vmm.h"

/* The sanitizers' run-time makes system calls of its own: such builds are for tests, and run without the filters. */
#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif

static int by_number(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;

    return (x > y) - (x < y);
}

void sandbox_close_others(const int *keep, unsigned n)
{
    int fds[16];
#ifdef SANITIZED
    unsigned from = 3; /* they report on standard error */
#else
    unsigned from = 0;
#endif

    for (unsigned i = 0; i < n; i++)
        fds[i] = keep[i];
    qsort(fds, n, sizeof(fds[0]), by_number);
    for (unsigned i = 0; i < n; i++) {
        if (fds[i] < (int)from)
            continue;
        if ((unsigned)fds[i] > from)
            (void)close_range(from, (unsigned)fds[i] - 1, 0);
        from = (unsigned)fds[i] + 1;
    }
    (void)close_range(from, ~0u, 0);
}

int sandbox_drop(uint32_t uid, uint32_t gid)
{
    const struct rlimit none = {0, 0};

    capng_clear(CAPNG_SELECT_BOTH);
    if (uid != 0 && capng_change_id((int)uid, (int)gid, CAPNG_DROP_SUPP_GRP | CAPNG_CLEAR_BOUNDING) < 0)
        return -EPERM;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ||
        setrlimit(RLIMIT_CORE, &none) < 0)
        return -errno;
    /*
     * The bounding set went with the user, or is out of reach for whom has no rights to begin with; no_new_privs stands for
     * it there. libcap-ng must not be asked for it then: it would complain to the system's log.
     */
    capng_get_caps_process();
    bool bounding = capng_have_capability(CAPNG_EFFECTIVE, CAP_SETPCAP);
    capng_clear(CAPNG_SELECT_BOTH);
    return capng_apply(bounding ? CAPNG_SELECT_BOTH : CAPNG_SELECT_CAPS) < 0 ? -EPERM : 0;
}

int sandbox_limit(uint64_t memory, uint64_t file)
{
#ifdef SANITIZED
    (void)memory;
    (void)file;
    return 0;
#else
    struct rlimit as, size;

    if (getrlimit(RLIMIT_AS, &as) < 0 || getrlimit(RLIMIT_FSIZE, &size) < 0)
        return -errno;
    as.rlim_cur = as.rlim_max = memory < as.rlim_max ? memory : as.rlim_max;
    size.rlim_cur = size.rlim_max = file < size.rlim_max ? file : size.rlim_max;
    /* What would be larger fails, as on a full disk. */
    signal(SIGXFSZ, SIG_IGN);
    return setrlimit(RLIMIT_AS, &as) < 0 || setrlimit(RLIMIT_FSIZE, &size) < 0 ? -errno : 0;
#endif
}

/* What the C library's poll() calls: newer architectures of Linux have no system call of that name. */
#ifdef __NR_poll
#define SYSTEM_CALL_OF_POLL SCMP_SYS(poll)
#else
#define SYSTEM_CALL_OF_POLL SCMP_SYS(ppoll)
#endif

/* What the VMM calls while a guest runs, and why. Everything else kills the process. */
static const int allowed[] = {
    SCMP_SYS(pread64),         /* the image, the overlay, the journal */
    SCMP_SYS(pwrite64),        /* the same */
    SCMP_SYS(lseek),           /* the image's size, before the commit; its holes */
    SCMP_SYS(ftruncate),       /* a rebuild makes the image longer, an undo shorter */
    SCMP_SYS(fdatasync),       /* between epochs */
    SCMP_SYS(fsync),           /* the journal, once */
    SCMP_SYS(fstat),           /* the image's modification time, for the journal */
    SCMP_SYS(write),           /* frames to the front; the process accelerator's pipe */
    SCMP_SYS(read),            /* the process accelerator's pipe */
    SYSTEM_CALL_OF_POLL,       /* the watchdog waits for an abort */
    SCMP_SYS(futex),           /* threads */
    SCMP_SYS(gettid),          /* abort() */
    SCMP_SYS(getpid),          /* abort() */
    SCMP_SYS(rt_sigreturn),    /* after that signal */
    SCMP_SYS(rt_sigprocmask),  /* the C library around signals */
    SCMP_SYS(restart_syscall), /* a stopped and continued process */
    SCMP_SYS(clock_gettime),   /* where the vDSO cannot */
    SCMP_SYS(brk),             /* malloc: the overlay's index */
    SCMP_SYS(munmap),          /* free */
    SCMP_SYS(mremap),          /* realloc */
    SCMP_SYS(madvise),         /* the C library gives memory back */
    SCMP_SYS(sysinfo),         /* qsort() of a large array asks how much memory there is */
    SCMP_SYS(wait4),           /* the process accelerator's guest ended */
    SCMP_SYS(exit),            /* a thread ends */
    SCMP_SYS(exit_group),      /* the end */
};

static int add_rules(scmp_filter_ctx f, enum vmm_accel accel, int guest_pid)
{
    int err = 0;

    for (unsigned i = 0; i < sizeof(allowed) / sizeof(allowed[0]) && !err; i++)
        err = seccomp_rule_add(f, SCMP_ACT_ALLOW, allowed[i], 0);
    /* malloc maps memory, never to execute it. */
    err = err ? err : seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
                                       SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    /* malloc's arenas of threads become writable piece by piece. */
    err = err ? err : seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
                                       SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    if (guest_pid > 0 && !err)
        err = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(kill), 2, SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)guest_pid),
                               SCMP_A1(SCMP_CMP_EQ, SIGKILL));
    /* The watchdog stops the vCPU; abort(). Signals go to threads of this process only. */
    err = err ? err : seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
                                       SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));
    if (accel != VMM_ACCEL_KVM || err)
        return err;
    /* Run the guest; say where it was when it crashed. */
    err = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_EQ, KVM_RUN));
    return err ? err : seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_EQ, KVM_GET_REGS));
}

int sandbox_filter(enum vmm_accel accel, int guest_pid)
{
#ifdef SANITIZED
    (void)accel;
    (void)guest_pid;
    (void)add_rules;
    return 0;
#else
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_KILL_PROCESS);
    int err = f ? 0 : -ENOMEM;

    err = err ? err : seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1);
    err = err ? err : add_rules(f, accel, guest_pid);
    err = err ? err : seccomp_load(f);
    seccomp_release(f);
    return err;
#endif
}

int sandbox_filter_guest(int read_fd, int write_fd)
{
#ifdef SANITIZED
    (void)read_fd;
    (void)write_fd;
    return 0;
#else
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_KILL_PROCESS);
    int err = f ? 0 : -ENOMEM;

    /* The doorbell, both ways, and the way out. */
    err = err ? err : seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(read), 1,
                                       SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)read_fd));
    err = err ? err : seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(write), 1,
                                       SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)write_fd));
    err = err ? err : seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(exit_group), 0);
    err = err ? err : seccomp_load(f);
    seccomp_release(f);
    return err;
#endif
}
