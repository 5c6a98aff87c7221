#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""run.py: holds what the engine counts (corruptions, leaks, unreadable refcounts, allocated clusters) against a second checker.

    tests/second/run.py --build build/release                    # every case, and 300 random damaged images
    tests/second/run.py --filter 'l2-entry-*' --rounds 0          # these cases
    tests/second/run.py --filter '' --seed 1000 --rounds 5000     # these random images

checker.py is the second checker; the images are those of tests/cases and of tests/soak. An image that the engine refuses has no
counts, and is skipped; so is one that is too large to be read into memory.
"""
import argparse
import fnmatch
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent
sys.path[:0] = [str(HERE), str(TESTS), str(TESTS / 'soak'), str(TESTS.parent / 'testdata')]
sys.dont_write_bytecode = True

import patience  # noqa: E402
from checker import check  # noqa: E402
from mkqcow2 import Recipe  # noqa: E402
from qcow2_image import RecipeError  # noqa: E402
from qcow2_parts import Parts  # noqa: E402
from soak import random_recipe  # noqa: E402

IMAGE = 'disk.qcow2'
BYTES_MAX = 64 << 20
# Rows of damage that the engine does not follow, and the second checker, which believes every pointer, does. Where one is met the
# numbers say different things, and are not compared.
NOT_FOLLOWED = {
    'l1-entry-foreign': 'what an L1 entry names holds another structure: the engine does not read it as an L2 table',
    'snapshot-l1-foreign': 'what a snapshot names as its L1 table is another structure: the engine does not read it',
    'snapshot-table-foreign': 'what the header names as the snapshot table is another structure: the engine does not read it',
    'snapshot-l1-together': 'L1 tables that overlap: the engine counts the last of them as one corruption, and does not follow it',
    'luks-unsound': 'the second checker does not look into the LUKS header',
    'bitmap-overlap': 'a cluster of a bitmap is something else as well: the engine judges no COPIED flag there',
}


def engine(program, accel, directory):
    """The report of a check."""
    command = [program, '-f', 'qcow2', '--output=json', f'--accel={accel}', '--report=report.json', IMAGE]
    subprocess.run(command, cwd=directory, capture_output=True, timeout=patience.seconds(120), check=False)
    return json.loads((directory / 'report.json').read_text())


def difference(report, counts):
    """'' or where the two are apart."""
    ours = {'corruptions': report.get('corruptions', 0), 'leaks': report.get('leaks', 0), 'errors': report.get('check-errors', 0),
            'allocated': report.get('allocated-clusters', 0)}
    theirs = {key: getattr(counts, key) for key in ours}
    apart = ', '.join(f'{key} {ours[key]} by the engine, {theirs[key]} by the second' for key in ours if ours[key] != theirs[key])
    return apart and f'{apart} ({dict(counts.why)}; rows: {rows(report)})'


def rows(report):
    return ' '.join(f'{problem["id"]}={problem["count"]}' for problem in report.get('problems', []))


def compare(program, accel, recipe):
    """(why it is skipped or '', difference or '')"""
    with tempfile.TemporaryDirectory(prefix='vol-repair-second-') as scratch:
        directory = Path(scratch)
        if recipe.image.store.size > BYTES_MAX:
            return 'too large to be read into memory', ''
        recipe.save(str(directory / IMAGE))
        report = engine(program, accel, directory)
        if report['verdict'] in ('refused', 'failed') and 'check-errors' not in report:
            return 'refused by the engine: no counts', ''
        known = [NOT_FOLLOWED[problem['id']] for problem in report['problems'] if problem['id'] in NOT_FOLLOWED]
        if known:
            return known[0], ''
        return '', difference(report, check(Parts((directory / IMAGE).read_bytes())))


def recipes(args):
    """(name, Recipe) of the cases, then of random images."""
    for name in sorted(os.listdir(TESTS / 'cases')):
        if fnmatch.fnmatch(name, args.filter):
            yield name, Recipe((TESTS / 'cases' / name / 'recipe').read_text())
    for seed in range(args.seed, args.seed + args.rounds):
        yield f'seed {seed}', random_recipe(random.Random(seed))[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--build', default='build/release', help='build directory')
    parser.add_argument('--accel', choices=('kvm', 'process'), default='process')
    parser.add_argument('--filter', default='*', metavar='GLOB', help='only cases with such names')
    parser.add_argument('--seed', type=int, default=1, help='of the first random image; each has the next (1)')
    parser.add_argument('--rounds', type=int, default=300, help='so many random images (300)')
    args = parser.parse_args()
    program = os.path.abspath(f'{args.build}/plugin/cli/vol-repair')
    passed = failed = skipped = 0
    for name, recipe in recipes(args):
        why, apart = compare(program, args.accel, recipe)
        if apart:
            print(f'FAIL {name}: {apart}', flush=True)
        elif why:
            print(f'skipped: {name}: {why}', flush=True)
        passed, failed, skipped = passed + (not why and not apart), failed + bool(apart), skipped + bool(why)
    print(f'{passed} passed, {failed} failed, {skipped} skipped')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
