#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""run.py: --memory bounds the memory of a run, and changes nothing else.

Each image is checked and repaired under several budgets, with both kinds of reference map (refmap.c): the same verdict,
the same findings, the same writes (the undo journal has all of them), or one line that asks for more memory, and an
image that nobody touched. What is enough for a kind of map is enough for more. No process may be larger than its budget says.

Images: random damage as in tests/soak, and a few that are large enough for a small budget to matter.
"""
import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / 'tests' / d) for d in ('', 'soak', 'bench')] + [str(ROOT / 'testdata')]
sys.dont_write_bytecode = True

import images  # noqa: E402
import soak  # noqa: E402

MEASURE = ROOT / 'tests' / 'bench' / 'measure.c'
GIB = 1 << 30
BUDGETS = (16, 24, 48, 96, 256, 1024)  # MiB
TRAILER = 64  # the end of a journal has the time of the commit
NOT_COMPARED = ('io', 'timings', 'memory')


# ---- images -------------------------------------------------------------------------------------------------


def shared_leaks(path):
    """Every cluster but the leaked ones belongs to four maps: no thin map is small enough."""
    images.snapshots(path, 256 * GIB, 3)
    head = images.header(path)
    images.overwrite(path, head['l1'], 8 * (head['l1_size'] // 2))


def compressed_zeros(path):
    images.compressed(path, 16 * GIB)
    with open(path, 'rb') as file:
        file.seek(images.header(path)['reftable'])
        block = int.from_bytes(file.read(8), 'big')
    images.overwrite(path, block + 4096, 16384)


def thin_leaks(path):
    images.leaks(path, 256 * GIB)


LARGE = {'shared_leaks': shared_leaks, 'compressed_zeros': compressed_zeros, 'thin_leaks': thin_leaks}


def random_image(number):
    return lambda path: soak.random_recipe(random.Random(number))[1].save(str(path))


# ---- one run ------------------------------------------------------------------------------------------------


class Broken(Exception):
    """The budget changed something."""


def meaning(document):
    """What a report says, without what may differ between two runs."""
    return {k: v for k, v in document.items() if k not in NOT_COMPARED}


def run(tool, image, mode, budget, wide):
    """(exit, report, digest of the journal), or 'memory' where the budget is too small."""
    report, journal = image.with_suffix('.report'), image.with_suffix('.undo')
    for path in (report, journal):
        path.unlink(missing_ok=True)
    copy = image.with_suffix('.copy')
    subprocess.run(['cp', '--sparse=always', str(image), str(copy)], check=True)
    before = copy.stat().st_mtime_ns
    command = [*tool[wide], '-f', 'qcow2', f'--mode={mode}', f'--memory={budget}M', f'--report={report}',
               *([f'--undo={journal}'] if mode != 'check' else []), str(copy)]
    with tempfile.TemporaryFile() as result:
        # The shell only puts the result on descriptor 3.
        done = subprocess.run(['sh', '-c', f'exec "$@" 3>&{result.fileno()}', 'sh', str(image.parent / 'measure'), *command],
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors='replace', check=False,
                              pass_fds=[result.fileno()])
        result.seek(0)
        _, status, peak, _ = result.read().decode().split()
    if int(peak) > budget << 10:
        raise Broken(f'{mode} with {budget} MiB took {int(peak) >> 10} MiB')
    if status == '1' and '--memory' in done.stderr:
        if copy.stat().st_mtime_ns != before:
            raise Broken(f'{mode} with {budget} MiB gave up, and had written')
        return 'memory'
    document = json.loads(report.read_text()) if report.exists() else {}
    digest = hashlib.sha256(journal.read_bytes()[:-TRAILER]).hexdigest() if journal.exists() else ''
    return status, meaning(document), digest


def difference(a, b):
    if a[0] != b[0]:
        return f'exit {a[0]}, then {b[0]}'
    keys = [k for k in {**a[1], **b[1]} if a[1].get(k) != b[1].get(k)]
    return f'the report differs in {", ".join(keys)}' if keys else 'other bytes were written'


def compare(tool, image, mode):
    """Returns how many budgets were too small."""
    small, first, enough = 0, None, set()
    for budget in BUDGETS:
        for wide in (False, True):
            got = run(tool, image, mode, budget, wide)
            if got == 'memory':
                small += 1
                if wide in enough:
                    raise Broken(f'{mode}: {budget} MiB are too few, less was enough')
                continue
            enough.add(wide)
            first = first or got
            if got != first:
                raise Broken(f'{mode} with {budget} MiB, {"wide" if wide else "thin"} map: {difference(first, got)}')
    if not first:
        raise Broken(f'{mode}: no budget is enough')
    return small


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--build', required=True)
    parser.add_argument('--random', type=int, default=12, help='random images')
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('filter', nargs='?', default='')
    args = parser.parse_args()
    kvm = os.access('/dev/kvm', os.R_OK | os.W_OK)
    program, accel = str(Path(args.build, 'plugin/cli/vol-repair').resolve()), f'--accel={"kvm" if kvm else "process"}'
    tool = [[program, accel], [program + '-test', '--test-wide-map', accel]]  # the map begins thin, and wide
    makers = {**LARGE, **{f'random_{n}': random_image(n) for n in range(args.seed, args.seed + args.random)}}
    passed = failed = small = 0
    for name, make in makers.items():
        if args.filter not in name:
            continue
        with tempfile.TemporaryDirectory(prefix='vol-repair-memory.', dir='/var/tmp') as directory:
            image = Path(directory, 'disk.qcow2')
            subprocess.run(['cc', '-O2', '-o', str(Path(directory, 'measure')), str(MEASURE)], check=True)
            make(image)
            for mode in ('check', 'all'):
                try:
                    small += compare(tool, image, mode)
                    passed += 1
                except Broken as broken:
                    failed += 1
                    print(f'FAIL {name}: {broken}')
    if not args.filter and not small:
        failed += 1
        print('FAIL no budget was too small for any image: nothing was bounded')
    print(f'{small} runs were refused for want of memory')
    print(f'{(passed + failed) * kvm} ran under KVM')
    print(f'{passed} passed, {failed} failed, 0 skipped')
    return failed != 0


if __name__ == '__main__':
    sys.exit(main())
