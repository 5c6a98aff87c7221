# SPDX-License-Identifier: LGPL-2.1-or-later
# Whatever is wrong with the extension: the daemon starts, its pools work, and the log says why repair is off.
import os
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import libvirt

from common import MAGIC, connection, control, expect_error, repair, volume

CAPABILITIES = "<vol-repair request='capabilities'/>"

# In the place of a function of libvirt's own, as another libvirt might have it.
INTERPOSED = '''
int virStorageBackendVolWipeLocal(void *pool, void *vol, unsigned int algorithm, unsigned int flags);
int virStorageBackendVolWipeLocal(void *pool, void *vol, unsigned int algorithm, unsigned int flags)
{
    (void)pool; (void)vol; (void)algorithm; (void)flags;
    return -1;
}
'''

# At every fork another thread is in the loader, as one that unwinds its stack is.
FORKS_IN_THE_LOADER = '''
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <unistd.h>

static pthread_barrier_t in, out;

static int wait_for_fork(struct dl_phdr_info *info, size_t size, void *opaque)
{
    (void)info; (void)size; (void)opaque;
    pthread_barrier_wait(&in);
    pthread_barrier_wait(&out);
    return 1;
}

static void *walk(void *opaque)
{
    dl_iterate_phdr(wait_for_fork, NULL);
    return opaque;
}

static pid_t fork_now(const char *name)
{
    pid_t (*real)(void), pid;
    pthread_t thread;

    *(void **)&real = dlsym(RTLD_NEXT, name);
    pthread_barrier_init(&in, NULL, 2);
    pthread_barrier_init(&out, NULL, 2);
    pthread_create(&thread, NULL, walk, NULL);
    pthread_barrier_wait(&in);
    pid = real();
    if (pid == 0)
        return 0;
    pthread_barrier_wait(&out);
    pthread_join(thread, NULL);
    return pid;
}

pid_t fork(void) { return fork_now("fork"); }
pid_t _Fork(void) { return fork_now("_Fork"); }
'''


def compile_library(path, source):
    subprocess.run(['cc', '-shared', '-fPIC', '-x', 'c', '-', '-o', path], input=source, text=True, check=True)


def check_stock(lab, reason):
    """The pools are libvirt's own, repair is off, and the log has the reason."""
    with connection(lab) as conn:
        pool = conn.storagePoolLookupByName('default')
        assert pool.isActive()
        pool.createXML("<volume><name>a.qcow2</name><capacity>1048576</capacity>"
                       "<target><format type='qcow2'/></target></volume>", 0)
        expect_error(libvirt.VIR_ERR_NO_SUPPORT, control, conn, CAPABILITIES)
        before = os.stat(lab.pool_dir / 'a.qcow2')
        try:
            assert repair(conn, 'a.qcow2', 'all') is None
        except libvirt.libvirtError as e:
            assert e.get_error_code() == libvirt.VIR_ERR_SYSTEM_ERROR, e
        assert os.stat(lab.pool_dir / 'a.qcow2').st_mtime_ns == before.st_mtime_ns
        volume(conn, 'a.qcow2').delete(0)
    log = lab.log()
    assert 'repair is off' in log and reason in log, log[-2000:]


def test_real_code_missing(t):
    lab = t.lab('clean')
    lab.real_code.unlink()
    with lab:
        check_stock(lab, 'No such file')


def test_real_code_truncated(t):
    lab = t.lab('clean')
    os.truncate(lab.real_code, 5000)
    with lab:
        check_stock(lab, 'is damaged')


def test_real_code_empty(t):
    lab = t.lab('clean')
    os.truncate(lab.real_code, 0)
    with lab:
        check_stock(lab, 'file too short')


def test_real_code_garbage(t):
    lab = t.lab('clean')
    data = bytearray(lab.real_code.read_bytes())
    data[4096:] = bytes(0xff for _ in data[4096:])
    lab.real_code.write_bytes(data)
    with lab:
        check_stock(lab, 'is damaged')


def test_real_code_unresolved_symbol(t):
    lab = t.lab('clean')
    compile_library(lab.real_code, 'int gone(void); int vol_repair_backend_init(void *s) { (void)s; return gone(); }')
    with lab:
        check_stock(lab, 'undefined symbol: gone')


def test_real_code_without_entry(t):
    lab = t.lab('clean')
    compile_library(lab.real_code, 'int nothing;')
    with lab:
        check_stock(lab, 'undefined symbol: vol_repair_backend_init')


def test_loader_is_busy_at_the_fork(t):
    """What another thread of the daemon holds then says nothing of the file that is tried."""
    preload = t.tmp / 'busy.so'
    compile_library(preload, FORKS_IN_THE_LOADER)
    with t.lab('clean', daemon_env={'LD_PRELOAD': str(preload)}) as lab, connection(lab) as conn:
        assert not (said := [line for line in lab.log().splitlines() if 'repair is off' in line]), said
        assert '<vol-repair version' in control(conn, CAPABILITIES)


def test_table_mismatch(t):
    preload = t.tmp / 'interposed.so'
    compile_library(preload, INTERPOSED)
    with t.lab('clean', daemon_env={'LD_PRELOAD': str(preload)}) as lab:
        check_stock(lab, 'is not virStorageBackendVolWipeLocal')


def test_version_gate(t):
    with t.lab('clean', settings={'newest_libvirt': '8000000'}) as lab:
        check_stock(lab, 'is newer than newest_libvirt = 8000000')


def test_newer_major_version(t):
    """What its functions expect cannot be proven: off, until the administrator says otherwise."""
    preload = t.tmp / 'version.so'
    compile_library(preload, 'int virGetVersion(unsigned long *v, const char *t, unsigned long *n);\n'
                             'int virGetVersion(unsigned long *v, const char *t, unsigned long *n)\n'
                             '{ (void)t; (void)n; *v = 13000000; return 0; }')
    with t.lab('clean', daemon_env={'LD_PRELOAD': str(preload)}) as lab:
        check_stock(lab, 'is newer than newest_libvirt = 12999999')
    with t.lab('clean', settings={'newest_libvirt': '0'}, daemon_env={'LD_PRELOAD': str(preload)}) as lab, connection(lab) as conn:
        assert '<vol-repair version' in control(conn, CAPABILITIES)


def test_configuration_unreadable(t):
    with t.lab('clean', settings={'no_such_key': '1'}) as lab:
        check_stock(lab, 'is not \'key = value\' with a known key')


def test_configuration_breaks_later(t):
    with t.lab('clean') as lab:
        with connection(lab) as conn:
            lab.virsh('vol-create-as', 'default', 'a.qcow2', '1M', '--format', 'qcow2')
            lab.configure(helper=str(t.script('clean')), timeout='soon')
            text = expect_error(libvirt.VIR_ERR_CONF_SYNTAX, repair, conn, 'a.qcow2', 'check')
            assert 'line ' in text and str(lab.conf) in text, text
            lab.configure(helper=str(t.script('clean')))
            assert repair(conn, 'a.qcow2', 'check')['verdict'] == 'clean'


def test_helper_missing(t):
    with t.lab('clean') as lab:
        lab.configure(helper=str(t.tmp / 'nowhere'))
        with connection(lab) as conn:
            lab.virsh('vol-create-as', 'default', 'a.qcow2', '1M', '--format', 'qcow2')
            text = expect_error(libvirt.VIR_ERR_OPERATION_FAILED, repair, conn, 'a.qcow2', 'all')
            assert 'cannot be started: No such file or directory' in text, text
            assert "usable='no' reason='No such file or directory'" in control(conn, CAPABILITIES)
            assert not list(lab.reports_dir.glob('*')), 'a report of a job that never was'
            assert conn.storagePoolLookupByName('default').refresh(0) == 0
        assert 'cannot be started' in lab.log()


def helper_of(t, name, text):
    path = t.tmp / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_helper_that_may_not_be_executed(t):
    """As under AppArmor: the mode says yes, the kernel says no. An interpreter that is no program has that effect."""
    denied = helper_of(t, 'denied', '#!/etc/passwd\n')
    with t.lab('clean') as lab:
        lab.configure(helper=str(denied))
        with connection(lab) as conn:
            lab.virsh('vol-create-as', 'default', 'a.qcow2', '1M', '--format', 'qcow2')
            text = expect_error(libvirt.VIR_ERR_OPERATION_FAILED, repair, conn, 'a.qcow2', 'all')
            line = f"echo '{denied} PUx,' >>/etc/apparmor.d/local/usr.sbin.libvirtd && apparmor_parser -r /etc/apparmor.d/usr.sbin.libvirtd"
            assert 'cannot be started: Permission denied; ' in text and text.endswith(f': {line}'), text
            helper = ElementTree.fromstring(control(conn, CAPABILITIES)).find('helper')
            assert helper.get('usable') == 'no' and f'{denied} PUx,' in helper.get('reason'), helper.attrib


def test_helper_that_is_no_use(t):
    """What the capabilities say of the program comes from running it; a file that is mended counts at once."""
    cases = {'exit 3': 'it ends with status 3', 'kill -9 $$': 'it dies of signal 9', 'exec sleep 60': 'it does not end within 5 seconds'}
    with t.lab('clean') as lab, connection(lab) as conn:
        for number, (command, reason) in enumerate(cases.items()):
            path = helper_of(t, f'useless-{number}', f'#!/bin/sh\n{command}\n')
            lab.configure(helper=str(path))
            helper = ElementTree.fromstring(control(conn, CAPABILITIES)).find('helper')
            assert helper.attrib == {'path': str(path), 'usable': 'no', 'reason': reason}, helper.attrib
        helper_of(t, path.name, '#!/bin/sh\n[ "$*" = --version ]\n')
        helper = ElementTree.fromstring(control(conn, CAPABILITIES)).find('helper')
        assert helper.attrib == {'path': str(path), 'usable': 'yes'}, helper.attrib


def test_switched_off(t):
    with t.lab('clean', settings={'enabled': '0'}) as lab:
        with connection(lab) as conn:
            lab.virsh('vol-create-as', 'default', 'a.qcow2', '1M', '--format', 'qcow2')
            expect_error(libvirt.VIR_ERR_NO_SUPPORT, control, conn, CAPABILITIES)
            text = expect_error(libvirt.VIR_ERR_OPERATION_UNSUPPORTED, repair, conn, 'a.qcow2', 'all')
            assert 'switched off' in text, text


def test_other_backends_and_capabilities_as_stock(t):
    """One file in the directory, and yet every backend; and no type twice in the capabilities."""
    with t.lab('clean') as lab:
        stock = t.lab('clean')
        directory = Path('/usr/lib/x86_64-linux-gnu/libvirt/storage-backend')
        stock.daemon_env['LIBVIRT_STORAGE_BACKEND_DIR'] = str(directory)
        with stock:
            ours, theirs = (x.virsh('pool-capabilities').stdout for x in (lab, stock))
        for other in ('logical', 'disk', 'iscsi'):  # as far as their packages are installed
            there = (directory / f'libvirt_storage_backend_{other}.so').exists()
            assert (f"<pool type='{other}' supported='yes'>" in ours) == there, (other, ours)
        assert ours == theirs


def test_stub_needs_libc_alone(t):
    stub = t.build / 'plugin' / 'backend' / 'libvirt_storage_backend_fs.so'
    dynamic = subprocess.run(['readelf', '-d', stub], stdout=subprocess.PIPE, text=True, check=True).stdout
    needed = [line.split('[')[1].rstrip(']') for line in dynamic.splitlines() if '(NEEDED)' in line]
    assert needed == ['libc.so.6'], needed
    symbols = subprocess.run(['nm', '-D', '--defined-only', stub], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert [line.split()[-1] for line in symbols.splitlines()] == ['virStorageBackendFsRegister'], symbols


def test_offset_is_not_ours(t):
    """Near the magic range, but not in it: an ordinary download, with libvirt's own answer."""
    with t.lab('clean') as lab:
        with connection(lab) as conn:
            lab.virsh('vol-create-as', 'default', 'a.qcow2', '1M', '--format', 'qcow2')
            for offset in (MAGIC - 1, MAGIC + 0x10000):
                stream = conn.newStream()
                expect_error(libvirt.VIR_ERR_SYSTEM_ERROR, volume(conn, 'a.qcow2').download, stream, offset, 0, 0)
