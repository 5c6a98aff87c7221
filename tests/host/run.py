#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""run.py: a complete Debian host in emulation (systemd, AppArmor, libvirtd, LVM, NFS), and vol-repair on it as a user has it.

Makes the disk (image.py; kept under build/host), boots it (vm.py), installs the packages, and tries what host.md's hosts showed:
install.py, volumes.py, defects.py (n01 to n15), reboot.py. What was typed and printed is in build/host/<release>/log.txt.
"""
import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True

import defects  # noqa: E402
import image  # noqa: E402
import install  # noqa: E402
import reboot  # noqa: E402
import volumes  # noqa: E402
from lab import PAYLOAD, Skip, restart_daemon  # noqa: E402
from vm import Host, HostGone  # noqa: E402

ROOT = HERE.parent.parent
TESTS = [volumes.host_is_complete, *install.FIRST, *volumes.TESTS, *defects.TESTS, *reboot.TESTS, *install.LAST]


class Tested(Host):
    """A host together with what is installed on it."""
    daemon = 'libvirtd'

    def give(self, packages, tree, local):
        """packages: .debs; tree: a tar of a DESTDIR with --prefix=/usr instead; local: (a tar for /usr/local, what its install said)."""
        self.packages, self.tree = packages, tree
        self.local_tree, self.post_install = local
        self.package_names = [path.name.split('_')[0] for path in packages]

    def install(self):
        if self.packages:
            self.send(self.packages, '/root/vol-repair')
            self.do('cd /root/vol-repair && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends ./*.deb',
                    timeout=600)
            return
        self.send([self.tree], '/root')
        self.do(f'tar -C / --no-same-owner -xf /root/{self.tree.name}; ldconfig')
        restart_daemon(self)


def chosen(test, words):
    return not words or any(word in test.__name__ for word in words)


def run_test(host, test, counts):
    start = time.monotonic()
    try:
        test(host)
        counts[0] += 1
        print(f'PASS {test.__name__} ({time.monotonic() - start:.0f} s)', flush=True)
    except Skip as reason:
        counts[2] += 1
        print(f'SKIP {test.__name__}: {reason}', flush=True)
    except (AssertionError, KeyError, ValueError, OSError, subprocess.SubprocessError) as error:
        counts[1] += 1
        print(f'FAIL {test.__name__} ({time.monotonic() - start:.0f} s): {type(error).__name__}: {error}', flush=True)
        host.log.write(f'^^^^ FAIL {test.__name__}: {error}\n')


def run_tests(host, words, counts):
    print(f'     up after {host.boot():.0f} s', flush=True)
    host.send([HERE / 'payload'], '/root')
    for test in TESTS:
        if not chosen(test, words):
            continue
        host.log.write(f'==== {test.__name__}\n')
        run_test(host, test, counts)
        if host.qemu.poll() is not None:
            raise HostGone(f'the host ended by itself: {host.last_words()}')


def build_local(work):
    """A tar of what README's `meson install` puts into /usr/local, and what it says."""
    build, dest = ROOT / 'build' / 'host' / 'local', work / 'local'
    commands = [] if (build / 'build.ninja').exists() else [
        ['meson', 'setup', build, ROOT, '--buildtype=release', '-Db_ndebug=false', '-Dtests=false']]
    commands += [['ninja', '-C', build], ['meson', 'install', '-C', build, '--no-rebuild', '--destdir', dest]]
    for command in commands:
        run = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if run.returncode != 0:
            raise image.CannotMake(f'{command[0]} failed: {(run.stdout + run.stderr).strip()[-300:]}')
    subprocess.run(['tar', '-C', str(dest), '-cf', str(work / 'local.tar'), '.'], check=True)
    shutil.rmtree(dest)
    return work / 'local.tar', run.stdout


def run_release(debian, args):
    """[passed, failed, skipped]"""
    counts, start = [0, 0, 0], time.monotonic()
    print(f'---- Debian {debian}', flush=True)
    try:
        place = image.make_image(debian)
        image.need_room(place, 'run')
    except image.NoRoom as reason:
        print(f'SKIP Debian {debian}: {reason}', flush=True)
        return [0, 0, 1]
    work = Path(tempfile.mkdtemp(prefix='vol-repair-host-', dir=place))
    log = open(place / 'log.txt', 'w', encoding='utf-8')
    host = Tested(place, image.make_large(), work, log)
    try:
        packages = sorted(Path(args.packages).glob('*.deb')) if not args.tree else []
        if not packages and not args.tree:
            raise image.CannotMake(f'no packages in {args.packages} (./run package makes them)')
        host.give(packages, args.tree, (args.local_tree, '') if args.local_tree else build_local(work))
        host.make_disks()
        run_tests(host, args.tests, counts)
    except HostGone as gone:
        counts[1] += 1
        print(f'FAIL the host: {gone}', flush=True)
    finally:
        host.stop()
        log.close()
        shutil.rmtree(work, ignore_errors=True)
    print(f'     Debian {debian}: {counts[0]} passed, {counts[1]} failed, {counts[2]} skipped in {(time.monotonic() - start) / 60:.1f} '
          f'minutes; what was typed is in {place}/log.txt', flush=True)
    return counts


def main():
    parser = argparse.ArgumentParser(prog='./run host', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--debian', choices=sorted(image.RELEASES), help='one release (both)')
    parser.add_argument('--packages', default=str(ROOT / 'build' / 'packages'), metavar='DIR', help='the .debs (build/packages)')
    parser.add_argument('--tree', type=Path, metavar='TAR', help='a tar of a DESTDIR with --prefix=/usr instead of packages')
    parser.add_argument('--local-tree', type=Path, metavar='TAR', help='a tar of a DESTDIR with the default prefix')
    parser.add_argument('tests', nargs='*', metavar='WORD', help='only tests with one of these in their names')
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the machine ends with us
    total = [0, 0, 0]
    for debian in [args.debian] if args.debian else sorted(image.RELEASES):
        try:
            counts = run_release(debian, args)
        except image.CannotMake as error:
            print(f'FAIL Debian {debian}: {error}', flush=True)
            counts = [0, 1, 0]
        total = [a + b for a, b in zip(total, counts)]
    print('{} passed, {} failed, {} skipped'.format(*total))
    return 1 if total[1] or not total[0] + total[2] else 0


if __name__ == '__main__':
    sys.exit(main())
