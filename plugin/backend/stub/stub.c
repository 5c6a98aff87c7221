/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * stub.c: the module that libvirt loads in place of its own "fs" storage backend; needs libc alone.
 *
 * A module that cannot be loaded, or whose register function fails, keeps libvirt's daemon from starting.
 * So this one does nothing that can fail: it lets the stock module register as ever, and only then tries
 * to load the real code, whose failure costs vol-repair and nothing else.
 */
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>

#define REGISTER "virStorageBackendFsRegister"
#define MODULE "libvirt_storage_backend_fs.so"
#define REAL_CODE "libvol-repair-backend.so"
#define TRIAL_SECONDS 20
#define LOADER_COMPLAINED 127 /* exit status */

int virStorageBackendFsRegister(void);

static void __attribute__((format(printf, 1, 2))) complain(const char *fmt, ...)
{
    char text[1024];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    fprintf(stderr, "vol-repair: %s\n", text);
    syslog(LOG_DAEMON | LOG_WARNING, "vol-repair: %s", text);
}

/* path = the directory of the object that holds addr, then tail. */
static int beside(const void *addr, const char *tail, char path[PATH_MAX])
{
    Dl_info info;
    const char *slash;
    int n;

    if (!addr || !dladdr(addr, &info) || !info.dli_fname)
        return -1;
    slash = strrchr(info.dli_fname, '/');
    if (!slash)
        return -1;
    n = snprintf(path, PATH_MAX, "%.*s/%s", (int)(slash - info.dli_fname), info.dli_fname, tail);
    return n > 0 && n < PATH_MAX ? 0 : -1;
}

/* The stock module stands in ../storage-backend, seen from the storage driver; where a packager has diverted it
 * to make room for this one, under the name that dpkg-divert gives. */
static void *load_stock(void)
{
    char path[PATH_MAX];
    void *module;

    if (beside(dlsym(RTLD_DEFAULT, "virStorageBackendRegister"), "../storage-backend/" MODULE, path) < 0) {
        complain("libvirt's storage driver was not found in this process; pools of type dir, fs and netfs are missing");
        return NULL;
    }
    module = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (!module)
        complain("libvirt's own backend cannot be loaded, pools of type dir, fs and netfs are missing: %s", dlerror());
    return module;
}

/*
 * A damaged file can kill the process that loads it, so another one goes first: `true`, with the file preloaded. A copy of this one
 * will not do: where another thread of the daemon is in the loader at the fork, its lock is held in the copy for ever. So between
 * fork and exec is nothing but system calls. It is `env` that sets the variable, because where AppArmor changes the profile at an
 * exec, the loader does not heed it. Returns the wait status.
 */
static int try_to_load(const char *path)
{
    static const struct rlimit no_core;
    char preload[sizeof("LD_PRELOAD=") + PATH_MAX];
    pid_t pid, waited;
    int status;

    snprintf(preload, sizeof(preload), "LD_PRELOAD=%s", path);
    pid = _Fork();
    if (pid == 0) {
        setrlimit(RLIMIT_CORE, &no_core);
        signal(SIGALRM, SIG_DFL);
        alarm(TRIAL_SECONDS);
        execl("/usr/bin/env", "env", preload, "/bin/true", (char *)NULL);
        _exit(EXIT_FAILURE);
    }
    do {
        waited = waitpid(pid, &status, 0);
    } while (waited < 0 && errno == EINTR);
    return pid > 0 && waited == pid ? status : EXIT_FAILURE << 8;
}

static void load_real_code(void *stock)
{
    char path[PATH_MAX];
    int (*init)(void *);
    int status;
    void *real;

    if (beside((const void *)virStorageBackendFsRegister, "../" REAL_CODE, path) < 0) {
        complain("repair is off: the place of " MODULE " is not known");
        return;
    }
    status = try_to_load(path);
    if (WIFSIGNALED(status)) {
        complain("repair is off: '%s' is damaged, a process that loaded it died of signal %d", path, WTERMSIG(status));
        return;
    }
    /* What the loader only complains of, dlopen() says again. */
    if (WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != LOADER_COMPLAINED) {
        complain("repair is off: no process can be started that tries '%s' (status %d)", path, WEXITSTATUS(status));
        return;
    }
    real = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!real) {
        complain("repair is off: %s", dlerror());
        return;
    }
    *(void **)&init = dlsym(real, "vol_repair_backend_init");
    if (!init) {
        complain("repair is off: %s", dlerror());
        return;
    }
    if (init(stock) < 0)
        complain("repair is off: see the message above; storage pools work as ever");
}

int __attribute__((visibility("default"))) virStorageBackendFsRegister(void)
{
    int (*stock_register)(void);
    void *stock;
    int ret;

    /* This is the first backend the driver loads; it looks for the others in its built-in directory then. */
    unsetenv("LIBVIRT_STORAGE_BACKEND_DIR");

    stock = load_stock();
    if (!stock)
        return 0;
    *(void **)&stock_register = dlsym(stock, REGISTER);
    if (!stock_register || stock_register == virStorageBackendFsRegister) {
        complain("libvirt's own backend has no function " REGISTER "; its pools of type dir, fs and netfs are missing");
        return 0;
    }
    ret = stock_register();
    if (ret == 0)
        load_real_code(stock);
    return ret;
}
