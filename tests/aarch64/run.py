#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""run.py: builds for arm64 and runs what can run there, on any machine. Called by `./run aarch64`.

Unit tests run under qemu-user, which has no system call filters; so vol-repair refuses to run there, as it does wherever its sandbox
cannot be set up. What needs the sandbox runs in an emulated machine with Debian's stock kernel for arm64 (machine.py): the attacks
on it, and cases: check, repair, undo, without qemu-img.
"""
import argparse
import collections
import json
import re
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import machine  # noqa: E402
import suites  # noqa: E402
import sysroot  # noqa: E402
from sysroot import BASE, ROOT, SYSROOT, TOOLS, SysrootError  # noqa: E402

BUILD = BASE / 'build'
PLACE = BUILD.relative_to(ROOT)  # in the machine, whose current directory is this tree
USER_SECONDS = 600  # for one program
# Unit tests that are programs of this machine and start the one for arm64, with its sandbox, or qemu-img beside it.
NOT_UNDER_USER = 'starts vol-repair, whose sandbox qemu-user cannot set up: it knows no seccomp()'


def build():
    text = (Path(__file__).parent / 'cross.ini.in').read_text().replace('@BASE@', str(BASE))
    if not (BASE / 'cross.ini').exists() or (BASE / 'cross.ini').read_text() != text:  # meson configures anew where it is newer
        (BASE / 'cross.ini').write_text(text)
    if not (BUILD / 'build.ninja').exists():
        sysroot.command('meson', 'setup', str(BUILD), f'--cross-file={BASE / "cross.ini"}', '--buildtype=release',
                        '-Db_ndebug=false', cwd=ROOT)
    with open(BASE / 'build.log', 'w', encoding='utf-8') as log:
        if subprocess.run(['ninja', '-j2', '-C', BUILD], stdout=log, stderr=subprocess.STDOUT, check=False).returncode != 0:
            raise SysrootError(f'the build failed: {BASE / "build.log"}')


def unit_programs():
    """{name: command} of the unit tests, as meson has them."""
    tests = json.loads(sysroot.command('meson', 'introspect', '--tests', str(BUILD)))
    return {test['name']: test['cmd'] for test in tests if 'vol-repair:unit' in test['suite']}


def run_unit(log):
    outcome = suites.Outcome()
    for name, words in sorted(unit_programs().items()):
        if words[0].endswith('.py'):
            outcome.skipped += 1
            outcome.reasons[f'{name}: {NOT_UNDER_USER}'] += 1
            continue
        try:
            done = subprocess.run([TOOLS / 'usr' / 'bin' / 'qemu-aarch64-static', '-L', SYSROOT, words[-1]], capture_output=True, text=True,
                                  stdin=subprocess.DEVNULL, timeout=USER_SECONDS, errors='replace', check=False)
            text, status = done.stdout + done.stderr, done.returncode
        except subprocess.TimeoutExpired:
            text, status = 'not done in time', None
        log.write(f'==== {name}: {status}\n{text}\n')
        count_cmocka(name, text, status, outcome)
    return outcome


def count_cmocka(name, text, status, outcome):
    found = collections.Counter()
    for line in text.splitlines():
        if match := suites.CMOCKA.match(line):
            found[match[1]] += int(match[2])
        elif match := suites.SKIP.match(line):
            outcome.reasons[f'{name}: {match[1]}'] += 1
    outcome.passed += found['PASSED']
    outcome.failed += found['FAILED'] or (status != 0)
    outcome.skipped += found['SKIPPED']
    if status != 0:
        print(f'FAILED {name}: ended with {status}', *(line for line in text.splitlines() if 'FAILED' in line), sep='\n  | ')


def run_in_machine(log, words, seconds):
    """The last line "N passed, N failed" counts."""
    outcome = suites.Outcome()
    status, text = machine.run(words, seconds)
    log.write(f'==== {words}: {status}\n{text}\n')
    last = re.match(r'(\d+) passed, (\d+) failed', text.rstrip().split('\n')[-1])
    if not last:
        raise SysrootError(f'{words} ended with {status} and without a count')
    outcome.passed, outcome.failed = map(int, last.groups())
    print(*(line for line in text.splitlines() if line.startswith('FAIL')), sep='\n', end='')
    return outcome


def tests(args):
    """(name, what to run with the log) of each suite."""
    limit = args.timeout
    case = (f'python3 tests/run-case.py --vol-repair {PLACE}/plugin/cli/vol-repair --accel process --brief --cache /tmp/cache -j 2 '
            f"--filter '{args.filter}'" + ' --one-per-row' * (not args.all_cases))
    return [('unit, qemu-user', run_unit),
            ('sandbox, machine', lambda log: run_in_machine(log, f'{PLACE}/tests/hostile/sandbox-deny', limit)),
            ('process attacks, machine', lambda log: run_in_machine(log, f'{PLACE}/tests/hostile/process-attacks 1', limit)),
            ('cases, process, machine', lambda log: run_in_machine(log, case, limit))]


def parse():
    parser = argparse.ArgumentParser(prog='./run aarch64', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--filter', default='*', metavar='GLOB', help='only cases with such names')
    parser.add_argument('--all-cases', action='store_true', help='every case, not one for each row of the problem table')
    parser.add_argument('--only', default='', metavar='WORD', help='only suites whose name contains this')
    parser.add_argument('--timeout', type=float, default=7200, metavar='SECONDS', help='of each suite in the machine (7200)')
    parser.add_argument('--build-only', action='store_true')
    return parser.parse_args()


def main():
    args, results = parse(), []
    try:
        sysroot.get()
        build()
    except SysrootError as error:
        print(f'aarch64: {error}', file=sys.stderr)
        return 2
    if args.build_only:
        return 0
    with open(BASE / 'tests.log', 'w', encoding='utf-8') as log:
        for name, run in tests(args):
            if args.only not in name:
                continue
            try:
                outcome = run(log)
            except SysrootError as error:
                outcome = suites.Outcome(failed=1, trouble=str(error))
            if not outcome.passed + outcome.failed + outcome.skipped:
                outcome.failed, outcome.trouble = 1, 'ran nothing'
            log.flush()
            results.append((name, outcome))
    print(f'\n{"suite":<28}{"passed":>8}{"failed":>8}{"skipped":>9}')
    for name, o in results:
        print(f'{name:<28}{o.passed:>8}{o.failed:>8}{o.skipped:>9}')
    for name, o in results:
        if o.trouble:
            print(f'failed: {name}: {o.trouble}')
        for reason in o.reasons:
            print(f'skipped: {name}: {reason}')
    print('everything that was said is in build/aarch64/tests.log')
    return any(o.failed for _, o in results)


if __name__ == '__main__':
    sys.exit(main())
