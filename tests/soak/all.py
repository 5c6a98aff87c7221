#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""all.py: what takes too long for `./run test`, one after the other. Called by `./run soak`."""
import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def main():
    parser = argparse.ArgumentParser(prog='./run soak', description=__doc__)
    parser.add_argument('--build', default='build/release', help='build directory')
    parser.add_argument('--images', type=int, default=2000, help='random images (2000)')
    parser.add_argument('--seed', type=int, default=int(time.time()), help='of the first image (default: the time)')
    parser.add_argument('--fuzz-seconds', type=int, default=600, help='for each fuzz target (600)')
    parser.add_argument('--fuzz-build', default='build/fuzz', help='build directory of the fuzz targets')
    args = parser.parse_args()
    build = ['--build', args.build]
    parts = {
        f'{args.images} random images': ['tests/soak/soak.py', '600', '--rounds', args.images, '--seed', args.seed, *build],
        f'{args.images} damages of sound images': ['tests/judge/run.py', '--count', args.images, '--seed', args.seed, *build],
        f'{args.images} random images, a second checker': ['tests/second/run.py', '--rounds', args.images, '--seed', args.seed,
                                                           *build],
        '200 kills and power cuts of a qemu that writes': ['tests/soak/kills.py', '--seed', args.seed, *build],
        'crashes and power cuts in every case': ['tests/crash/run.py', '--all', '--seeds', 6, *build],
        'every case and the hostile guests in the emulated PC': ['tests/suites.py', '--emulated', '--all-cases'],
        'checks, repairs and the hostile guests in the emulated Intel PC': ['tests/machine/machine.py', '--cpu=intel', *build],
        'newer qemu-imgs': ['tests/newer/run.py', '--make', *build],
        'each protection taken away once': ['tests/mutants/run.py'],
        'packages, and lintian': ['tests/package/run.py', '--full', *build],
        'complete hosts, Debian 12 and 13': ['tests/host/run.py'],
        f'{args.fuzz_seconds} seconds of each fuzz target': ['tests/fuzz/run.py', '--seconds', args.fuzz_seconds, '--seed',
                                                             args.seed % 2**31, '--tools', args.build, '--build', args.fuzz_build],
    }
    failed = []
    for title, (script, *more) in parts.items():
        print(f'---- {title}', flush=True)
        command = ['/usr/bin/python3', ROOT / script, *more]
        env = {'TMPDIR': '/var/tmp', **os.environ}  # see tests/suites.py
        if subprocess.run([str(word) for word in command], check=False, env=env).returncode != 0:
            failed.append(title)
    print('failed: ' + ', '.join(failed) if failed else 'all of it passed')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
