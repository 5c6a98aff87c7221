#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""run.py: tests of the emulated PC itself: output, arguments, exit status, time limit, and what it says where it cannot."""
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from patience import seconds  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent.parent
MACHINE = ROOT / 'tests' / 'machine' / 'machine.py'
NASTY = ['', ' a  b ', "it's", '"$HOME" `id` \\', 'two\nlines\r', '*', '-n', 'ü\x01\x7f']


def machine(*arguments, **environment):
    return subprocess.run([MACHINE, *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=seconds(200),
                          env={**os.environ, **environment}, cwd=ROOT / 'tests')


def need(condition, done):
    if not condition:
        raise AssertionError(f'exit {done.returncode}, {done.stdout[-300:]}, {done.stderr[-600:]}')


def arguments_output_and_status_are_handed_over():
    """What a program inside gets and says is what one outside would: every byte, both streams, the status."""
    program = ('import os, sys; sys.stdout.write(repr((sys.argv[1:], os.getcwd(), os.environ["NASTY"], os.geteuid())));'
               'sys.stderr.buffer.write(bytes(range(256)) * 4000); sys.exit(77)')
    done = machine('--', '/usr/bin/python3', '-c', program, *NASTY, NASTY='\n'.join(NASTY))
    need(done.stdout.decode() == repr((NASTY, str(ROOT / 'tests'), '\n'.join(NASTY), 0)), done)
    need(done.stderr == bytes(range(256)) * 4000, done)
    need(done.returncode == 77, done)


def files_are_those_outside_and_stay_as_they_were():
    """Two PCs at the same time: each sees the file, each changes it for itself, on a file system that is a real one."""
    with tempfile.TemporaryDirectory(prefix='vol-repair-machine.', dir='/var/tmp') as directory:
        file = Path(directory) / 'file'
        file.write_text('outside\n')
        script = ('cat "$0" && echo "$1" >"$0" && sleep 3 && cat "$0" && test -w /dev/kvm && grep -o -w svm /proc/cpuinfo &&'
                  ' dd if=/dev/zero of=/tmp/direct bs=4096 count=4 oflag=direct && fallocate -l 3G /var/tmp/room')
        both = [subprocess.Popen([MACHINE, 'sh', '-c', script, file, name], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE) for name in ('one', 'two')]
        for child, name in zip(both, ('one', 'two')):
            out, errors = child.communicate(timeout=seconds(200))
            need(child.returncode == 0 and out.decode() == f'outside\n{name}\nsvm\n',
                 subprocess.CompletedProcess(child.args, child.returncode, out, errors))
        assert file.read_text() == 'outside\n', 'the file outside was changed'


def end_of_time_ends_it():
    done = machine('--timeout=2', 'sleep', '1000')
    need(done.returncode == 124 and b'not done within 2' in done.stderr, done)


def reader_that_goes_ends_it():
    with subprocess.Popen([MACHINE, 'sh', '-c', 'while echo on; do sleep 0.1; done'], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        child.stdout.readline()
        child.stdout.close()
        errors = child.stderr.read()
        status = child.wait(seconds(60))
    need(status == 141 and not errors, subprocess.CompletedProcess(child.args, status, b'', errors))


def without_qemu_it_says_so():
    with tempfile.TemporaryDirectory() as directory:
        os.symlink('/usr/bin/python3', f'{directory}/python3')
        done = machine('true', PATH=directory)
    need(done.returncode == 125 and b'qemu-system-x86_64 is missing here' in done.stderr, done)


def intel_pc_names_its_packages_and_takes_no_command():
    with tempfile.TemporaryDirectory() as directory:
        done = machine('--cpu=intel', PATH=directory)
    need(done.returncode == 125 and b'apt-get install --no-install-recommends bochs ' in done.stderr, done)
    done = machine('--cpu=intel', 'dmesg')
    need(done.returncode == 2 and b'no other COMMAND' in done.stderr, done)


def package(directory, name, *files):
    """A Debian package with these files, all of them empty but for a line that names no dependency."""
    tree = Path(directory) / name
    for file in ('DEBIAN/control', *files):
        (tree / file).parent.mkdir(parents=True, exist_ok=True)
        (tree / file).write_text(f'Package: {name}\nVersion: 1\nArchitecture: amd64\nMaintainer: none <none@example.org>\n'
                                 'Description: none\n' if file.startswith('DEBIAN') else '\0depends=\0')
    subprocess.run(['dpkg-deb', '-b', tree, directory], check=True, stdout=subprocess.DEVNULL)
    return f'{directory}/{name}_1_amd64.deb'


def kernel_without_kvm_is_named():
    with tempfile.TemporaryDirectory(prefix='vol-repair-machine.', dir='/var/tmp') as directory:
        name = f'linux-image-{os.getpid()}'
        made = ROOT / 'build' / 'machine' / name
        file = package(directory, name, 'boot/vmlinuz-1', 'lib/modules/1/kernel/fs/ext4.ko')
        try:
            done = machine(f'--kernel={file}', 'true')
        finally:
            subprocess.run(['rm', '-rf', made], check=True)
    need(done.returncode == 125 and f'the kernel {name} has no module kvm-amd'.encode() in done.stderr, done)


def no_apt_source_is_named():
    """An apt that knows of nothing, and a tree that has no kernel yet."""
    with tempfile.TemporaryDirectory(prefix='vol-repair-machine.', dir='/var/tmp') as directory:
        (Path(directory) / 'apt.conf').write_text(f'Dir::State "{directory}";\nDir::Cache "{directory}";\nDir::Etc "{directory}";\n')
        done = machine('true', APT_CONFIG=f'{directory}/apt.conf', VR_MACHINE_CACHE=directory)
    need(done.returncode == 125 and b'no apt source here has linux-image-amd64' in done.stderr, done)


TESTS = [arguments_output_and_status_are_handed_over, files_are_those_outside_and_stay_as_they_were, end_of_time_ends_it,
         reader_that_goes_ends_it, without_qemu_it_says_so, intel_pc_names_its_packages_and_takes_no_command,
         kernel_without_kvm_is_named, no_apt_source_is_named]


def main():
    failed = 0
    for test in TESTS:
        try:
            test()
            print(f'passed  {test.__name__}', flush=True)
        except (AssertionError, subprocess.SubprocessError, OSError) as problem:
            failed += 1
            print(f'FAIL {test.__name__}: {problem}', flush=True)
    print(f'{len(TESTS) - failed} passed, {failed} failed, 0 skipped')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
