#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""run.py: what goes wrong around a repair ends with one clear line, the right exit code, and the image untouched.

run.py --build BUILD. Each test is a function below; its name says what is wrong.
"""
import argparse
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from patience import seconds  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent.parent
RECIPE = """image size=64M
write 0 1M pattern=1
poke refcount[6] = 0
poke refcount[9] = 7
poke refcount[2000] = 1
poke l1[0].l2[3].copied = 0
"""

# The second refcount block is lost, and what it counts is in use: data, behind where the clusters end that can be read.
DEVICE_RECIPE = """image size=2M cluster_bits=10
write 0 640K pattern=1
poke l1[0].l2[0].copied = 0
poke l1[3].l2[120] = 0
poke reftable[1] += 0x200
grow 1M
"""


class Skip(Exception):
    """The test cannot run here; the text says why."""


class Lab:
    """A damaged image, and vol-repair over it."""

    def __init__(self, build, directory, accel):
        self.tool = str(Path(build).resolve() / 'plugin' / 'cli' / 'vol-repair')
        self.shim = str(Path(build).resolve() / 'tests' / 'errors' / 'failing_calls.so')
        self.dir = Path(directory)
        self.accel = accel
        self.image = self.dir / 'disk.qcow2'
        (self.dir / 'recipe').write_text(RECIPE)
        subprocess.run([sys.executable, ROOT / 'testdata' / 'mkqcow2.py', self.dir / 'recipe', self.image], check=True)
        self.before = self.digest()

    def digest(self):
        return hashlib.sha256(self.image.read_bytes()).hexdigest()

    def repair(self, *more, mode='all', image=None, env=None, prefix=(), accel=None, tool=None):
        journal = [] if mode == 'check' else [f'--undo={self.dir}/undo']
        command = [*prefix, tool or self.tool, f'--accel={accel or self.accel}', f'--mode={mode}', *journal, *more,
                   str(image or self.image)]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(env or {})}, timeout=seconds(60))

    def failing(self, call, after, error, forever=False):
        env = {'LD_PRELOAD': self.shim, 'FAIL_CALL': call, 'FAIL_AFTER': str(after), 'FAIL_ERRNO': str(error),
               'FAIL_INODE': str(self.image.stat().st_ino)}
        return {**env, 'FAIL_FOREVER': '1'} if forever else env

    def expect_undone(self):
        done = self.repair(mode='undo')
        if done.returncode != 0 or self.digest() != self.before:
            raise AssertionError(f'undo ended with {done.returncode}: {done.stderr[-300:]}')


def expect(lab, done, status, words, untouched=True):
    lines = [line for line in done.stderr.splitlines() if line.startswith('vol-repair: ')]
    if done.returncode != status:
        raise AssertionError(f'exit {done.returncode}, not {status}: {done.stderr[-300:]}')
    if len(lines) != 1 or not re.search(words, lines[0]):
        raise AssertionError(f'not one line with "{words}": {done.stderr[-300:]!r}')
    if untouched and lab.digest() != lab.before:
        raise AssertionError('the image was changed')


def no_such_file(lab):
    expect(lab, lab.repair(image=lab.dir / 'none.qcow2'), 1, 'No such file or directory')


def a_directory(lab):
    expect(lab, lab.repair(image=lab.dir), 1, "Could not open")


def an_empty_file(lab):
    (lab.dir / 'empty').touch()
    expect(lab, lab.repair(image=lab.dir / 'empty'), 63, 'does not support checks')


def a_raw_image(lab):
    (lab.dir / 'raw').write_bytes(bytes(65536))
    expect(lab, lab.repair(mode='check', image=lab.dir / 'raw'), 63, 'does not support checks')


def a_raw_image_called_qcow2(lab):
    (lab.dir / 'raw').write_bytes(bytes(65536))
    expect(lab, lab.repair('-f', 'qcow2', mode='check', image=lab.dir / 'raw'), 1, 'Image is not in qcow2 format')


def a_truncated_header(lab):
    (lab.dir / 'short').write_bytes(lab.image.read_bytes()[:60])
    done = lab.repair('-f', 'qcow2', image=lab.dir / 'short')
    expect(lab, done, 1, 'Could not (open|check)')


def with_dev(kvm=''):
    """A /dev that has null and, by these arguments of mknod, perhaps kvm."""
    script = 'mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && '
    if kvm:
        script += f'mknod {kvm} && chgrp daemon /dev/kvm && '
    return 'unshare', '-m', 'sh', '-c', script + 'exec "$0" "$@"'


NO_KVM = '-m 660 /dev/kvm c 10 232'  # whether the kernel has one or not, it is not everybody's
NOT_KVM = '-m 666 /dev/kvm c 1 3'    # /dev/null


def expect_process(lab, done, reason):
    """The repair was made, by a process, and the report says why."""
    if done.returncode != 0:
        raise AssertionError(f'exit {done.returncode}: {done.stderr[-300:]}')
    report = json.loads(done.stdout)
    if report['accel'] != 'process' or not re.search(reason, report['accel-reason']) or report['verdict'] != 'repaired':
        raise AssertionError(f'{report["verdict"]} by {report["accel"]}: {report.get("accel-reason")}')
    if 'KVM' in done.stderr:
        raise AssertionError(f'this is no terminal: {done.stderr}')
    lab.expect_undone()


def no_kvm_device(lab):
    expect(lab, lab.repair(prefix=with_dev(), accel='kvm'), 1, "/dev/kvm.*--accel=process")


def auto_without_a_kvm_device(lab):
    expect_process(lab, lab.repair('--output=json', prefix=with_dev(), accel='auto'), '/dev/kvm.*No such file')


def as_nobody(lab, mode):
    """With a copy of the program: nobody may not be let into the tree."""
    lab.dir.chmod(0o777)
    lab.image.chmod(mode)
    lab.tool = shutil.copy(lab.tool, lab.dir)
    return ('setpriv', '--reuid=65534', '--regid=65534', '--clear-groups')


def kvm_device_without_permission(lab):
    done = lab.repair(prefix=(*with_dev(NO_KVM), *as_nobody(lab, 0o666)), accel='kvm')
    expect(lab, done, 1, r"/dev/kvm.*Permission denied \(the group 'daemon' may use it\)")


def auto_without_permission_for_kvm(lab):
    done = lab.repair('--output=json', prefix=(*with_dev(NO_KVM), *as_nobody(lab, 0o666)), accel='auto')
    if (lab.dir / 'undo').exists():
        os.chown(lab.dir / 'undo', 0, 0)  # root believes no journal of nobody's
    expect_process(lab, done, "Permission denied .*group 'daemon'")


def kvm_device_that_is_none(lab):
    expect(lab, lab.repair(prefix=with_dev(NOT_KVM), accel='kvm'), 1, 'KVM')
    expect_process(lab, lab.repair('--output=json', prefix=with_dev(NOT_KVM), accel='auto'), 'KVM_GET_API_VERSION')


def kvm_that_another_hypervisor_has(lab):
    env = lab.failing('no-vm', 0, errno.EBUSY)
    expect(lab, lab.repair(prefix=with_dev(NOT_KVM), env=env, accel='kvm'), 1, 'KVM_CREATE_VM: Device or resource busy')
    done = lab.repair('--output=json', prefix=with_dev(NOT_KVM), env=env, accel='auto')
    expect_process(lab, done, 'KVM_CREATE_VM: Device or resource busy')


def a_terminal_is_told_of_no_kvm(lab):
    master, slave = os.openpty()
    command = [*with_dev(), lab.tool, str(lab.image)]
    subprocess.run(command, stdout=subprocess.PIPE, stderr=slave, timeout=seconds(60), check=False)
    os.close(slave)
    lines = [line for line in os.read(master, 65536).decode().splitlines() if 'no KVM here' in line]
    if len(lines) != 1 or '/dev/kvm' not in lines[0]:
        raise AssertionError(f'not told once: {lines}')
    os.close(master)


def image_of_another_owner_read_only(lab):
    done = lab.repair(prefix=as_nobody(lab, 0o444))
    expect(lab, done, 1, 'Permission denied')


def image_in_use_by_qemu(lab):
    holder = subprocess.Popen(['qemu-io', '-f', 'qcow2', str(lab.image)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        wait_for_lock(lab.image)
        done = lab.repair()
    finally:
        holder.communicate()
    lab.before = lab.digest()
    expect(lab, done, 1, 'Failed to get "write" lock')


def leased(path, patience):
    """A process with a lease on the file, as an NFS server has for a client; it gives it up after so many seconds."""
    script = ('import fcntl, os, signal, sys, time\n'
              'fd = os.open(sys.argv[1], os.O_RDONLY)\n'
              'signal.signal(signal.SIGIO, lambda *_: (time.sleep(float(sys.argv[2])), os._exit(0)))\n'
              'fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)\n'
              'print("leased", flush=True)\n'
              'signal.pause()\n')
    holder = subprocess.Popen([sys.executable, '-c', script, path, str(patience)], stdout=subprocess.PIPE, text=True)
    if holder.stdout.readline() != 'leased\n':
        holder.wait()
        raise Skip('no leases on the file system of /var/tmp')
    return holder


def image_leased_to_somebody(lab):
    """Who gives his lease up is waited for; of the other is said why, once."""
    holder = leased(lab.image, 30)
    try:
        done = lab.repair()
    finally:
        holder.kill()
        holder.communicate()
    expect(lab, done, 1, f"^vol-repair: Could not open '{lab.image}': Resource temporarily unavailable$")
    holder = leased(lab.image, 0.3)
    done = lab.repair()
    holder.communicate()
    if done.returncode != 0:
        raise AssertionError(f'exit {done.returncode}: {done.stderr[-300:]}')


def wait_for_lock(path):
    inode = path.stat().st_ino
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if any(line.split()[5].endswith(f':{inode}') for line in Path('/proc/locks').read_text().splitlines()):
            return
        time.sleep(0.02)
    raise AssertionError('qemu-io took no lock')


def each_read_error_of_a_check(lab):
    for after in range(0, 6):
        expect(lab, lab.repair(mode='check', env=lab.failing('pread', after, errno.EIO, True)), 1, '(?i)read')


def read_error_while_planning(lab):
    for after in (8, 10):
        expect(lab, lab.repair(env=lab.failing('pread', after, errno.EIO)), 1, '(?i)read|overlay|plan|journal')


def each_write_error_is_rolled_back(lab):
    for after in range(0, 4):
        done = lab.repair(env=lab.failing('pwrite', after, errno.EIO))
        if after and done.returncode == 0:
            break
        expect(lab, done, 1, 'rolled back')
    if not after:
        raise AssertionError('no write was made to fail')


def disk_full_while_committing(lab):
    expect(lab, lab.repair(env=lab.failing('pwrite', 1, errno.ENOSPC)), 1, 'No space left.*rolled back|rolled back.*No space')


def each_flush_error_is_rolled_back(lab):
    for after in range(0, 3):
        expect(lab, lab.repair(env=lab.failing('fdatasync', after, errno.EIO)), 1, 'rolled back')


def reads_and_writes_in_pieces(lab):
    """A call that does a part of what it was asked is not an error: the repair is the same, and so is its undo."""
    for call in ('pread', 'pwrite'):
        env = {**lab.failing(call, 0, 0), 'FAIL_SHORT': '1'}
        done = lab.repair(env=env)
        if done.returncode != 0:
            raise AssertionError(f'{call}: exit {done.returncode}: {done.stderr[-200:]}')
        undone = subprocess.run([lab.tool, f'--accel={lab.accel}', '--mode=undo', f'--undo={lab.dir}/undo', lab.image],
                                capture_output=True, text=True, env={**os.environ, **env}, timeout=seconds(60))
        if undone.returncode != 0 or lab.digest() != lab.before:
            raise AssertionError(f'{call}: undo ended with {undone.returncode}: {undone.stderr[-200:]}')
        (lab.dir / 'undo').unlink()


def each_error_of_the_journal(lab):
    """Before its last flush nothing is written to the image; after the commit only the journal's own end is missing."""
    failures = {'pwrite': 0, 'fsync': 0, 'fdatasync': 0}
    for call in failures:
        for after in range(0, 8):
            done = lab.repair(env={**lab.failing(call, after, errno.EIO), 'FAIL_OTHERS': '1'})
            (lab.dir / 'undo').unlink(missing_ok=True)
            if done.returncode == 0:
                break
            expect(lab, done, 1, 'undo|journal')
            failures[call] += 1
    if not failures['pwrite'] or not failures['fsync']:
        raise AssertionError(f'not both kinds were made to fail: {failures}')


def wait_until_open(pid, image):
    """A slow machine takes its time to start a program."""
    end = time.monotonic() + seconds(10)
    while time.monotonic() < end and str(image) not in map(os.path.realpath, Path(f'/proc/{pid}/fd').iterdir()):
        time.sleep(0.02)


def file_truncated_under_a_check(lab):
    slow = {**lab.failing('pread', 1, 0, True), 'FAIL_WAIT': '100'}
    for size in (0, 65536, 3 * 65536 + 512):
        keep = lab.image.read_bytes()
        run = subprocess.Popen([lab.tool, f'--accel={lab.accel}', '--mode=check', lab.image], stderr=subprocess.PIPE,
                               text=True, stdout=subprocess.DEVNULL, env={**os.environ, **slow})
        wait_until_open(run.pid, lab.image)
        time.sleep(0.15)
        os.truncate(lab.image, size)
        errors = run.communicate(timeout=seconds(20))[1]
        lab.image.write_bytes(keep)
        if run.returncode not in (1, 2, 3):
            raise AssertionError(f'cut to {size}: exit {run.returncode}: {errors[-200:]}')


def each_failing_ioctl_of_kvm(lab):
    """Whichever it is, one line says so, and whether the image is as it was; else it is repaired, and only unread."""
    was = lab.image.read_bytes()
    for after in range(0, 60):
        done = lab.repair(env=lab.failing('ioctl', after, errno.EIO), accel='kvm')
        if done.returncode == 0:
            break
        written = 'the repair itself was written' in done.stderr
        expect(lab, done, 1, 'KVM', untouched=not written)
        if written:
            subprocess.run(['qemu-img', 'check', '-q', lab.image], check=True)
            lab.image.write_bytes(was)
            (lab.dir / 'undo').unlink()
    if after < 8 or done.returncode != 0:
        raise AssertionError(f'{after} calls were made to fail')


def rollback_that_fails_is_tried_again(lab):
    """In the VMM every write after the first fails, so its rollback does too; the front then can."""
    expect(lab, lab.repair(env={**lab.failing('pwrite', 1, errno.EIO, True), 'FAIL_FORKED': '1'}), 1, 'rolled back')


def flushes_that_fail_for_good(lab):
    """What the page cache says of the disk then is worth nothing: the journal stays, is named, and puts everything back."""
    done = lab.repair(env=lab.failing('fdatasync', 0, errno.EIO, True))
    if done.returncode != 1 or 'the image is partly written' not in done.stderr or 'still holds everything' not in done.stderr:
        raise AssertionError(f'exit {done.returncode}: {done.stderr[-300:]}')
    if not (lab.dir / 'undo').exists():
        raise AssertionError('the journal is gone')
    for mode in ('all', 'undo'):
        if 'still holds everything' not in lab.repair(mode=mode, env=lab.failing('pwrite', 0, errno.EIO)).stderr:
            raise AssertionError(f'{mode} takes what it reads for what is on the disk')
    lab.expect_undone()


def undo_that_fails_can_be_repeated(lab):
    for call, after in (('pwrite', 0), ('pwrite', 1), ('fdatasync', 0)):
        if lab.repair().returncode != 0:
            raise AssertionError('no repair')
        done = lab.repair(mode='undo', env=lab.failing(call, after, errno.EIO))
        if done.returncode != 1 or 'still holds everything' not in done.stderr:
            raise AssertionError(f'{call} {after}: exit {done.returncode}: {done.stderr[-300:]}')
        lab.expect_undone()


def undo_that_is_interrupted_ends_whole(lab):
    lab.repair()
    slow = {**lab.failing('pwrite', 0, 0, True), 'FAIL_WAIT': '300'}
    run = subprocess.Popen([lab.tool, '--mode=undo', f'--undo={lab.dir}/undo', lab.image], stderr=subprocess.PIPE, text=True,
                           stdout=subprocess.DEVNULL, env={**os.environ, **slow})
    time.sleep(0.3)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        run.send_signal(number)
    errors = run.communicate(timeout=seconds(30))[1]
    if run.returncode != 0 or lab.digest() != lab.before:
        raise AssertionError(f'exit {run.returncode}: {errors[-200:]}')


def power_cut_before_the_end_of_the_journal(lab):
    """The repair is whole: a later run must not take it back behind the back of a guest that has run since."""
    lab.repair()
    os.truncate(lab.dir / 'undo', (lab.dir / 'undo').stat().st_size - 32)
    repaired = lab.digest()
    done = lab.repair(mode='leaks')
    if done.returncode != 0 or 'interrupted' in done.stderr or lab.digest() != repaired:
        raise AssertionError(f'exit {done.returncode}: {done.stderr[-300:]}')
    lab.expect_undone()


def end_of_the_journal_that_cannot_be_written(lab):
    """It has its room from before the commit; a disk that breaks then is told of, and the repair stands."""
    for after in range(1, 30):
        done = lab.repair(env={**lab.failing('pwrite', after, errno.EIO), 'FAIL_OTHERS': '1'})
        if done.returncode == 0:
            break
    if 'the end of the undo journal' not in done.stderr:
        raise AssertionError(f'exit {done.returncode}: {done.stderr[-300:]}')
    if lab.repair(mode='leaks').returncode != 0 or lab.digest() == lab.before:
        raise AssertionError('the next run took the repair back')
    lab.expect_undone()


def journal_in_use_by_another_run(lab):
    with open(lab.dir / 'undo', 'wb') as held:
        fcntl.lockf(held, fcntl.LOCK_EX)
        for mode in ('all', 'undo'):
            expect(lab, lab.repair(mode=mode), 1, "Could not (use|open) the undo journal '.*': Device or resource busy")


def journal_of_a_copy(lab):
    """Of two copies of one image, the repair of the first is cut; that of the second must leave it its journal."""
    copy = lab.dir / 'copy.qcow2'
    shutil.copy(lab.image, copy)
    lab.repair('--test-crash-after=1', tool=lab.tool + '-test')
    if lab.digest() == lab.before:
        raise AssertionError('the first was not cut')
    expect(lab, lab.repair(image=copy), 1, 'is the undo journal of another image', untouched=False)
    if hashlib.sha256(copy.read_bytes()).hexdigest() != lab.before:
        raise AssertionError('the second was changed')
    lab.expect_undone()


def journal_on_a_full_disk(lab):
    full = lab.dir / 'full'
    full.mkdir()
    script = f'mount -t tmpfs -o size=4k none {full} && head -c 4096 /dev/zero >{full}/fill; exec "$0" "$@"'
    done = lab.repair(f'--undo={full}/undo', prefix=('unshare', '-m', 'sh', '-c', script))
    expect(lab, done, 1, 'No space left on device')


def full_tmp(lab):
    """The repair asks /tmp for nothing."""
    script = 'mount -t tmpfs -o size=4k none "$1" && head -c 4096 /dev/zero >"$1/fill"; shift; exec "$@"'
    for directory in ('/tmp', '/var/tmp', '/dev/shm'):
        if str(lab.dir).startswith(directory) or lab.tool.startswith(directory):
            print(f'  {directory} is not filled: the test itself is there')
            continue
        done = lab.repair(prefix=('unshare', '-m', 'sh', '-c', script, 'sh', directory))
        if done.returncode != 0:
            raise AssertionError(f'{directory} is full: exit {done.returncode}: {done.stderr[-200:]}')


def image_on_a_full_disk(lab):
    """A real file system that is full: the refcounts lie in a hole that the commit would have to fill."""
    full = lab.dir / 'full'
    full.mkdir()
    script = (f'mount -t tmpfs -o size=2m none {full} && cp --sparse=always {lab.image} {full}/disk.qcow2 && '
              f'fallocate -p -o 131072 -l 65536 {full}/disk.qcow2 && sha256sum <{full}/disk.qcow2 >{lab.dir}/first && '
              f'{{ cat /dev/zero >{full}/fill 2>/dev/null; "$0" "$@"; status=$?; '
              f'sha256sum <{full}/disk.qcow2 >{lab.dir}/second; exit $status; }}')
    done = lab.repair(image=full / 'disk.qcow2', prefix=('unshare', '-m', 'sh', '-c', script))
    expect(lab, done, 1, 'No space left on device')
    if (lab.dir / 'first').read_text() != (lab.dir / 'second').read_text():
        raise AssertionError('the image was changed')


def rebuild_on_a_block_device(lab):
    """It cannot grow, and refcounts that cannot be read do not say what is in use: new structures must not go onto data."""
    (lab.dir / 'recipe').write_text(DEVICE_RECIPE)
    subprocess.run([sys.executable, ROOT / 'testdata' / 'mkqcow2.py', lab.dir / 'recipe', lab.image], check=True)
    made = subprocess.run(['losetup', '-f', '--show', lab.image], capture_output=True, text=True)
    if made.returncode != 0:
        raise Skip(f'no loop device: {made.stderr.strip()[:80]}')
    device, data = made.stdout.strip(), []
    try:
        for name in ('before', 'after'):
            subprocess.run(['qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', device, lab.dir / name], check=True,
                           stderr=subprocess.DEVNULL)
            data.append((lab.dir / name).read_bytes())
            if name == 'before':
                done = lab.repair(image=device)
    finally:
        subprocess.run(['losetup', '-d', device], check=True)
    if done.returncode != 0 or data[0] != data[1]:
        raise AssertionError(f'exit {done.returncode}, the guest reads {"the same" if data[0] == data[1] else "something else"}')


FULL_RECIPE = """image size=64M
write 0 1M pattern=1
poke reftable[0] = 0
"""


def refcounts_lost_on_a_full_device(lab):
    """It says how much more it needs, and with just that much more it mends, the guest's data as before."""
    (lab.dir / 'recipe').write_text(FULL_RECIPE)
    subprocess.run([sys.executable, ROOT / 'testdata' / 'mkqcow2.py', lab.dir / 'recipe', lab.image], check=True)
    made = subprocess.run(['losetup', '-f', '--show', lab.image], capture_output=True, text=True)
    if made.returncode != 0:
        raise Skip(f'no loop device: {made.stderr.strip()[:80]}')
    device, lab.before = made.stdout.strip(), lab.digest()
    try:
        done = lab.repair(f'--report={lab.dir}/report', image=device, mode='check')
        needed = json.loads((lab.dir / 'report').read_text())['needed-bytes']
        if f'make it larger by {needed} bytes' not in done.stdout or 'more than one way' in done.stdout:
            raise AssertionError(f'exit {done.returncode}: {done.stdout}')
        expect(lab, lab.repair(image=device), 1, f'make the device larger by {needed} bytes .lvextend')
        for more, status in ((needed - 65536, 1), (needed, 0)):
            os.truncate(lab.image, lab.image.stat().st_size + more)
            subprocess.run(['losetup', '-c', device], check=True)
            done = lab.repair(image=device)
            if done.returncode != status:
                raise AssertionError(f'{more} bytes more: exit {done.returncode}: {done.stderr[-300:]}')
            if status:
                os.truncate(lab.image, lab.image.stat().st_size - more)
    finally:
        subprocess.run(['losetup', '-d', device], check=True)
    subprocess.run(['qemu-img', 'check', '-q', '-f', 'qcow2', lab.image], check=True)


def too_little_memory(lab):
    expect(lab, lab.repair('--memory=1M'), 1, '(?i)memory')


def interrupted_before_the_commit(lab):
    slow = {**lab.failing('pread', 2, 0, True), 'FAIL_WAIT': '500'}
    for number in (signal.SIGINT, signal.SIGTERM):
        run = subprocess.Popen([lab.tool, f'--accel={lab.accel}', '--mode=all', f'--undo={lab.dir}/undo', lab.image],
                               stderr=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL, env={**os.environ, **slow})
        time.sleep(0.4)
        run.send_signal(number)
        errors = run.communicate(timeout=seconds(20))[1]
        if run.returncode != 1 or not re.search('(?i)abort|interrupt|stopp', errors):
            raise AssertionError(f'exit {run.returncode}: {errors[-200:]}')
        if lab.digest() != lab.before:
            raise AssertionError('the image was changed')


def interrupted_in_the_commit(lab):
    """Half a commit is worse than a whole one: it goes on to its end, and says so."""
    slow = {**lab.failing('pwrite', 1, 0, True), 'FAIL_WAIT': '300'}
    run = subprocess.Popen([lab.tool, f'--accel={lab.accel}', '--mode=all', f'--undo={lab.dir}/undo', lab.image],
                           stderr=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL, env={**os.environ, **slow})
    while run.poll() is None and lab.digest() == lab.before:
        time.sleep(0.02)
    if run.poll() is not None:
        raise AssertionError('it had ended before the signals')
    for number in (signal.SIGINT, signal.SIGTERM):
        run.send_signal(number)
    errors = run.communicate(timeout=seconds(30))[1]
    if run.returncode != 1 or 'aborted; the repair itself was written' not in errors:
        raise AssertionError(f'exit {run.returncode}: {errors[-200:]}')
    if lab.repair(mode='check').returncode != 0:
        raise AssertionError('the image is not clean')


TESTS = [value for value in list(globals().values()) if callable(value) and getattr(value, '__code__', None)
         and value.__code__.co_varnames[:1] == ('lab',) and value.__code__.co_argcount == 1]
NEED_KVM = {each_failing_ioctl_of_kvm}
NEED_ROOT = {no_kvm_device, auto_without_a_kvm_device, kvm_device_without_permission, auto_without_permission_for_kvm,
             kvm_device_that_is_none, kvm_that_another_hypervisor_has, a_terminal_is_told_of_no_kvm, image_of_another_owner_read_only,
             full_tmp, journal_on_a_full_disk, image_on_a_full_disk, rebuild_on_a_block_device, refcounts_lost_on_a_full_device}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--build', required=True)
    parser.add_argument('filter', nargs='?', default='')
    args = parser.parse_args()
    kvm = os.access('/dev/kvm', os.R_OK | os.W_OK)
    passed = failed = skipped = under_kvm = 0
    for test in TESTS:
        if args.filter not in test.__name__:
            continue
        reason = ('needs root' if test in NEED_ROOT and os.geteuid() != 0 else
                  'no /dev/kvm' if test in NEED_KVM and not kvm else None)
        if reason:
            skipped += 1
            print(f'SKIP {test.__name__}: {reason}')
            continue
        with tempfile.TemporaryDirectory(prefix='vol-repair-errors.', dir='/var/tmp') as directory:
            try:
                test(Lab(args.build, directory, 'kvm' if kvm else 'process'))
                passed += 1
                under_kvm += kvm
                print(f'passed  {test.__name__}')
            except Skip as reason:
                skipped += 1
                print(f'SKIP {test.__name__}: {reason}')
            except (AssertionError, subprocess.SubprocessError, OSError) as problem:
                failed += 1
                print(f'FAIL {test.__name__}: {problem}')
    print(f'{under_kvm} ran under KVM')
    print(f'{passed} passed, {failed} failed, {skipped} skipped')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
