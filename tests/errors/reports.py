#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""reports.py: what is said of failing and slow disks is exact, and a report says no less and no more than is true.

reports.py --build BUILD [FILTER]. Each test is a function below; its name says what it holds.
"""
import argparse
import errno
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import run
from patience import seconds


def report(lab, *more, **kwargs):
    done = lab.repair(f'--report={lab.dir}/report', *more, **kwargs)
    return done, json.loads((lab.dir / 'report').read_text())


def failed_read_names_its_place(lab):
    seen = set()
    for after in range(1, 6):
        done, said = report(lab, mode='check', env=lab.failing('pread', after, errno.EIO, True))
        place = said['read-error']
        assert place['errno'] == errno.EIO and place['offset'] % 512 == 0 and place['length'] > 0, place
        words = f"The image could not be read: {place['length']} bytes at offset {place['offset']}: Input/output error"
        assert done.returncode == 1 and words in done.stderr and said['error'].startswith(words), done.stderr
        seen.add(place['offset'])
    assert len(seen) > 1, seen


def failed_write_names_its_place(lab):
    done = lab.repair(env=lab.failing('pwrite', 0, errno.ENOSPC, True))
    assert 'The image could not be written: ' in done.stderr and ' bytes at offset ' in done.stderr, done.stderr


def sync_that_a_signal_cuts_is_made_again(lab):
    done = lab.repair(env=lab.failing('fdatasync', 1, errno.EINTR))
    assert done.returncode in (0, 2, 3) and 'rolled back' not in done.stderr, done.stderr


def read_that_does_not_come_back_ends_the_run(lab):
    """Of the runner itself, and of one that it waits for."""
    for after in (0, 2, 4):
        env = {**lab.failing('pread', after, 0), 'FAIL_WAIT': '40000', 'FAIL_FORKED': '1'}
        started = time.monotonic()
        done = lab.repair('--timeout=1', mode='check', env=env)
        assert time.monotonic() - started < seconds(10), (after, time.monotonic() - started)
        assert done.returncode == 1 and 'a read has not come back for too long' in done.stderr, done.stderr


TESTS = [value for value in list(globals().values()) if callable(value) and getattr(value, '__code__', None)
         and value.__code__.co_varnames[:1] == ('lab',) and value is not report]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--build', required=True)
    parser.add_argument('filter', nargs='?', default='')
    args = parser.parse_args()
    passed = failed = 0
    for test in [t for t in TESTS if args.filter in t.__name__]:
        with tempfile.TemporaryDirectory(prefix='vol-repair-errors.', dir='/var/tmp') as directory:
            try:
                test(run.Lab(Path(args.build), directory, 'process'))
                passed += 1
                print(f'passed  {test.__name__}', flush=True)
            except (AssertionError, KeyError, subprocess.SubprocessError, OSError) as problem:
                failed += 1
                print(f'FAIL {test.__name__}: {problem!r}', flush=True)
    print(f'{passed} passed, {failed} failed, 0 skipped')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
