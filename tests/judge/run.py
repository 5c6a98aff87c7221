#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""run.py: the judge. Sound images are damaged once and repaired, and what the sound image had must not be given up.

    tests/judge/run.py --build build/release                     # 600 damages by seed 1, each in both modes
    tests/judge/run.py --seed 7 --count 2000                      # others
    tests/judge/run.py --seconds 600                              # as many as fit
    tests/judge/run.py --every-bit --kind snapshots               # each bit of header, extensions and snapshot table
    tests/judge/run.py --kind plain --damage 'flip 0x3007 4' --mode leaks --keep /tmp/here      # one of them again

images.py makes the sound images, damages.py damages them, rules.py says what must hold, guest.py what a guest reads; this file
runs them. A line for each failure says all that is needed to see it again. What is held beside the rules, of every run: the
program ends as it should, `image-changed` is true or false as it is, and an undo brings the damaged image back byte for byte.
"""
import argparse
import collections
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent.parent / 'testdata')]
sys.dont_write_bytecode = True

import damages  # noqa: E402
import images  # noqa: E402
import patience  # noqa: E402
import rules  # noqa: E402
from guest import View  # noqa: E402
from qcow2_parts import Parts  # noqa: E402

MODES = ('leaks', 'all')
EXIT_CODES = (0, 1, 2, 3, 63)
ABOUT_WORDS = ('calm', 'words')  # classes that do not count where nobody can see the damage


class Judge:
    """Damages, repairs, and adds up."""

    def __init__(self, args, scratch):
        self.program, self.accel = os.path.abspath(f'{args.build}/plugin/cli/vol-repair'), args.accel
        self.keep, self.scratch = args.keep, scratch
        self.sound = {}
        self.passed = self.skipped = 0
        self.failed = collections.Counter()  # (class, mode) -> runs
        self.failures = 0

    def image(self, kind):
        if kind not in self.sound:
            self.sound[kind] = images.make(kind, self.scratch)
        return self.sound[kind]

    def run(self, directory, *arguments):
        """(exit status, text, report)"""
        report = directory / 'report.json'
        report.unlink(missing_ok=True)
        command = [self.program, *arguments, f'--accel={self.accel}', f'--report={report}', images.IMAGE]
        run = subprocess.run(command, cwd=directory, capture_output=True, text=True, errors='replace',
                             timeout=patience.seconds(120), check=False)
        return run.returncode, run.stdout, json.loads(report.read_text()) if report.exists() else {}

    def try_one(self, kind, line, mode, seed):
        """One damage, one mode."""
        sound = self.image(kind)
        broken = dict(self.broken(sound, damages.damaged(sound, line), mode))
        if broken.keys() & set(ABOUT_WORDS) and self.invisible(sound, damages.damaged(sound, line)):
            broken = {name: what for name, what in broken.items() if name not in ABOUT_WORDS}
            self.skipped += not broken
        elif not broken:
            self.passed += 1
        for name, what in broken.items():
            self.failed[name, mode] += 1
            print(f"FAIL {name}: {what}; seed {seed}: --kind {kind} --mode {mode} --damage '{line}'", flush=True)
        if broken:
            self.failures += 1
            self.keep_images(sound, line, mode)

    def broken(self, sound, data, mode):
        """(class, sentence) for each rule that does not hold."""
        image, journal = sound.directory / images.IMAGE, sound.directory / 'undo'
        image.write_bytes(data)
        journal.unlink(missing_ok=True)
        status, text, report = self.run(sound.directory, '-f', 'qcow2', f'--mode={mode}', f'--undo={journal}')
        now = image.read_bytes()
        if status not in EXIT_CODES or report.get('exit-code') != status:
            yield 'ended', f'exit status {status}, by the report {report.get("exit-code")}'
            return
        if report['image-changed'] != (now != data):
            yield 'changed', f'the image was changed: {now != data}; by the report: {report["image-changed"]}'
        before, after = Parts(data), Parts(now)
        view = View(after, sound.directory, sound.metadata)
        if now != data:
            yield from rules.clusters_kept(sound, after, report)
            yield from rules.names_kept(sound, before, after, report)
            yield from rules.guest_kept(sound, View(before, sound.directory, sound.metadata), view)
            yield from self.undone(sound, data, journal)
        yield from rules.not_calm(sound, view, report, text)

    def undone(self, sound, data, journal):
        status, _, _ = self.run(sound.directory, '--mode=undo', f'--undo={journal}')
        if status or (sound.directory / images.IMAGE).read_bytes() != data:
            yield 'undo', f'exit status {status}, and the image is {"not " * (status == 0)}what it was before the repair'

    def invisible(self, sound, data):
        """The damage made another sound image, as qemu-img sees it."""
        (sound.directory / images.IMAGE).write_bytes(data)
        return subprocess.run(['qemu-img', 'check', '-q', '-f', 'qcow2', images.IMAGE], cwd=sound.directory, capture_output=True,
                              timeout=patience.seconds(120), check=False).returncode == 0

    def keep_images(self, sound, line, mode):
        """With --keep: sound.qcow2, and disk.qcow2 as damaged, for a person; the line of text beside them."""
        if not self.keep:
            return
        place = Path(self.keep) / f'{self.failures}-{sound.kind}-{mode}'
        shutil.copytree(sound.directory, place)
        (place / 'sound.qcow2').write_bytes(sound.data)
        (place / images.IMAGE).write_bytes(damages.damaged(sound, line))
        (place / 'damage').write_text(line + '\n')


# ---- what is tried -----------------------------------------------------------------------------------------


def given(judge, args):
    """(kind, damage, seed): the one of the command line, every bit, or random ones without end."""
    kinds = args.kind or list(images.KINDS)
    if args.damage:
        yield from ((kind, args.damage, args.seed) for kind in kinds)
    elif args.every_bit:
        yield from ((kind, line, args.seed) for kind in kinds for line in damages.every_bit(judge.image(kind)))
    else:
        for seed in itertools.count(args.seed):
            kind = kinds[seed % len(kinds)]
            yield kind, damages.one(judge.image(kind), random.Random(f'{kind} {seed}')), seed


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--build', default='build/release', help='build directory')
    parser.add_argument('--accel', choices=('kvm', 'process'), help='default: kvm where /dev/kvm can be used')
    parser.add_argument('--seed', type=int, default=1, help='of the first damage; each has the next (1)')
    parser.add_argument('--count', type=int, help='so many damages (600; with --seconds, --every-bit or --damage: no limit)')
    parser.add_argument('--seconds', type=float, help='no longer than so many')
    parser.add_argument('--every-bit', action='store_true',
                        help='instead of random damages each bit of header, extensions and snapshot table')
    parser.add_argument('--kind', action='append', choices=list(images.KINDS), help='of image; may be repeated (all)')
    parser.add_argument('--mode', choices=MODES, help='of the repair (both)')
    parser.add_argument('--damage', help='this one, as a failure has it')
    parser.add_argument('--keep', metavar='DIR', help='keep the images of failures in this new directory')
    args = parser.parse_args()
    args.accel = args.accel or ('kvm' if os.access('/dev/kvm', os.R_OK | os.W_OK) else 'process')
    if args.count is None and not (args.seconds or args.every_bit or args.damage):
        args.count = 600
    return args


def main():
    args = options()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix='vol-repair-judge-') as scratch:
        judge = Judge(args, scratch)
        for kind, line, seed in itertools.islice(given(judge, args), args.count):
            if args.seconds and time.monotonic() - begin > args.seconds:
                break
            for mode in [args.mode] if args.mode else MODES:
                judge.try_one(kind, line, mode, seed)
    for (name, mode), count in sorted(judge.failed.items()):
        print(f'{name}, mode {mode}: {count} runs')
    if judge.skipped:
        print(f'skipped: {judge.skipped}: the damage makes another sound image, so that nobody can see it')
    kvm = f' ({judge.passed + judge.failures + judge.skipped} ran under KVM)' if args.accel == 'kvm' else ''
    print(f'{judge.passed} passed, {judge.failures} failed, {judge.skipped} skipped{kvm}')
    return 1 if judge.failures else 0


if __name__ == '__main__':
    sys.exit(main())
