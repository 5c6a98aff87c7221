/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * failing_calls.c: a preloaded library that makes file calls on one file fail, as a bad disk would.
 *
 * FAIL_INODE: the file; with FAIL_OTHERS=1, every named file but that one. FAIL_CALL: pread, pwrite, fdatasync, fsync, or
 * ioctl, which is about KVM's whatever the file is. FAIL_AFTER: how many calls on that file go well first. FAIL_ERRNO: with
 * which error the one after them fails, and with FAIL_FOREVER=1 every later one as well.
 * FAIL_CALL=no-vm: KVM's calls are answered as by a KVM that has all that is asked for, and makes no VM (FAIL_ERRNO).
 * FAIL_FORKED=1: only in processes that the program forks, which count for themselves.
 * FAIL_WAIT: they do not fail, but wait that many milliseconds first, as on a slow disk. FAIL_SHORT=1: they do not fail, but
 * do 16 bytes of what they were asked at most.
 */
#include <dlfcn.h>
#include <errno.h>
#include <linux/kvm.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static char call_name[16];
static unsigned long inode, after;
static int error, forever, milliseconds, others, pieces, not_here;

static const char *setting(const char *name)
{
    const char *value = getenv(name);

    return value ? value : "";
}

static void forked(void)
{
    not_here = 0;
}

/* At once: the VMM forgets its environment. */
__attribute__((constructor)) static void read_settings(void)
{
    strncpy(call_name, setting("FAIL_CALL"), sizeof(call_name) - 1);
    inode = strtoul(setting("FAIL_INODE"), NULL, 10);
    after = strtoul(setting("FAIL_AFTER"), NULL, 10);
    error = atoi(setting("FAIL_ERRNO"));
    forever = *setting("FAIL_FOREVER") != '\0';
    milliseconds = atoi(setting("FAIL_WAIT"));
    others = *setting("FAIL_OTHERS") != '\0';
    pieces = *setting("FAIL_SHORT") != '\0';
    not_here = *setting("FAIL_FORKED") != '\0';
    pthread_atfork(NULL, NULL, forked);
}

static int is_meant(const char *call, int fd)
{
    struct stat st;

    if (strcmp(call, "ioctl") == 0)
        return 1;
    if (syscall(SYS_fstat, fd, &st) < 0)
        return 0;
    return others ? st.st_ino != inode && S_ISREG(st.st_mode) && st.st_nlink > 0 : st.st_ino == inode;
}

static size_t length_of(const char *call, int fd, size_t len)
{
    return pieces && len > 16 && strcmp(call_name, call) == 0 && is_meant(call, fd) ? 16 : len;
}

static int should_fail(const char *call, int fd)
{
    static unsigned long calls;

    if (strcmp(call_name, call) != 0 || pieces || not_here || !is_meant(call, fd))
        return 0;
    unsigned long n = __atomic_fetch_add(&calls, 1, __ATOMIC_SEQ_CST);
    if (n < after || (n > after && !forever))
        return 0;
    if (milliseconds) {
        poll(NULL, 0, milliseconds);
        return 0;
    }
    errno = error;
    return 1;
}

ssize_t pread64(int fd, void *buf, size_t len, off_t at)
{
    static ssize_t (*real)(int, void *, size_t, off_t);

    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "pread64");
    return should_fail("pread", fd) ? -1 : real(fd, buf, length_of("pread", fd, len), at);
}

ssize_t pwrite64(int fd, const void *buf, size_t len, off_t at)
{
    static ssize_t (*real)(int, const void *, size_t, off_t);

    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "pwrite64");
    return should_fail("pwrite", fd) ? -1 : real(fd, buf, length_of("pwrite", fd, len), at);
}

int fdatasync(int fd)
{
    static int (*real)(int);

    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "fdatasync");
    return should_fail("fdatasync", fd) ? -1 : real(fd);
}

int fsync(int fd)
{
    static int (*real)(int);

    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "fsync");
    return should_fail("fsync", fd) ? -1 : real(fd);
}

static int kvm_without_vm(unsigned long request)
{
    if (request == KVM_GET_API_VERSION)
        return KVM_API_VERSION;
    if (request == KVM_CHECK_EXTENSION)
        return 1;
    errno = error;
    return -1;
}

int ioctl(int fd, unsigned long request, ...)
{
    static int (*real)(int, unsigned long, void *);
    va_list args;

    va_start(args, request);
    void *arg = va_arg(args, void *);
    va_end(args);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "ioctl");
    if (_IOC_TYPE(request) == KVMIO && strcmp(call_name, "no-vm") == 0)
        return kvm_without_vm(request);
    return _IOC_TYPE(request) == KVMIO && should_fail("ioctl", fd) ? -1 : real(fd, request, arg);
}
