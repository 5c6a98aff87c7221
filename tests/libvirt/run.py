#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# Runs the tests that need a libvirtd: one line each, and a countable line at the end.
"""run.py [--build DIR] [WORD...]: the tests whose file or name contains one of the words; all of them without."""
import argparse
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from patience import seconds  # noqa: E402

TEST_SECONDS = int(seconds(180))


def find_tests(words):
    """(name, function) of each test, file by file, in the order of the file."""
    tests = []
    for path in sorted(HERE.glob('test_*.py')):
        module = importlib.import_module(path.stem)
        names = [name for name in vars(module) if name.startswith('test_')]
        tests += [(f'{path.stem[5:]}.{name[5:]}', getattr(module, name)) for name in names]
    return [t for t in tests if not words or any(word in t[0] for word in words)]


def out_of_time(*_):
    raise TimeoutError(f'not done after {TEST_SECONDS} seconds')


def run_one(function, build, skip_class):
    """['passed' | 'failed' | 'skipped', details]"""
    from common import Context
    tmp = tempfile.mkdtemp(prefix='vol-repair-test-')
    os.chmod(tmp, 0o755)
    signal.alarm(TEST_SECONDS)
    try:
        function(Context(build, tmp))
        return ['passed', '']
    except skip_class as e:
        return ['skipped', str(e)]
    except Exception:
        return ['failed', traceback.format_exc()]
    finally:
        signal.alarm(0)
        shutil.rmtree(tmp, ignore_errors=True)


def run_apart(*args):
    """run_one() in a process of its own: libvirt's event loop, once a test has started it, reads for every later client as well."""
    answer, put = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(put, json.dumps(run_one(*args)).encode())
        finally:
            os._exit(0)
    os.close(put)
    try:
        with open(answer, 'rb') as file:
            return json.loads(file.read() or '["failed", "the test\'s process died"]')
    except BaseException:
        os.kill(pid, signal.SIGTERM)  # it takes its daemon down
        raise
    finally:
        os.waitpid(pid, 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--build', default=os.environ.get('BUILD_DIR', 'build'))
    parser.add_argument('words', nargs='*')
    args = parser.parse_args()
    try:
        import libvirt
    except ImportError:
        print('0 passed, 0 failed, 1 skipped: python3-libvirt is not installed')
        return 77
    from common import Skip
    libvirt.registerErrorHandler(lambda *_: None, None)
    signal.signal(signal.SIGALRM, out_of_time)
    # Where SIGINT is ignored, as for a job in the background, programs that are started here would ignore it too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    counts = {'passed': 0, 'failed': 0, 'skipped': 0}
    for name, function in find_tests(args.words):
        started = time.monotonic()
        result, details = run_apart(function, args.build, Skip)
        counts[result] += 1
        reason = f': {details}' if result == 'skipped' else ''
        print(f'{result:7} {name} ({time.monotonic() - started:.1f} s){reason}')
        if result == 'failed':
            print('    ' + details.replace('\n', '\n    '))
        sys.stdout.flush()
    print('{passed} passed, {failed} failed, {skipped} skipped'.format(**counts))
    return 1 if counts['failed'] else 0


if __name__ == '__main__':
    sys.exit(main())
