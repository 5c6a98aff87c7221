#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""bench.py: vol-repair and qemu-img on the same images, in turn; writes docs/performance.md. Called by `./run bench`."""
import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True

import images  # noqa: E402
import page  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / 'docs' / 'performance.md'
SAME = ('corruptions', 'leaks', 'leaks-fixed', 'corruptions-fixed', 'check-errors', 'image-end-offset', 'total-clusters',
        'allocated-clusters', 'fragmented-clusters')


# ---- images -------------------------------------------------------------------------------------------------

GIB, TIB = 1 << 30, 1 << 40


def make_fresh(path, size):
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', str(path), str(size)], check=True)


@dataclasses.dataclass
class Bench:
    """One row. A bench that repairs gets a fresh copy of its image for every run."""
    name: str
    title: str
    make: object       # (path, bytes of the disk, options of qemu-img create...)
    size: int
    arguments: list = dataclasses.field(default_factory=list)
    status: int = 0
    rounds: int = 5
    repairs: bool = False
    options: tuple = ()
    alone: str = ''    # why qemu-img is not run beside it
    most: int = 0      # qemu-img may run so many rounds only; 0 = all
    same: bool = True  # both tools end with the same counters


REPAIR_ALL, REPAIR_LEAKS = ['-r', 'all'], ['-r', 'leaks']
BENCHES = [
    Bench('fresh', 'check, fresh 1 GiB image, whole process', make_fresh, GIB, rounds=41),
    Bench('mapped', 'check, 1 TiB fully mapped, 64 KiB clusters', images.qemu_mapped, TIB, rounds=7),
    Bench('cold', 'the same, page cache dropped before each run', images.qemu_mapped, TIB),
    Bench('clusters-2m', 'check, 1 TiB fully mapped, 2 MiB clusters', images.qemu_mapped, TIB, options=('cluster_size=2M',), rounds=15),
    Bench('clusters-4k', 'check, 64 GiB fully mapped, 4 KiB clusters', images.qemu_mapped, 64 * GIB, options=('cluster_size=4k',)),
    Bench('extended', 'check, 1 TiB fully mapped, extended L2 entries', images.qemu_mapped, TIB, options=('extended_l2=on',)),
    Bench('snapshots', 'check, 64 GiB, 20 snapshots that share its tables', images.snapshots, 64 * GIB),
    Bench('compressed', 'check, 256 GiB of compressed clusters', images.compressed, 256 * GIB),
    Bench('fragmented', 'check, 256 GiB, clusters in random order', images.fragmented, 256 * GIB, most=1),
    Bench('sparse', 'check, 64 TiB, 1 % mapped', images.sparse, 64 * TIB),
    Bench('leaks', '`-r leaks`, a million leaked clusters', images.leaks, 64 * GIB, REPAIR_LEAKS, rounds=3, repairs=True),
    Bench('leaks-16m', '`-r leaks`, 16.7 million leaked clusters', images.leaks, TIB, REPAIR_LEAKS, rounds=3, repairs=True,
          alone='974 s, measured once, where an L1 table was lost'),
    Bench('lost-map', '`-r leaks`, a million clusters under a lost L1 table', images.lost_map, 64 * GIB, REPAIR_LEAKS, status=3, rounds=3,
          repairs=True, alone='frees them all; here they are kept'),
    Bench('zeroed', '`-r all`, 1.6 million refcounts of 0', images.zeroed_refcounts, 100 * GIB, REPAIR_ALL, rounds=3, repairs=True,
          same=False, most=1),
    Bench('rebuild', '`-r all`, 1 TiB, the refcount table lost', images.lost_refcounts, TIB, REPAIR_ALL, rounds=3, repairs=True,
          same=False, most=1),
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
    bench.make(image, bench.size // args.scale, *bench.options)
    runs = {tool: [] for tool in tools if tool == 'vol-repair' or not bench.alone}
    rounds = args.rounds or bench.rounds
    for number in range(rounds + (not bench.repairs)):
        for tool in runs:
            if tool == 'qemu-img' and bench.most and len(runs[tool]) >= bench.most:
                continue
            command = tools[tool]
            command = [*command, *bench.arguments]
            if bench.repairs:
                command += [f'--undo={work / "journal"}'] * (tool == 'vol-repair')
                (work / 'journal').unlink(missing_ok=True)
                subprocess.run(['cp', '--sparse=always', str(image), str(copy)], check=True)
                os.sync()
            if bench.name == 'cold':
                os.sync()
                Path('/proc/sys/vm/drop_caches').write_text('3')
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
    if not bench.same or bench.alone:
        return
    answers = [{k: run[0].document.get(k, 0) for k in SAME} for run in runs.values()]
    for other in answers[1:]:
        different = [f'{k}: {answers[0][k]} and {other[k]}' for k in SAME if answers[0][k] != other[k]]
        if different:
            sys.exit(f'bench: {bench.name}: the tools disagree: {"; ".join(different)}')


# ---- growth ------------------------------------------------------------------------------------------------------

GROWTH = [Bench(f'growth-{size}', '', images.mapped, size * TIB, rounds=3, most=1) for size in (1, 4, 16)]
GROWTH_RAM = 4 * GIB


def measure_growth(work, tools, args):
    """On tmpfs: most file systems have no files of 16 TiB. [(Bench, runs)], or [] and a line that says why."""
    free = os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    reason = 'needs root, to mount a tmpfs' if os.geteuid() != 0 else f'needs {GROWTH_RAM >> 30} GiB of memory' if free < GROWTH_RAM else ''
    if reason:
        print(f'SKIP growth: {reason}')
        return []
    ram, results = work / 'ram', []
    ram.mkdir()
    subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=4g,mode=700', 'vol-repair-bench', str(ram)], check=True)
    try:
        shutil.copy(work / 'measure', ram / 'measure')
        for bench in GROWTH:
            results.append((bench, measure(bench, ram, tools, args)))
            print(f'{bench.name}: ' + ', '.join(f'{tool} {page.seconds(page.median(runs, "seconds"))}'
                                                for tool, runs in results[-1][1].items()), flush=True)
    finally:
        subprocess.run(['umount', str(ram)], check=True)
    return results


def main():
    parser = argparse.ArgumentParser(prog='./run bench', description=__doc__)
    parser.add_argument('--build', default='build/release', help='build directory')
    parser.add_argument('--quick', action='store_true', help='small images, few rounds, and no page is written')
    parser.add_argument('--rounds', type=int, help='rounds of each')
    parser.add_argument('--work', default='/var/tmp', help='directory for the images (sparse, a few hundred MiB)')
    parser.add_argument('name', nargs='?', choices=[*(b.name for b in BENCHES), 'growth'], help='only this one; no page is written')
    args = parser.parse_args()
    args.scale = 64 if args.quick else 1
    args.rounds = args.rounds or (3 if args.quick else None)
    tools = {'vol-repair': [str(Path(args.build, 'plugin/cli/vol-repair').resolve()), '-f', 'qcow2', '--output=json'],
             'qemu-img': ['qemu-img', 'check', '-f', 'qcow2', '--output=json']}
    work, results, grown = Path(tempfile.mkdtemp(prefix='vol-repair-bench-', dir=args.work)), [], []
    print(page.machine())
    try:
        subprocess.run(['cc', '-O2', '-o', str(work / 'measure'), str(Path(__file__).parent / 'measure.c')], check=True)
        for bench in BENCHES:
            if bench.name == 'cold' and not os.access('/proc/sys/vm/drop_caches', os.W_OK):
                print('SKIP cold: the page cache cannot be dropped here')
            elif args.name in (None, bench.name):
                results.append((bench, measure(bench, work, tools, args)))
                print(page.markdown(page.row(*results[-1]), []).split('\n')[0], flush=True)
        if args.name in (None, 'growth') and not args.quick:
            grown = measure_growth(work, tools, args)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print('\n' + page.markdown(page.HEAD, [page.row(*r) for r in results]))
    print(page.profile(results))
    if not args.name and not args.quick:
        page.write(PAGE, results, grown)
        print(f'\nwritten: {PAGE.relative_to(ROOT)}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
