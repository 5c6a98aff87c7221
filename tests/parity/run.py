#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""run.py: what vol-repair prints against what qemu-img 7.2 prints, for every case: same lines, same order, same streams."""
import argparse
import concurrent.futures
import difflib
import fnmatch
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(ROOT / 'testdata')]
sys.dont_write_bytecode = True

import case_oracle  # noqa: E402
import options  # noqa: E402
from mkqcow2 import Recipe  # noqa: E402
from patience import seconds  # noqa: E402

RUNS = {'check': [], 'leaks': ['-r', 'leaks'], 'all': ['-r', 'all'], 'check json': ['--output=json'],
        'all quiet': ['-q', '-r', 'all']}
# Where the two are meant to print different things, beyond the `differs` and `refused` lines of a recipe: (case, runs, why).
INTENDED = [
    ('mixed-everything-small', 'all*', 'refcounts are corrected in place, where qemu-img builds new structures'),
    ('pointer-doubtful-dirty', 'all*', 'refcounts are corrected in place, where qemu-img builds new structures'),
    ('rebuild-bitmaps', 'leaks', 'qemu-img breaks off its repair, stores the bitmaps nevertheless, and fails at that'),
    ('rebuild-reftable-on-refblock', 'all*', 'qemu-img tries to make the file larger than a file can be for a bogus entry'),
    ('refblock-shared', 'all*', 'a refcount block that two entries name is given up twice, with a line for each'),
    ('refcount-overflow-snapshot', 'check*', 'a table of two maps is read once: its lines stand with the first map'),
    ('refcount-overflow-snapshot', 'leaks', 'a table of two maps is read once: its lines stand with the first map'),
    ('snapshot-table-large', 'all*', 'a list of snapshots that is garbage is left alone; qemu-img mends its entries one by one'),
]


def run(program, options, directory):
    done = subprocess.run([*program, *options, case_oracle.IMAGE], cwd=directory, capture_output=True, text=True,
                          errors='replace', timeout=seconds(120), check=False)
    # The driver logs some of what it meets in its own name, on top of what the check says.
    errors = ''.join(l for l in done.stderr.splitlines(True) if not l.startswith('qcow2'))
    return {'exit': str(done.returncode), 'stdout': done.stdout if '--output=json' not in options else qemu_keys(done.stdout), 'stderr': errors.replace('vol-repair:', 'qemu-img:')}


QEMU_KEYS = {'image-end-offset', 'total-clusters', 'corruptions', 'corruptions-fixed', 'check-errors', 'leaks', 'leaks-fixed',
             'allocated-clusters', 'filename', 'format', 'fragmented-clusters', 'compressed-clusters'}


def qemu_keys(text):
    """What a JSON document says under the keys that qemu-img has, in its order."""
    if not text.strip():
        return text
    return json.dumps({key: value for key, value in json.loads(text).items() if key in QEMU_KEYS}, indent=1)


def intended(case, text, name):
    """Why this run of this case is not compared, or ''."""
    mode, states = name.split()[0], set()
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ['differs']:
            states.update(words[1].split(','))
        if words[:1] == ['refused'] and (not words[1:] or mode in words[1:]):
            return 'refused'
    if states & {'check', mode, 'after-' + mode}:  # what the recipe says; the repairs print the check's lines as well
        return 'differs'
    return next((why for known, which, why in INTENDED if known == case and fnmatch.fnmatch(name, which)), '')


def first_difference(ours, theirs):
    for key in ('exit', 'stdout', 'stderr'):
        if ours[key] == theirs[key]:
            continue
        lines = [l for l in difflib.unified_diff(theirs[key].splitlines(), ours[key].splitlines(), lineterm='', n=0)
                 if not l.startswith(('---', '+++', '@@'))]
        return f'{key}: ' + ' | '.join(lines[:6])
    return ''


def compare_case(name, program, work):
    """[(run, difference or '', reason or '')]"""
    text = (ROOT / 'tests' / 'cases' / name / 'recipe').read_text(encoding='utf-8')
    scratch = Path(tempfile.mkdtemp(prefix=name + '.', dir=work))
    try:
        start = scratch / 'start'
        start.mkdir()
        Recipe(text).save(str(start / case_oracle.IMAGE))
        results = []
        for what, options in RUNS.items():
            answers = []
            for tool in (program, ['qemu-img', 'check']):
                copy = scratch / 'copy'
                case_oracle.copy_image(str(start), str(copy))
                answers.append(run(tool, ['-f', 'qcow2', *options], str(copy)))
                shutil.rmtree(copy)
            results.append((what, first_difference(*answers), intended(name, text, what)))
        return name, results
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--build', required=True, help='build directory')
    parser.add_argument('--accel', choices=('kvm', 'process'), default='process')
    parser.add_argument('--filter', default='*', metavar='GLOB', help='only cases with such names')
    args = parser.parse_args()
    program = [str(Path(args.build, 'plugin/cli/vol-repair').resolve()), f'--accel={args.accel}', '--max-messages=100000']
    names = sorted(n for n in os.listdir(ROOT / 'tests' / 'cases') if fnmatch.fnmatch(n, args.filter))
    work = tempfile.mkdtemp(prefix='vol-repair-parity-')
    count = {'same': 0, 'intended': 0, 'failed': 0, 'skipped': 0}
    version = subprocess.run(['qemu-img', '--version'], capture_output=True, text=True, check=True).stdout.split()[2]
    try:
        with concurrent.futures.ProcessPoolExecutor() as pool:
            for name, results in pool.map(compare_case, names, [program] * len(names), [work] * len(names)):
                for what, difference, why in results:
                    stale = why not in ('', 'differs', 'refused') and not difference
                    verdict = 'failed' if stale or difference and not why else 'intended' if why else 'same'
                    count[verdict] += 1
                    if verdict == 'failed':
                        print(f'FAIL {name} [{what}]: {difference or "is meant to differ, and does not: " + why}')
        for words, difference, skipped in [] if args.filter != '*' else options.compare(program[:-1], Path(work), version):
            count['failed' if difference else 'skipped' if skipped else 'same'] += 1
            if skipped:
                print(f'SKIP [{words}]: {skipped}')
            if difference:
                print(f'FAIL [{words}]: {difference}')
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"{count['intended']} runs are meant to differ")
    print(f"{count['same']} passed, {count['failed']} failed, {count['skipped']} skipped")
    return 1 if count['failed'] else 0


if __name__ == '__main__':
    sys.exit(main())
