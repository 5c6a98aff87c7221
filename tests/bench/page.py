# SPDX-License-Identifier: LGPL-2.1-or-later
"""page.py: docs/performance.md and docs/growth.svg, from what bench.py measured."""
import datetime
import os
import platform
import statistics
import subprocess
from pathlib import Path

def seconds(value):
    return f'{value * 1000:.1f} ms' if value < 1 else f'{value:.2f} s'


def mebibytes(value):
    return f'{value / 1048576:.1f} MiB'


def median(runs, key):
    return statistics.median(getattr(r, key) for r in runs)


def ratio(ours, theirs):
    """The median of the rounds' ratios; where qemu-img ran less often, its median stands for each."""
    if len(theirs) < len(ours):
        return median(theirs, 'seconds') / median(ours, 'seconds')
    return statistics.median(q.seconds / v.seconds for v, q in zip(ours, theirs))


def row(bench, runs):
    ours, theirs = runs['vol-repair'], runs.get('qemu-img', [])
    cells = [bench.title, seconds(median(ours, 'seconds'))]
    if bench.alone:
        number = bench.alone.split()[0]
        cells += [bench.alone, f'{float(number) / median(ours, "seconds"):.0f}' if number.isdigit() else '-']
    else:
        cells += [seconds(median(theirs, 'seconds')), f'{ratio(ours, theirs):.2f}']
    cells += [f'{len(ours)}' if len(ours) == len(theirs) or bench.alone else f'{len(ours)}, {len(theirs)}']
    for key in ('peak', 'read'):
        cells += [mebibytes(median(ours, key)), mebibytes(median(theirs, key)) if theirs else '-']
    io = ours[0].document.get('io', {})
    cells += [mebibytes(io.get('bytes-written', 0)), io.get('exits', '-')]
    return cells


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


def markdown(head, rows):
    return '\n'.join('| ' + ' | '.join(map(str, cells)) + ' |' for cells in [head, ['---'] * len(head), *rows])


HEAD = ['run', 'vol-repair', 'qemu-img', 'ratio', 'rounds', 'peak, vol-repair', 'peak, qemu-img', 'read, vol-repair',
        'read, qemu-img', 'written', 'exits']


# ---- where the time goes ----------------------------------------------------------------------------------------

PHASES = ('start', 'boot', 'check-map', 'check-refcounts', 'check-rest', 'verify', 'commit', 'final', 'around', 'read')
PROFILE = '''
## Where the time goes

Milliseconds of vol-repair's runs above, medians, from `timings` in its report. start: from the fork of the VMM to the guest's
first instruction. boot: to its first request. check-map: L1 and L2 tables read and counted; check-refcounts: refcount blocks
compared; check-rest: the header, the other tables, COPIED flags, planning. verify: the second walk, over the plan. commit:
journal, writes, flushes. final: the third walk. around: the rest of the process, from exec to exit: options, locks, the report. read:
time in reads of the image, in two threads beside the guest; not a part of the sum.
'''


def phases(run):
    t = run.document.get('timings', {})
    t['check-rest'] = t.get('check', 0) - t.get('check-map', 0) - t.get('check-refcounts', 0)
    t['around'] = max(0, round(run.seconds * 1000) - t.get('start', 0) - t.get('guest', 0))
    return [t.get(name, 0) for name in PHASES]


def profile(results):
    rows = [[bench.title, *(f'{statistics.median(values):.0f}' for values in zip(*map(phases, runs['vol-repair'])))]
            for bench, runs in results]
    return PROFILE + '\n' + markdown(['run', *PHASES], rows) + '\n'


# ---- growth -------------------------------------------------------------------------------------------------------

GROWTH = '''
## Growth

Checks of fully mapped images with 64 KiB clusters, on tmpfs; the metadata is what vol-repair reads.

![time over bytes of metadata](growth.svg)
'''


def growth(results):
    rows, points = [], {'vol-repair': [], 'qemu-img': []}
    for bench, runs in results:
        ours, theirs = runs['vol-repair'], runs['qemu-img']
        read = median(ours, 'read')
        rows.append([f'{bench.size >> 40} TiB', mebibytes(read), seconds(median(ours, 'seconds')), seconds(median(theirs, 'seconds')),
                     f'{ratio(ours, theirs):.1f}', f'{median(ours, "seconds") * 1e9 / (read / 1024):.0f} ns',
                     mebibytes(median(ours, 'peak')), mebibytes(median(theirs, 'peak'))])
        for tool, some in runs.items():
            points[tool].append((read, median(some, 'seconds')))
    head = ['disk', 'metadata', 'vol-repair', 'qemu-img', 'ratio', 'per KiB of metadata', 'peak, vol-repair', 'peak, qemu-img']
    return GROWTH + '\n' + markdown(head, rows) + '\n', svg(points)


def svg(points):
    """Both axes logarithmic: a line of slope 1 is linear growth."""
    import math
    flat = [p for some in points.values() for p in some]
    low_x, high_x = (math.log10(f(p[0] for p in flat)) for f in (min, max))
    low_y, high_y = (math.log10(f(p[1] for p in flat)) for f in (min, max))

    def place(x, y):
        return (60 + 420 * (math.log10(x) - low_x) / (high_x - low_x or 1),
                240 - 200 * (math.log10(y) - low_y) / (high_y - low_y or 1))
    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 560 290" font-family="sans-serif" font-size="11">',
           '<rect width="560" height="290" fill="white"/><path d="M50 30V250H500" fill="none" stroke="black"/>',
           '<text x="200" y="280">bytes of metadata (logarithmic)</text><text x="10" y="20">seconds (logarithmic)</text>']
    for tool, colour in (('vol-repair', '#1b6'), ('qemu-img', '#c33')):
        places = [place(*p) for p in points[tool]]
        out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="'
                   + ' '.join(f'{x:.1f},{y:.1f}' for x, y in places) + '"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/><text x="{x - 20:.1f}" y="{y - 8:.1f}">{seconds(p[1])}</text>'
                for (x, y), p in zip(places, points[tool])]
        out.append(f'<text x="{places[-1][0] + 8:.1f}" y="{places[-1][1] + 14:.1f}" fill="{colour}">{tool}</text>')
    return '\n'.join(out) + '\n</svg>\n'


# ---- all of it ----------------------------------------------------------------------------------------------------


def write(path, results, grown):
    rows = [row(bench, runs) for bench, runs in results]
    text = f'{OPENING}\nMeasured {machine()}.\n\n{markdown(HEAD, rows)}\n{profile(results)}'
    if grown:
        more, plot = growth(grown)
        text += more
        path.with_name('growth.svg').write_text(plot)
    path.write_text(text)
