#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""suites.py: runs every test suite, and adds up what they say. Called by `./run test`.

Suites that keep all processors busy run one after the other; beside them, one after the other, those of one test at a time. On a
machine without /dev/kvm, EMULATED runs beside both, in one emulated PC (tests/machine).
"""
import argparse
import collections
import concurrent.futures
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import patience
import state

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / 'build' / 'test-logs'
COUNT = re.compile(r'^(\d+) passed, (\d+) failed, (\d+) skipped\b')
UNDER_KVM = re.compile(r'\b(\d+) ran under KVM\b')
SKIP = re.compile(r'^\s*(?:\w+: )?(?:SKIP|skipped)\b:?\s+(?:.*: )?(\S.*)')  # the reason, behind the test's name
KVM = os.access('/dev/kvm', os.R_OK | os.W_OK)
ACCEL = 'kvm' if KVM else 'process'
SKIPPED = 77  # exit status, as meson has it
ASAN_OPTIONS = 'abort_on_error=0:exitcode=99'
MACHINE = ROOT / 'tests' / 'machine' / 'machine.py'
RUNNING, STOPPED = set(), threading.Event()  # what has to end before this does
RESULTS = 'results: '  # what the last line begins with that suites.py prints inside the emulated PC
FAILED = re.compile(r'^\s*(FAIL|FAILED)\b')
CMOCKA = re.compile(r'^\[\s+(PASSED|FAILED|SKIPPED)\s+\] (\d+) test\(s\)')


@dataclasses.dataclass
class Suite:
    """One line of the table. {py} and {build}, {clang}, {asan} in the command are replaced."""
    name: str
    command: str
    quick: bool = True     # also part of --quick
    kvm: bool = False      # every test of it runs under KVM
    timeout: int = 1800    # seconds on an idle machine
    unit: bool = False     # a meson run: counted from its log, not from a last line
    single: bool = False   # one test at a time: runs beside the suites that keep all processors busy


# Every meson test but those that have a line of their own below.
UNIT = 'meson test -C {build} --no-rebuild --timeout-multiplier {{patience:.0f}} --no-suite hostile --no-suite cases --no-suite libvirt'
CASES = '{{py}} tests/run-case.py --vol-repair {build}/plugin/cli/vol-repair --accel {accel} --cache build/case-cache'

SUITES = [
    Suite('gate', '{py} tests/gate.py', single=True),
    Suite('docs', '{py} tests/docs.py --build {build}', single=True),
    Suite('mutants, their texts', '{py} tests/mutants/run.py --texts', single=True),
    Suite('unit, gcc + sanitizers', UNIT.format(build='{asan}'), unit=True),
    Suite('unit, clang', UNIT.format(build='{clang}'), unit=True),
    # Memory that is never given back is looked for by the unit tests: to look for it at the end of each of thousands of short
    # runs takes as long as the runs.
    Suite('cases, sanitizers, process', f'env ASAN_OPTIONS={ASAN_OPTIONS}:detect_leaks=0 ' +
          CASES.format(build='{asan}', accel='process')),
    # As a process the one above and the one below are enough, and the emulated PC has one for each row under KVM.
    *([Suite('cases, gcc, kvm', CASES.format(build='{build}', accel='kvm'), kvm=True)] if KVM else []),
    Suite(f'cases, clang, {ACCEL}, wide', CASES.format(build='{clang}', accel=ACCEL).replace('/vol-repair ', '/vol-repair-test ') +
          ' --one-per-row --option=--test-wide-map', kvm=KVM, quick=False),
    Suite('crash', '{py} tests/crash/run.py --build {build}', quick=False),
    Suite('random damage', '{py} tests/soak/soak.py 5 --seed 1 --rounds 80 --build {asan} --accel process', single=True),
    Suite('judge', '{py} tests/judge/run.py --build {build} --accel process --count 200', quick=False, single=True),
    Suite('second checker', '{py} tests/second/run.py --build {build} --rounds 100', quick=False, single=True),
    Suite('parity', '{py} tests/parity/run.py --build {build}'),
    Suite('fuzz', '{py} tests/fuzz/run.py --build build/fuzz --tools {build}'),
    Suite('memory', '{py} tests/memory/run.py --build {build}', quick=False, single=True),
    Suite('bounds', '{py} tests/bounds/run.py --build {build}', quick=False, single=True),
    Suite('hostile', '{py} tests/hostile/run.py --build {build}', single=True),
    Suite('errors', '{py} tests/errors/run.py --build {build}', single=True),
    Suite('reports', '{py} tests/errors/reports.py --build {build}', single=True),
    Suite('journals', '{py} tests/errors/journals.py --build {build}', single=True),
    Suite('package', '{py} tests/package/run.py --build {build}', single=True),
    Suite('virsh', '{py} tests/virsh/run.py --build {build}', single=True),
    Suite('libvirt', '{py} tests/libvirt/run.py --build {build}', single=True),
    Suite('machine', '{py} tests/machine/run.py', quick=False, single=True),
    Suite('demo', '{py} tests/demo/demo.py --build {build} --batch --count', kvm=KVM, single=True),
]

# What needs KVM, inside the emulated PC: about ten times slower than a real one. Behind these come cases: one for each row, or
# all, which by then find qemu-img's answers in the cache.
EMULATED = [
    Suite('hostile, emulated kvm_amd', '{py} tests/hostile/run.py --kvm-only --build {build}', quick=False),
    Suite('errors, emulated kvm_amd', '{py} tests/errors/run.py --build {build} kvm', quick=False),
    Suite('apparmor, emulated', '{py} tests/machine/confined.py --build {build}', quick=False),
    Suite('demo, emulated kvm_amd', '{py} tests/demo/demo.py --build {build} --batch --count --volume disk.qcow2', kvm=True, quick=False),
]
ROWS = Suite('rows, emulated kvm_amd', CASES.format(build='{build}', accel='kvm') + ' --one-per-row --brief', kvm=True, quick=False)
ALL_CASES = Suite('cases, emulated kvm_amd', CASES.format(build='{build}', accel='kvm'), kvm=True, timeout=1200)
EMULATED_SECONDS = 3000  # for all of it on an idle machine


@dataclasses.dataclass
class Outcome:
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    kvm: int = 0
    seconds: float = 0.0
    reasons: collections.Counter = dataclasses.field(default_factory=collections.Counter)  # of skips
    trouble: str = ''      # why the suite failed as a whole


def run_command(suite, log):
    """Returns the exit status, or None where the time was over. What the suite started ends with it."""
    slower = patience.measure()
    names = {'py': '/usr/bin/python3', 'build': 'build/release', 'asan': 'build/sanitize', 'clang': 'build/clang-release',
             'patience': slower + 0.5}
    env = dict(os.environ, VR_PATIENCE=f'{slower:.1f}', ASAN_OPTIONS=ASAN_OPTIONS, UBSAN_OPTIONS='print_stacktrace=1')
    # Not /tmp, which may be a tmpfs: there qemu-img's own repair of one case makes its file larger without end.
    env.setdefault('TMPDIR', '/var/tmp')
    with open(log, 'wb') as out, tempfile.TemporaryDirectory(prefix='vol-repair-state-', dir=env['TMPDIR']) as journals:
        os.chmod(journals, 0o755)
        prefix, places, _ = state.private(ROOT / 'build' / 'release', journals)
        child = subprocess.Popen([*prefix, *suite.command.format(**names).split()], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out,
                                 stderr=subprocess.STDOUT, env={**env, **places}, start_new_session=True)
        RUNNING.add(child)
        try:
            return None if STOPPED.is_set() else child.wait(suite.timeout * slower)
        except subprocess.TimeoutExpired:
            return None
        finally:
            end_session(child)
            RUNNING.discard(child)


def end_session(child):
    """First asks, so that private daemons are taken down in order; then insists."""
    for number, patience in ((signal.SIGTERM, 15), (signal.SIGKILL, 5)):
        if child.poll() is not None:
            return
        os.killpg(child.pid, number)
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            pass


def count_unit(suite, outcome):
    """Adds up cmocka's own counts from meson's log; a program that printed none counts as one test."""
    path = ROOT / suite.command.split('-C ')[1].split()[0].format(
        build='build/release', asan='build/sanitize', clang='build/clang-release') / 'meson-logs' / 'testlog.json'
    for line in path.read_text(errors='replace').splitlines():
        test = json.loads(line)
        found, why = {'PASSED': 0, 'FAILED': 0, 'SKIPPED': 0}, ''
        for text in (test.get('stdout', '') + '\n' + test.get('stderr', '')).splitlines():
            if match := CMOCKA.match(text):
                found[match[1]] += int(match[2])
            elif match := SKIP.match(text):
                why = match[1]
            elif match := COUNT.match(text):
                for key, number in zip(('PASSED', 'FAILED', 'SKIPPED'), match.groups()):
                    found[key] += int(number)
        good, skipped = test['result'] in ('OK', 'EXPECTEDFAIL'), test['result'] == 'SKIP'
        if not any(found.values()) or (not good and not skipped and not found['FAILED']):
            found['PASSED' if good else 'SKIPPED' if skipped else 'FAILED'] += 1
        outcome.passed += found['PASSED']
        outcome.failed += found['FAILED']
        outcome.skipped += found['SKIPPED']
        if found['SKIPPED']:
            outcome.reasons[why or 'see the log'] += found['SKIPPED']


def count_lines(suite, lines, outcome):
    last = COUNT.match(lines[-1]) if lines else None
    if not last:
        outcome.trouble = 'ended without a line "N passed, N failed, N skipped"'
        return
    outcome.passed, outcome.failed, outcome.skipped = map(int, last.groups())
    outcome.reasons.update(m[1] for m in map(SKIP.match, lines) if m)
    if outcome.skipped and not outcome.reasons:
        outcome.trouble = 'skipped tests without saying why'
    kvm = [int(m[1]) for m in map(UNDER_KVM.search, lines) if m]
    outcome.kvm = sum(kvm) if kvm else (outcome.passed + outcome.failed) * suite.kvm


def run_suite(suite):
    log = LOGS / (re.sub(r'[^a-z0-9]+', '-', suite.name) + '.log')
    outcome, begin = Outcome(), time.monotonic()
    status = run_command(suite, log)
    outcome.seconds = time.monotonic() - begin
    lines = log.read_text(errors='replace').rstrip().splitlines()
    if status is None:
        outcome.trouble = f'did not end within its {suite.timeout} seconds, or as many times more as this machine is slower'
    elif suite.unit:
        count_unit(suite, outcome)
    else:
        count_lines(suite, lines, outcome)
    skipped_whole = status == SKIPPED and outcome.skipped and not outcome.passed
    if not outcome.trouble and status != 0 and not outcome.failed and not skipped_whole:
        outcome.trouble = f'ended with status {status} although nothing failed'
    if not outcome.trouble and not outcome.passed + outcome.failed + outcome.skipped:
        outcome.trouble = 'ran nothing'
    outcome.failed += bool(outcome.trouble)
    text = [f'{suite.name:<28}{outcome.passed} passed, {outcome.failed} failed, {outcome.skipped} skipped, {outcome.seconds:.0f} s']
    if outcome.failed:
        text += [f'  ---- {suite.command}', f'  ---- {outcome.trouble or "tests failed"}; the end of {log.relative_to(ROOT)}:']
        text += ['  | ' + line for line in [*filter(FAILED.match, lines[:-40]), *lines[-40:]]]
    print('\n'.join(text), flush=True)  # at once: another lane prints as well
    return outcome


def print_table(results):
    print(f'\n{"suite":<28}{"passed":>8}{"failed":>8}{"skipped":>9}{"under KVM":>11}{"seconds":>9}')
    for suite, o in results:
        print(f'{suite.name:<28}{o.passed:>8}{o.failed:>8}{o.skipped:>9}{o.kvm:>11}{o.seconds:>9.0f}')
    for suite, o in results:
        if o.skipped:
            reasons = [why if len(o.reasons) == 1 else f'{count}: {why}' for why, count in o.reasons.most_common()]
            print(f'skipped: {suite.name}: {o.skipped}: {"; ".join(reasons)}')
        if o.trouble:
            print(f'failed: {suite.name}: {o.trouble}')
    if not KVM:
        print('no /dev/kvm here: what is not said to have run under KVM ran in a sandboxed process')


class Machine:
    """The emulated PC with suites of EMULATED in it, beside whatever else runs."""

    def __init__(self, chosen, args):
        self.suites, self.log, self.child, self.why_not = chosen, LOGS / 'emulated.log', None, ''
        fetched = subprocess.run([MACHINE, '--fetch'], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        if fetched.returncode != 0:
            self.why_not = fetched.stderr.strip()
            return
        limit = EMULATED_SECONDS * patience.measure() * (4 if args.all_cases else 1)
        command = [MACHINE, f'--timeout={limit:.0f}', '--', '/usr/bin/python3', 'tests/suites.py', '--inside', args.filter]
        with open(self.log, 'wb') as out:
            self.child = subprocess.Popen(command + ['--all-cases'] * args.all_cases, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out,
                                          stderr=subprocess.STDOUT, start_new_session=True)

    def results(self):
        """Waits. [(suite, outcome)]; where there was no PC, or it broke, a single one that says so."""
        whole = Suite('emulated kvm_amd', '')
        if not self.child:
            return [(whole, Outcome(skipped=1, reasons=collections.Counter([self.why_not])))]
        self.child.wait()
        *lines, last = self.log.read_text(errors='replace').rstrip().splitlines() or ['']
        print('\n'.join(lines[-60:]), flush=True)
        if not last.startswith(RESULTS):
            return [(whole, Outcome(failed=1, trouble=f'the PC ended early, with "{last}"'))]
        found = [Outcome(**fields) for fields in json.loads(last[len(RESULTS):])]
        for outcome in found:
            outcome.reasons = collections.Counter(outcome.reasons)
        return list(zip(self.suites, found, strict=True))

    def end(self):
        if self.child:
            end_session(self.child)


def run_lane(suites):
    return [(suite, run_suite(suite)) for suite in suites if not STOPPED.is_set()]


def run_suites(chosen):
    """[(suite, outcome)] in the order of chosen."""
    lanes = [[suite for suite in chosen if suite.single == single] for single in (False, True)]
    with concurrent.futures.ThreadPoolExecutor(len(lanes)) as pool:
        try:
            results = [result for lane in [pool.submit(run_lane, lane) for lane in lanes] for result in lane.result()]
        except BaseException:
            STOPPED.set()
            for child in list(RUNNING):
                end_session(child)
            raise
    return sorted(results, key=lambda result: chosen.index(result[0]))


def choose(args):
    """(suites to run here, suites to run in the emulated PC)"""
    emulated = [*EMULATED, ALL_CASES if args.all_cases else ROWS]
    wanted = [[s for s in suites if args.filter in s.name and (s.quick or not args.quick)] for suites in (SUITES, emulated)]
    if args.inside:
        return wanted[1], []
    return [] if args.emulated else wanted[0], wanted[1] if args.emulated or not KVM else []


def parse():
    parser = argparse.ArgumentParser(prog='./run test', description='Runs the test suites.')
    parser.add_argument('--quick', action='store_true', help='leave out the long suites')
    parser.add_argument('--list', action='store_true', help='only name the suites')
    parser.add_argument('--emulated', action='store_true', help='only what runs in the emulated PC, also where there is a /dev/kvm')
    parser.add_argument('--all-cases', action='store_true', help='in the emulated PC every case, not one for each row')
    parser.add_argument('--inside', action='store_true', help=argparse.SUPPRESS)  # run by Machine
    parser.add_argument('filter', nargs='?', default='', help='only suites whose name contains this')
    return parser.parse_args()


def main():
    args = parse()
    here, emulated = choose(args)
    if args.list:
        print('\n'.join(s.name for s in here + emulated))
        return 0
    if not here + emulated:
        print(f'run: no suite is named like "{args.filter}"', file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    LOGS.mkdir(parents=True, exist_ok=True)
    machine = Machine(emulated, args) if emulated else None
    try:
        results = run_suites(here)
        if machine:
            print('what ran in the emulated PC meanwhile:', flush=True)
            results += machine.results()
    finally:
        if machine:
            machine.end()
    if args.inside:
        print(RESULTS + json.dumps([dataclasses.asdict(outcome) for _, outcome in results]))
        return 0
    print_table(results)
    total = [sum(getattr(o, key) for _, o in results) for key in ('passed', 'failed', 'skipped')]
    print('\n{} passed, {} failed, {} skipped'.format(*total), flush=True)
    return 1 if total[1] else 0


if __name__ == '__main__':
    sys.exit(main())
