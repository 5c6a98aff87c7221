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

RECIPE_SHARED = """image size=64M
write 0 1M pattern=1
poke l1[0].l2[3].offset ^= 64K
"""


def report(lab, *more, **kwargs):
    done = lab.repair(f'--report={lab.dir}/report', *more, **kwargs)
    return done, json.loads((lab.dir / 'report').read_text())


def make(lab, recipe):
    (lab.dir / 'recipe').write_text(recipe)
    subprocess.run([sys.executable, run.ROOT / 'testdata' / 'mkqcow2.py', lab.dir / 'recipe', lab.image], check=True)


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


def vmm_has_limits(lab):
    env = {**lab.failing('pread', 1, 0), 'FAIL_WAIT': '40000', 'FAIL_FORKED': '1'}
    command = [lab.tool, '--accel=process', '--mode=check', '--memory=64M', '--timeout=600', lab.image]
    most, limits, end = f'Max address space         {(64 << 20) + (1 << 30)} ', '', time.monotonic() + seconds(10)
    tool = subprocess.Popen(command, env={**os.environ, **env}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while most not in limits and time.monotonic() < end:
            time.sleep(0.1)
            for child in Path(f'/proc/{tool.pid}/task/{tool.pid}/children').read_text().split():
                limits = Path(f'/proc/{child}/limits').read_text()
        assert most in limits, limits
        assert 'Max file size             unlimited' not in limits, limits
    finally:
        tool.kill()
        tool.wait(seconds(20))


def fifo_that_nobody_reads(lab):
    fifo = lab.dir / 'fifo'
    os.mkfifo(fifo)
    done = lab.repair(f'--report={fifo}', mode='check')
    assert 'Could not write the report' in done.stderr, done.stderr
    # Whoever opens it and reads nothing.
    with open(os.open(fifo, os.O_RDWR), 'rb'):
        done = lab.repair(f'--report={fifo}', '--max-messages=0', mode='check')
        assert done.returncode in (1, 2, 3), done


def fifo_whose_reader_comes_late(lab):
    fifo = lab.dir / 'fifo'
    os.mkfifo(fifo)
    reader = subprocess.Popen(['sh', '-c', 'sleep 1; cat "$0"', fifo], stdout=subprocess.PIPE, text=True)
    done = lab.repair(f'--report={fifo}', mode='check')
    text = reader.communicate(timeout=seconds(20))[0]
    assert json.loads(text)['mode'] == 'check' and 'Could not write' not in done.stderr, done.stderr


def text_and_json_refuse_in_the_same_words(lab):
    make(lab, 'image size=64M incompatible=1\nwrite 0 64K pattern=1\n')
    os.truncate(lab.image, 2404693553152)
    done, said = report(lab, '--memory=16M', mode='check')
    words = {mode: what.get('refused') for mode, what in said['would-do'].items()}
    assert 'memory' in words.values(), said['would-do']
    for mode, word in words.items():
        assert (f'--mode={mode} would refuse ({word})' in done.stdout) == (word is not None), done.stdout


def what_is_left_to_do_is_never_nothing_beside_lost_data(lab):
    make(lab, RECIPE_SHARED)
    for mode in ('check', 'leaks', 'all', 'check'):
        done, said = report(lab, mode=mode)
        assert said['guest-bytes-affected'] and 'damage reaches the data' in done.stdout, done.stdout
        assert 'nothing needs to be done' not in done.stdout, done.stdout
        if mode == 'all':
            assert 'from a backup' in done.stdout or 'more than one way' in done.stdout, done.stdout


TESTS = [value for value in list(globals().values()) if callable(value) and getattr(value, '__code__', None)
         and value.__code__.co_varnames[:1] == ('lab',) and value not in (report, make)]


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
