#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""bench.py: vol-repair and qemu-img on the same images, in turn; writes docs/performance.md. Called by `./run bench`."""
import argparse
import dataclasses
import datetime
import json
import os
import platform
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / 'docs' / 'performance.md'
SAME = ('corruptions', 'leaks', 'leaks-fixed', 'corruptions-fixed', 'check-errors', 'image-end-offset', 'total-clusters',
        'allocated-clusters', 'fragmented-clusters')


# ---- images -------------------------------------------------------------------------------------------------


def make_fresh(path, scale):
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', str(path), str((1 << 30) // scale)], check=True)


def make_mapped(path, scale, size=1 << 40):
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-o', 'preallocation=metadata', str(path),
                    str(size // scale)], check=True)


def make_leaks(path, scale):
    """A mapped image that has lost its L1 entries: all its L2 tables and data clusters are leaks."""
    make_mapped(path, scale, 1 << 36)
    with open(path, 'r+b') as file:
        l1_size, l1_offset = struct.unpack('>IQ', file.read(48)[36:])
        file.seek(l1_offset)
        file.write(bytes(8 * l1_size))


@dataclasses.dataclass
class Bench:
    """One row. A bench that repairs gets a fresh copy of its image for every run."""
    name: str
    title: str
    make: object
    arguments: list
    status: int
    rounds: int
    repairs: bool = False


BENCHES = [
    Bench('fresh', 'check, fresh 1 GiB image, whole process', make_fresh, [], 0, 21),
    Bench('mapped', 'check, 1 TiB fully mapped, 64 KiB clusters', make_mapped, [], 0, 7),
    Bench('leaks', '`-r leaks`, a million leaked clusters', make_leaks, ['-r', 'leaks'], 0, 3, repairs=True),
]


# ---- one run --------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Run:
    seconds: float
    peak: int    # bytes: the largest process of the run
    read: int    # bytes that the run's processes read by system calls
    status: int
    document: dict


def run_once(meter, command, image):
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as result:
        # The shell only puts the result on descriptor 3.
        subprocess.run(['sh', '-c', f'exec "$@" 3>&{result.fileno()}', 'sh', str(meter), *command, str(image)], check=True,
                       stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.DEVNULL, pass_fds=[result.fileno()])
        out.seek(0)
        result.seek(0)
        text = out.read()
        seconds, status, peak, read = result.read().split()
    return Run(float(seconds), int(peak) * 1024, int(read), int(status), json.loads(text) if text.strip() else {})


def measure(bench, work, tools, args):
    """Runs the tools in turn, after one run each that does not count. {tool: [Run]}"""
    image, copy = work / f'{bench.name}.qcow2', work / 'copy.qcow2'
    bench.make(image, args.scale)
    runs = {tool: [] for tool in tools}
    rounds = args.rounds or bench.rounds
    for number in range(rounds + (not bench.repairs)):
        for tool, command in tools.items():
            command = [*command, *bench.arguments]
            if bench.repairs:
                command += [f'--undo={work / "journal"}'] * (tool == 'vol-repair')
                (work / 'journal').unlink(missing_ok=True)
                subprocess.run(['cp', '--sparse=always', str(image), str(copy)], check=True)
                os.sync()
            run = run_once(work / 'measure', command, copy if bench.repairs else image)
            if run.status != bench.status:
                sys.exit(f'bench: {bench.name}: {tool} ended with {run.status}, not {bench.status}')
            if number or bench.repairs:
                runs[tool].append(run)
    compare(bench, runs)
    image.unlink()
    copy.unlink(missing_ok=True)
    return runs


def compare(bench, runs):
    """Speed counts only for the same answer."""
    answers = [{k: run[0].document.get(k, 0) for k in SAME} for run in runs.values()]
    for other in answers[1:]:
        different = [f'{k}: {answers[0][k]} and {other[k]}' for k in SAME if answers[0][k] != other[k]]
        if different:
            sys.exit(f'bench: {bench.name}: the tools disagree: {"; ".join(different)}')


# ---- the page ---------------------------------------------------------------------------------------------------


def seconds(value):
    return f'{value * 1000:.1f} ms' if value < 1 else f'{value:.2f} s'


def mebibytes(value):
    return f'{value / 1048576:.1f} MiB'


def row(bench, runs):
    ours, theirs = runs['vol-repair'], runs['qemu-img']
    ratio = statistics.median(q.seconds / v.seconds for v, q in zip(ours, theirs))
    cells = [bench.title, seconds(statistics.median(r.seconds for r in ours)),
             seconds(statistics.median(r.seconds for r in theirs)), f'{ratio:.2f}', len(ours),
             mebibytes(statistics.median(r.peak for r in ours)), mebibytes(statistics.median(r.peak for r in theirs)),
             mebibytes(statistics.median(r.read for r in ours)), mebibytes(statistics.median(r.read for r in theirs))]
    return '| ' + ' | '.join(map(str, cells)) + ' |'


def machine():
    info = Path('/proc/cpuinfo').read_text()
    model = next(line.split(': ')[1] for line in info.splitlines() if line.startswith('model name'))
    hardware = any(f' {flag} ' in f'{info} ' for flag in ('vmx', 'svm'))
    kvm = 'no /dev/kvm' if not os.path.exists('/dev/kvm') else 'hardware KVM' if hardware else 'software KVM (no vmx or svm)'
    qemu = subprocess.run(['qemu-img', '--version'], stdout=subprocess.PIPE, text=True, check=True).stdout.split('\n')[0]
    return f'{datetime.date.today()}; {model}, {os.cpu_count()} CPUs; Linux {platform.release()}; {kvm}; {qemu}'


OPENING = '''<!-- Made by ./run bench: do not edit. -->
# Performance

`vol-repair` and `qemu-img` side by side, in turn, on the same images in one run; medians. The ratio is the median of the rounds' ratios
qemu-img / vol-repair: above 1, vol-repair is faster. "Peak" is the largest single process of a run (`ru_maxrss`); for vol-repair that
includes the guest's memory. "Read" is what the run's processes read by system calls. The page cache is hot. A repair by vol-repair
includes its undo journal, its verification before the first write, and its last walk from disk; one by qemu-img also punches
holes where it frees clusters, which vol-repair leaves to later writes.
Both tools had to give the same answer, or there would be no table. Absolute times are this machine's alone.
'''


def table(rows):
    head = ['run', 'vol-repair', 'qemu-img', 'ratio', 'rounds', 'peak, vol-repair', 'peak, qemu-img', 'read, vol-repair',
            'read, qemu-img']
    return '\n'.join(['| ' + ' | '.join(head) + ' |', '|' + ' --- |' * len(head), *rows])


def main():
    parser = argparse.ArgumentParser(prog='./run bench', description=__doc__)
    parser.add_argument('--build', default='build/release', help='build directory')
    parser.add_argument('--quick', action='store_true', help='small images, few rounds, and no page is written')
    parser.add_argument('--rounds', type=int, help='rounds of each')
    parser.add_argument('--work', default='/var/tmp', help='directory for the images (sparse, a few hundred MiB)')
    parser.add_argument('name', nargs='?', choices=[b.name for b in BENCHES], help='only this one; no page is written')
    args = parser.parse_args()
    args.scale = 64 if args.quick else 1
    args.rounds = args.rounds or (3 if args.quick else None)
    tools = {'vol-repair': [str(Path(args.build, 'plugin/vmm/vol-repair').resolve()), '-f', 'qcow2', '--output=json'],
             'qemu-img': ['qemu-img', 'check', '-f', 'qcow2', '--output=json']}
    work, rows = Path(tempfile.mkdtemp(prefix='vol-repair-bench-', dir=args.work)), []
    print(machine())
    try:
        subprocess.run(['cc', '-O2', '-o', str(work / 'measure'), str(Path(__file__).parent / 'measure.c')], check=True)
        for bench in BENCHES:
            if args.name in (None, bench.name):
                rows.append(row(bench, measure(bench, work, tools, args)))
                print(rows[-1], flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print('\n' + table(rows))
    if not args.name and not args.quick:
        PAGE.write_text(f'{OPENING}\nMeasured {machine()}.\n\n{table(rows)}\n')
        print(f'\nwritten: {PAGE.relative_to(ROOT)}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
