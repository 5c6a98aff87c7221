#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""kills.py: what a qemu leaves that is killed, or loses power, while it writes: how often are leaks kept, and why?

    tests/soak/kills.py --build build/release                     # 200 images, every second one a power cut
    tests/soak/kills.py --build build/release --seed 7 --count 20

A kill is a SIGKILL at some moment. A power cut is made from the log of all writes (QEMU's blklogwrites): what was written before
the last flush that had ended is there, and of what came later each write or not. Each image is repaired in both modes. What it must come to: a guest reads the same after it, and mode all leaves nothing but leaks that a row keeps.
"""
import argparse
import collections
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / 'testdata'), str(ROOT / 'tests')]
sys.dont_write_bytecode = True

from patience import seconds  # noqa: E402
from qcow2_read import first_difference, guest_view  # noqa: E402

SIZE, UNIT = 32 << 20, 4096
OPTIONS = ['cluster_size=64k', 'cluster_size=4k', 'cluster_size=64k,lazy_refcounts=on', 'cluster_size=512',
           'cluster_size=64k,extended_l2=on', 'cluster_size=16k,refcount_bits=1', 'compat=0.10']
FLUSH, DISCARD = 1, 4
LOGGED = 'driver=qcow2,file.driver=blklogwrites,file.file.driver=file,file.file.filename=disk.qcow2,file.log.driver=file,' \
         'file.log.filename=log,file.log-append=off'


def commands(rng, number):
    """What a guest does: mostly writes, some of zeros, some flushes and discards, all over a disk that fills up."""
    for _ in range(number):
        at, length = rng.randrange(SIZE // UNIT - 64) * UNIT, rng.randrange(1, 64) * UNIT
        kind = rng.choice(['write', 'write', 'write', 'write', 'zeros', 'flush', 'discard'])
        yield {'write': f'write -q -P {rng.randrange(1, 255)} {at} {length}', 'zeros': f'write -q -z {at} {length}',
               'flush': 'flush', 'discard': f'discard -q {at} {length}'}[kind]


def prepare(rng, directory):
    """A sound image with something in it, and now and then a snapshot, so that writes copy."""
    image = directory / 'disk.qcow2'
    options = rng.choice(OPTIONS)
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-o', options, image, str(SIZE)], check=True)
    play(['-f', 'qcow2', str(image)], commands(rng, 30))
    if rng.random() < 0.4 and 'refcount_bits' not in options:
        subprocess.run(['qemu-img', 'snapshot', '-c', 's', image], check=True)
    return options


def play(words, lines, cwd=None):
    subprocess.run(['qemu-io', *words], input=''.join(line + '\n' for line in lines), text=True, stdout=subprocess.DEVNULL,
                   cwd=cwd, timeout=seconds(120), check=True)


def kill(rng, directory):
    with subprocess.Popen(['qemu-io', '-f', 'qcow2', 'disk.qcow2'], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL, text=True, cwd=directory) as child:
        try:
            child.stdin.write(''.join(line + '\n' for line in commands(rng, 400)))
            child.stdin.flush()
            time.sleep(rng.random() * 0.15)
        finally:
            child.kill()


def entries(log):
    """(offset, data, flags) of each."""
    _, _, _, sector = struct.unpack('<QQQI', log[:28])
    at = sector
    while at < len(log):
        first, number, flags, _ = struct.unpack('<QQQQ', log[at:at + 32])
        length = 0 if flags & DISCARD else number * sector
        yield first * sector, log[at + sector:at + sector + length], flags
        at += sector + length


def cut_power(rng, directory):
    """The image as it was, what was flushed, and some of the rest."""
    before = (directory / 'disk.qcow2').read_bytes()
    (directory / 'log').write_bytes(b'')
    play(['--image-opts', LOGGED], commands(rng, 60), directory)
    written = list(entries((directory / 'log').read_bytes()))
    written = written[:rng.randrange(1, len(written))]
    safe = max((i for i, entry in enumerate(written) if entry[2] & FLUSH), default=0)
    odds = rng.random()
    with open(directory / 'disk.qcow2', 'r+b') as file:
        file.truncate(0)
        file.write(before)
        for i, (at, data, _) in enumerate(written):
            if i < safe or rng.random() < odds:
                file.seek(at)
                file.write(data)


def repair(program, directory, mode):
    """(exit status, report) of a repair of a copy, which is left as mode.qcow2."""
    shutil.copyfile(directory / 'disk.qcow2', directory / f'{mode}.qcow2')
    report = directory / f'{mode}.json'
    done = subprocess.run([program, '--accel=process', '-f', 'qcow2', f'--mode={mode}', f'--undo={directory}/{mode}.undo',
                           f'--report={report}', directory / f'{mode}.qcow2'], capture_output=True, text=True,
                          timeout=seconds(120), check=False)
    return done.returncode, json.loads(report.read_text()) if report.exists() else {}


def judge(program, directory):
    """[what is wrong], [(mode, status)], the rows that keep leaks"""
    wrong, ended, rows = [], [], set()
    before = guest_view(str(directory / 'disk.qcow2'), ())
    for mode in ('leaks', 'all'):
        status, report = repair(program, directory, mode)
        ended.append((mode, status))
        if status not in ((0, 3) if mode == 'all' else (0, 1, 2, 3)):  # 1: in use and marked free, which is for mode all
            wrong.append(f'{mode} ended with {status}: {report.get("error", "")}')
        difference = first_difference(before, guest_view(str(directory / f'{mode}.qcow2'), ()), readable_only=True)
        if difference:
            wrong.append(f'{mode} changed what a guest reads: {difference}')
        if status == 3:
            rows |= {p['id'] for p in report.get('problems', [])} - {'leaked-cluster', 'dirty-bit'}
    return wrong, ended, rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--build', default='build/release', help='build directory')
    parser.add_argument('--seed', type=int, default=1, help='of the first image; each has the next (1)')
    parser.add_argument('--count', type=int, default=200, help='so many images (200)')
    parser.add_argument('--keep', type=Path, help='leave the images that failed there')
    args = parser.parse_args()
    program = os.path.abspath(f'{args.build}/plugin/cli/vol-repair')
    failed, tally, kept = 0, collections.Counter(), collections.Counter()
    for seed in range(args.seed, args.seed + args.count):
        rng = random.Random(seed)
        with tempfile.TemporaryDirectory(prefix='vol-repair-kills.', dir='/var/tmp') as name:
            directory = Path(name)
            options = prepare(rng, directory)
            what = ('kill', 'power cut')[seed % 2]
            (kill, cut_power)[seed % 2](rng, directory)
            wrong, ended, rows = judge(program, directory)
            if wrong and args.keep:
                shutil.copytree(directory, args.keep / str(seed))
        for mode, status in ended:
            tally[what, mode, status] += 1
        kept.update((what, options, row) for row in rows)
        if wrong:
            print(f'FAIL seed {seed} ({what}, {options}): {"; ".join(wrong)}', flush=True)
            failed += 1
    for (what, mode, status), number in sorted(tally.items()):
        print(f'after a {what}, mode {mode} ended with {status}: {number}')
    for (what, options, row), number in kept.most_common():
        print(f'leaks kept after a {what} ({options}), beside {row}: {number}')
    print(f'{args.count - failed} passed, {failed} failed, 0 skipped')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
