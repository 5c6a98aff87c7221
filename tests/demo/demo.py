#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""demo.py: real damage, repaired through a private libvirtd, step by step; each step is checked. Called by `./run demo`."""
import argparse
import hashlib
import json
import os
import queue
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent / 'libvirt'))
sys.path.insert(0, str(HERE.parent))

import damage     # noqa: E402
import guestdata  # noqa: E402
import terminal   # noqa: E402
from lab import Lab, LabError  # noqa: E402
from patience import seconds  # noqa: E402


class Demo:
    """The state of one run: the lab, the pool's directory, and the checks so far."""

    def __init__(self, args, lab, work):
        self.args, self.lab, self.work, self.pool = args, lab, work, lab.pool_dir
        self.screen = terminal.Screen(args.batch)
        self.passed = self.failed = 0
        self.ran_in = 'nothing yet'

    def check(self, true, sentence):
        self.passed, self.failed = self.passed + bool(true), self.failed + (not true)
        self.screen.verdict(bool(true), sentence)

    def run(self, command, expect, shown=None, limit=8):
        """Runs a command as a person would, shows it and what it says, and checks its exit status."""
        self.screen.command(shown or shlex.join(command))
        status, text = self.screen.run_on_terminal(self.lab.command(command), self.lab.env, limit)
        if status not in expect:
            self.check(False, f'exit status {status}, expected {" or ".join(map(str, expect))}')
        return text

    def virsh(self, volume, mode, expect):
        return self.run(['virsh', 'vol-repair', 'default', volume, f'--mode={mode}'], expect, limit=60)

    def qemu_img_check(self, volume, expect):
        return self.run(['qemu-img', 'check', str(self.pool / volume)], expect, f'qemu-img check {volume}', limit=7)

    def sha256(self, volume):
        digest = hashlib.sha256()
        with open(self.pool / volume, 'rb') as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()


class Listener:
    """The second client, in a process of its own; what it says is collected."""

    def __init__(self, lab):
        self.child = subprocess.Popen(['/usr/bin/python3', str(HERE / 'listener.py'), lab.uri], env=lab.env, text=True,
                                      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.lines = queue.Queue()
        threading.Thread(target=self.collect, daemon=True).start()
        if 'listening' not in self.lines.get(timeout=seconds(20)):
            raise RuntimeError('the second client could not connect')

    def collect(self):
        for line in self.child.stdout:
            self.lines.put(json.loads(line))

    def drain(self):
        while not self.lines.empty():
            self.lines.get()

    def wait_for_report(self, mode, seconds=20):
        """(events heard, name of the report, report) of the next finished job of a mode; the last two None if none came."""
        events, end = [], time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                line = self.lines.get(timeout=max(0.01, end - time.monotonic()))
            except queue.Empty:
                break
            if 'event' in line:
                events.append(line['pool'])
            elif 'verdict' in line.get('content', {}) and line['content'].get('mode') == mode:
                return events, line['file'], line['content']
        return events, None, None

    def close(self):
        self.child.kill()
        self.child.wait()


# ---- the damages ------------------------------------------------------------------------------------------


def damage_crash(demo, volume):
    guestdata.make_disk(demo.pool / volume, None, lazy_refcounts='on')
    grown = damage.crash_qemu(demo.pool / volume, demo.guest_disk, guestdata.FS_SIZE, demo.work / 'nbd.sock')
    demo.screen.say(f'qemu took the file system, confirmed a flush, wrote on, and got SIGKILL {grown >> 20} MiB later.')


def damage_leaks(demo, volume):
    guestdata.make_disk(demo.pool / volume, demo.guest_disk)
    damage.leak_clusters(demo.pool / volume, 200)
    demo.screen.say('200 clusters that nothing uses now have a refcount: 12.5 MiB of the host are lost.')


def damage_refcounts(demo, volume):
    guestdata.make_disk(demo.pool / volume, demo.guest_disk)
    damage.zero_refcounts(demo.pool / volume, 50)
    demo.screen.say('50 clusters of the guest, and its L2 table, are marked free: the next write would overwrite them.')


def damage_copied(demo, volume):
    guestdata.make_disk(demo.pool / volume, demo.guest_disk)
    damage.flip_copied(demo.pool / volume, 80)
    demo.screen.say('81 COPIED flags are inverted.')


def damage_everything(demo, volume):
    damage_crash(demo, volume)
    damage.flip_copied(demo.pool / volume, 80)
    damage.leak_clusters(demo.pool / volume, 200)
    demo.screen.say('On top of it: 81 COPIED flags inverted, 200 clusters leaked.')


VOLUMES = [  # name, title, damage, exit status of a check
    ('crash.qcow2', 'a qemu killed in the middle of writes, with lazy refcounts', damage_crash, (2,)),
    ('leaks.qcow2', 'leaked clusters', damage_leaks, (3,)),
    ('refcounts.qcow2', 'refcounts zeroed', damage_refcounts, (2,)),
    ('copied.qcow2', 'COPIED flags flipped', damage_copied, (2,)),
    ('disk.qcow2', 'all of it at once', damage_everything, (2,)),
]


# ---- the way of one volume ----------------------------------------------------------------------------------


def show_damage(demo, volume, title, make, status):
    demo.screen.step(f'{volume}: {title}')
    make(demo, volume)
    demo.run(['/usr/bin/virsh', 'pool-refresh', 'default'], (0,), 'virsh pool-refresh default', limit=2)
    demo.qemu_img_check(volume, status)


def show_check(demo, volume, status, damaged):
    demo.screen.step(f'{volume}: look, and touch nothing')
    demo.virsh(volume, 'check', status)
    demo.check(demo.sha256(volume) == damaged, f'the image is byte for byte as it was (sha256 {damaged[:16]}...)')


def show_repair(demo, volume, listener):
    demo.screen.step(f'{volume}: repair')
    listener.drain()
    text = demo.virsh(volume, 'all', (0,))
    demo.check(re.search(r'\d+% \w+', text), 'the progress was shown while it ran')
    events, file, report = listener.wait_for_report('all')
    demo.screen.say(f'A second client, stock libvirt-python, heard: refresh of the pools {", ".join(events) or "(none)"}')
    demo.check(report is not None, f'it fetched the report: volume {file} of the pool vol-repair')
    report = report or {}
    keys = ('verdict', 'accel', 'corruptions-fixed', 'leaks-fixed', 'corruptions', 'leaks')
    demo.screen.say(', '.join(f'{k} {report[k]}' for k in keys if k in report))
    demo.check(report.get('verdict') == 'repaired' and report.get('image-changed'), 'the report says: repaired')
    accel, reason = report.get('accel'), report.get('accel-reason')
    demo.ran_in = 'a KVM guest' if accel == 'kvm' else f'a sandboxed {accel} ({reason})'
    demo.check(accel == 'kvm' or (demo.args.no_kvm and reason), f'by {demo.ran_in}')


def show_proof(demo, volume):
    demo.screen.step(f'{volume}: what others say about it')
    demo.qemu_img_check(volume, (0,))
    raw = guestdata.read_back(demo.pool / volume, demo.work)
    clean, line = guestdata.fsck(raw)
    demo.screen.command('e2fsck -fn (the guest\'s file system, as qemu-img reads it)')
    demo.screen.say(line.split(': ', 1)[-1])
    demo.check(clean, 'e2fsck finds nothing wrong')
    same = subprocess.run(['cmp', '-s', str(raw), str(demo.guest_disk)], check=False).returncode == 0
    demo.check(same, f'all {guestdata.FS_SIZE >> 20} MiB of guest data are what the guest wrote')
    raw.unlink()


def show_undo(demo, volume, damaged):
    demo.screen.step(f'{volume}: take it back')
    repaired = demo.sha256(volume)
    demo.virsh(volume, 'undo', (0,))
    demo.check(repaired != damaged and demo.sha256(volume) == damaged,
               f'the image is byte for byte the damaged one again (sha256 {damaged[:16]}...)')


def play(demo):
    demo.screen.step('a private libvirtd, stock, with the extension')
    demo.screen.say(demo.lab.uri)
    demo.run(['/usr/bin/virsh', 'version', '--daemon'], (0,), 'virsh version --daemon', limit=6)
    request = demo.work / 'capabilities.xml'
    request.write_text("<vol-repair request='capabilities'/>\n")
    answer = demo.run(['/usr/bin/virsh', 'find-storage-pool-sources', 'dir', str(request)], (0,),
                      'virsh find-storage-pool-sources dir capabilities.xml', limit=30)
    demo.check("<mode name='all'/>" in answer, 'the extension answers through stock virsh')
    demo.screen.step('guest data: an ext4 file system with 240 files')
    demo.guest_disk = guestdata.make_filesystem(demo.work)
    clean, line = guestdata.fsck(demo.guest_disk)
    demo.check(clean, line.split(': ', 1)[-1])
    listener = Listener(demo.lab)
    try:
        for volume, title, make, status in VOLUMES:
            if demo.args.volume not in (None, volume):
                continue
            show_damage(demo, volume, title, make, status)
            damaged = demo.sha256(volume)
            show_check(demo, volume, status, damaged)
            show_repair(demo, volume, listener)
            show_proof(demo, volume)
            show_undo(demo, volume, damaged)
    finally:
        listener.close()


def main():
    parser = argparse.ArgumentParser(prog='./run demo', description=__doc__)
    parser.add_argument('--build', default='build/release', help='build directory')
    parser.add_argument('--batch', action='store_true', help='plain output, no colours')
    parser.add_argument('--count', action='store_true', help='end with a countable line')
    parser.add_argument('--keep', action='store_true', help='leave the disks in place and say where')
    parser.add_argument('--volume', help='only this one: ' + ', '.join(v[0] for v in VOLUMES))
    args = parser.parse_args()
    args.no_kvm = not os.access('/dev/kvm', os.R_OK | os.W_OK)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work = Path(tempfile.mkdtemp(prefix='vol-repair-demo-', dir='/var/tmp'))
    demo = None
    try:
        with Lab(args.build, keep=args.keep) as lab:
            demo = Demo(args, lab, work)
            play(demo)
            kept = lab.pool_dir
    except LabError as error:
        sys.exit(f'demo: {error}')
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if args.keep:
        print(f'\nThe disks are in {kept}')
    print(f'\nThe repairer ran in {demo.ran_in}.')
    if args.count:
        print(f'{demo.passed} passed, {demo.failed} failed, 0 skipped')
    else:
        print(f'\n{demo.passed} checks passed, {demo.failed} failed; everything that was started is stopped')
    return 1 if demo.failed else 0


if __name__ == '__main__':
    sys.exit(main())
