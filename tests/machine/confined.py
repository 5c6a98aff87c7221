#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""confined.py: vol-repair under its AppArmor profile, in the emulated PC, whose kernel is Debian's: it does all it is there for,
wherever the files are and whoever starts it, and nothing that the profile denies."""
import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from patience import seconds  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent.parent
LABEL, PROGRAM, PROBE = 'libvirt-vol-repair (enforce)', Path('/usr/bin/vol-repair'), Path('/usr/bin/vol-repair-probe')
LIBVIRTD = Path('/etc/apparmor.d/usr.sbin.libvirtd')
SECURITYFS = Path('/sys/kernel/security')
NOBODY = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups']
RECIPE = 'image size=64M\nwrite 0 1M pattern=1\npoke refcount[9] = 7\npoke l1[0].l2[3].copied = 0\n'
# Each attempt alone; prints the errno of its system call.
ATTEMPTS = r'''
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    int done = -1;

    switch (argc > 1 ? argv[1][0] : 0) {
    case 'x': done = execl("/bin/true", "true", (char *)NULL); break;
    case 'n': done = socket(AF_INET, SOCK_STREAM, 0); break;
    case 'm': done = mount("none", "/mnt", "tmpfs", 0, NULL); break;
    case 'p': done = (int)ptrace(PTRACE_ATTACH, atoi(argv[2]), NULL, NULL); break;
    case 'w': done = open(argv[2], O_WRONLY); break;
    case 'r': done = open(argv[2], O_RDONLY); break;
    }
    printf("%d\n", done < 0 ? errno : 0);
    return 0;
}
'''
# As libvirtd starts it: a descriptor for the image, pipes, and SIGTERM for an abort.
AS_LIBVIRTD = '''
import os, subprocess, sys
with open(sys.argv[1], 'r+b') as image:
    child = subprocess.Popen(['/usr/bin/vol-repair', '--accel=process', '--mode=check', '--stream', f'--image-fd={image.fileno()}',
                              '-f', 'qcow2', sys.argv[1]], stdout=subprocess.PIPE, pass_fds=[image.fileno()])
    child.stdout.readline()
    print(open('/proc/self/attr/current').read().strip(), open(f'/proc/{child.pid}/attr/current').read().strip(), sep=': ')
    child.terminate()
    child.stdout.read()
    print(child.wait())
'''


class Skip(Exception):
    """The text says why."""


def run(*words, **more):
    return subprocess.run([str(w) for w in words], text=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds(120),
                          check=False, **more)


def ended(done, status=0):
    assert done.returncode == status, done


def make(path, owner=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, ROOT / 'testdata' / 'mkqcow2.py', '-', path], input=RECIPE, text=True, check=True)
    for changed in (path, path.parent):
        os.chown(changed, owner, owner)
    path.chmod(0o600)
    return path.read_bytes()


def denials():
    return [line for line in run('dmesg').stdout.splitlines() if 'apparmor="DENIED"' in line and 'vol-repair' in line]


def repair_and_undo(path, before, *more, prefix=()):
    for mode, status in (('check', 2), ('all', 0), ('undo', 0)):
        ended(run(*prefix, PROGRAM, f'--mode={mode}', *more, path), status)
    assert path.read_bytes()[:len(before)] == before, 'an undo that is none'


# ---- what it has to do ----

def it_is_confined(tmp):
    make(tmp / 'a.qcow2')
    reader, writer = os.pipe()
    with subprocess.Popen([PROGRAM, '--mode=check', '--stream', tmp / 'a.qcow2'], stdout=writer, stderr=subprocess.DEVNULL) as child:
        os.close(writer)
        with open(reader, encoding='utf-8') as lines:
            lines.readline()
            label = Path(f'/proc/{child.pid}/attr/current').read_text().strip()
            lines.read()
    assert label == LABEL, label


def images_anywhere(tmp):
    """By path, by a link, with a journal and a report anywhere."""
    for place in ('/root/a', '/home/b/ü x', '/srv/c', '/tmp/d', '/opt/e', '/boot/f'):
        image = Path(place) / 'disk.qcow2'
        repair_and_undo(image, make(image))
        (tmp / 'link').unlink(missing_ok=True)
        (tmp / 'link').symlink_to(image)
        ended(run(PROGRAM, '--mode=check', f'--report={place}/report.json', tmp / 'link'), 2)
        assert (Path(place) / 'report.json').stat().st_size > 100
        repair_and_undo(image, image.read_bytes(), f'--undo={place}/journal')


def both_accelerators(tmp):
    before = make(tmp / 'a.qcow2')
    for accel in ('kvm', 'process'):
        repair_and_undo(tmp / 'a.qcow2', before, f'--accel={accel}')


def an_image_of_somebody_else(tmp):
    tmp.chmod(0o755)
    before = make(tmp / 'b' / 'a.qcow2', owner=65534)
    repair_and_undo(tmp / 'b' / 'a.qcow2', before)
    repair_and_undo(tmp / 'b' / 'a.qcow2', before, f'--undo={tmp}/b/journal', prefix=NOBODY)


def output_to_a_socket(tmp):
    make(tmp / 'a.qcow2')
    ours, its = socket.socketpair()
    with ours, its:
        subprocess.run([PROGRAM, '--mode=check', tmp / 'a.qcow2'], stdout=its, stderr=its, timeout=seconds(120), check=False)
        its.close()
        assert b'errors were found' in ours.recv(65536)


def libvirtd_starts_and_aborts_it(tmp):
    if not LIBVIRTD.exists():
        raise Skip("libvirtd's profile is not installed")
    ended(run('apparmor_parser', '-r', '-K', LIBVIRTD))
    make(tmp / 'a.qcow2')
    try:
        done = run('aa-exec', '-p', 'libvirtd', '--', sys.executable, '-c', AS_LIBVIRTD, tmp / 'a.qcow2')
    finally:
        # A libvirtd that another suite starts may run what is in a build directory.
        ended(run('apparmor_parser', '-R', LIBVIRTD))
    ended(done)
    label, status = done.stdout.splitlines()
    assert label == f'libvirtd (enforce): {LABEL}', label
    assert int(status) in (1, 2, -signal.SIGTERM), status


def nothing_was_denied(_):
    assert not denials(), denials()


# ---- what it may not do ----

def it_may_do_nothing_else(_):
    probe = Path(PROBE)
    subprocess.run(['cc', '-x', 'c', '-o', probe, '-'], input=ATTEMPTS, text=True, check=True)
    load(probe, 'libvirt-vol-repair-probe')
    assert run(probe, 'r', '/etc/passwd').stdout == '0\n'
    for attempt in (['x'], ['n'], ['m'], ['p', os.getppid()], ['r', '/dev/mem'], ['r', '/proc/kcore'], ['w', '/proc/sysrq-trigger'],
                    ['w', '/proc/sys/kernel/core_pattern'], ['w', '/sys/kernel/mm/ksm/run']):
        done = run(probe, *attempt)
        assert done.stdout in ('13\n', '1\n'), (attempt, done)
    assert len(denials()) >= 9, denials()


TESTS = [it_is_confined, images_anywhere, both_accelerators, an_image_of_somebody_else, output_to_a_socket,
         libvirtd_starts_and_aborts_it, nothing_was_denied, it_may_do_nothing_else]


def load(program, name):
    """The profile for a program of that path, under that name."""
    text = (ROOT / 'plugin' / 'cli' / 'apparmor.in').read_text()
    text = text.replace('@bindir@/vol-repair', str(program)).replace('profile libvirt-vol-repair ', f'profile {name} ')
    ended(subprocess.run(['apparmor_parser', '-r', '-K'], input=text, text=True, capture_output=True, check=False))


def prepare(build):
    """Returns why nothing can be tried, or None."""
    if not os.path.exists('/sys/module/apparmor'):
        return 'the kernel has no AppArmor'
    if not shutil.which('apparmor_parser') or not shutil.which('aa-exec'):
        return 'apparmor is not installed'
    if not (SECURITYFS / 'apparmor').exists():
        ended(run('mount', '-t', 'securityfs', 'none', SECURITYFS))
    shutil.copy(build / 'plugin' / 'cli' / 'vol-repair', PROGRAM)
    load(PROGRAM, 'libvirt-vol-repair')
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--build', required=True)
    args = parser.parse_args()
    # It puts a program into /usr/bin: what is done in the PC is gone with it.
    inside = 'run=/' in Path('/proc/cmdline').read_text()
    why_not = prepare(Path(args.build)) if inside else 'not in the emulated PC'
    if why_not:
        print(f'SKIP {why_not}\n0 passed, 0 failed, 1 skipped')
        return 77
    counts = {'passed': 0, 'FAIL': 0, 'SKIP': 0}
    for test in TESTS:
        result, details = 'passed', ''
        with tempfile.TemporaryDirectory(prefix='vol-repair-confined.', dir='/var/tmp') as directory:
            try:
                test(Path(directory))
            except Skip as reason:
                result, details = 'SKIP', f': {reason}'
            except (AssertionError, OSError, subprocess.SubprocessError) as problem:
                result, details = 'FAIL', f': {problem!r}; {denials()[-5:]}'
        counts[result] += 1
        print(f'{result} {test.__name__}{details}', flush=True)
    print('{passed} passed, {FAIL} failed, {SKIP} skipped'.format(**counts))
    return 1 if counts['FAIL'] else 0


if __name__ == '__main__':
    sys.exit(main())
