#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""run.py: what vol-repair has repaired, in the eyes of newer qemu-imgs, and the guest's data beside qemu-img 7.2's repair.

Every case of tests/cases is repaired with -r all. Where qemu-img 7.2 calls the result clean, the qemu-imgs of Debian 13 and
sid must call it clean too. Where qemu-img 7.2's own repair ends clean as well, `qemu-img compare` must find the same data
in the active image and in every snapshot.

The newer ones live in chroots under VOL_REPAIR_CHROOTS (default /var/cache/vol-repair-tests), which --make builds with
debootstrap. One that is not there, or cannot be made, is skipped, and counted.
"""
import argparse
import concurrent.futures
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE.parent), str(ROOT / 'testdata')]
sys.dont_write_bytecode = True

import case_oracle  # noqa: E402
from mkqcow2 import Recipe  # noqa: E402
from patience import seconds  # noqa: E402

CHROOTS = Path(os.environ.get('VOL_REPAIR_CHROOTS', '/var/cache/vol-repair-tests'))
NEWER = ('trixie', 'sid')
MIRROR = 'http://deb.debian.org/debian'
COMPARE_MAX = 8 << 30  # larger disks are left to tests/run-case.py, which reads maps and not data
# Cases whose data is not compared: it differs and is meant to (docs/differences.md), or QEMU cannot read it in either image.
NOT_COMPARED = {
    'clean-bitmaps-snapshot': 'qemu-img deletes every snapshot of an image with bitmaps',
    'clean-compressed-zstd': 'the compressed data is no zstd stream',
    'clean-data-file-wrong-offset': 'QEMU reads no raw data file through offsets that are not the guest\'s',
    'clean-l2-zero-flag-v2': 'QEMU reads no zero flag in version 2',
    'data-on-metadata-compressed': 'the compressed data is a table',
}


def make_chroot(name):
    """'' or why not."""
    target = CHROOTS / name
    if (target / 'usr/bin/qemu-img').exists():
        return ''
    if os.geteuid() != 0:
        return 'only root can make a chroot'
    if not shutil.which('debootstrap'):
        return 'debootstrap is not installed'
    partial = CHROOTS / f'{name}.partial'
    shutil.rmtree(partial, ignore_errors=True)
    CHROOTS.mkdir(parents=True, exist_ok=True)
    run = subprocess.run(['debootstrap', '--variant=minbase', '--include=qemu-utils', name, str(partial), MIRROR],
                         stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        shutil.rmtree(partial, ignore_errors=True)
        return 'debootstrap failed: ' + (run.stdout.strip().splitlines() or ['it said nothing'])[-1][:100]
    partial.rename(target)
    return ''


class Judge:
    """One qemu-img: of this machine, or in a chroot, where the work directory is bound to /mnt."""

    def __init__(self, name, chroot=None):
        self.name, self.chroot = name, chroot

    def run(self, directory, *arguments):
        if not self.chroot:
            return case_oracle.qemu_img(str(directory), *arguments)
        script = 'mount --bind "$1" "$2/mnt" && shift && cd / && exec chroot "$1" sh -c \'cd /mnt && exec qemu-img "$@"\' sh "${@:2}"'
        return subprocess.run(['unshare', '-m', 'bash', '-c', script, 'bash', str(directory), str(self.chroot), *arguments],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, errors='replace', timeout=seconds(120), check=False)

    def clean(self, directory, image):
        return self.run(directory, 'check', '-f', 'qcow2', image)


def find_judges(make):
    judges, skips = [], []
    for name in NEWER:
        reason = make_chroot(name) if make else ''
        if not (CHROOTS / name / 'usr/bin/qemu-img').exists():
            skips.append(f'qemu-img of Debian {name}: {reason or f"no chroot in {CHROOTS} (./run soak makes it)"}')
            continue
        if os.geteuid() != 0:
            skips.append(f'qemu-img of Debian {name}: only root can enter a chroot')
            continue
        judges.append(Judge(name, CHROOTS / name))
    return judges, skips


def virtual_size(directory, image):
    info = case_oracle.qemu_img(str(directory), 'info', '--output=json', '-f', 'qcow2', image)
    return json.loads(info.stdout) if info.returncode == 0 else None


def same_data(directory):
    """'' where qemu-img compare finds our image and qemu-img's own repair to show the same, in every snapshot."""
    ours, theirs = virtual_size(directory, 'ours.qcow2'), virtual_size(directory, 'qemu.qcow2')
    if not ours or not theirs or ours['virtual-size'] > COMPARE_MAX:
        return ''
    names = [s['id'] for s in ours.get('snapshots', [])]
    if names != [s['id'] for s in theirs.get('snapshots', [])]:
        return f"snapshots are {names}, after qemu-img {[s['id'] for s in theirs.get('snapshots', [])]}"
    for name in [None, *sorted(set(names))]:
        images = [f'driver=qcow2,file.filename={image}.qcow2' for image in ('ours', 'qemu')]
        if name is None:
            run = case_oracle.qemu_img(str(directory), 'compare', '--image-opts', *images)
        else:
            run = compare_snapshot(directory, name)
        if run.returncode != 0:
            return f"{'snapshot ' + name if name else 'the active image'}: {(run.stdout + run.stderr).strip()[:150]}"
    return ''


def compare_snapshot(directory, name):
    for image in ('ours', 'qemu'):
        run = case_oracle.qemu_img(str(directory), 'convert', '-f', 'qcow2', '-O', 'qcow2', '-l', f'snapshot.id={name}',
                                   f'{image}.qcow2', f'{image}-snapshot.qcow2')
        if run.returncode != 0:
            return run
    return case_oracle.qemu_img(str(directory), 'compare', 'ours-snapshot.qcow2', 'qemu-snapshot.qcow2')


def judge_case(name, program, judges, work):
    """[(what, failure or '')]"""
    directory = Path(tempfile.mkdtemp(prefix=name + '.', dir=work))
    try:
        text = (ROOT / 'tests' / 'cases' / name / 'recipe').read_text(encoding='utf-8')
        Recipe(text).save(str(directory / 'ours.qcow2'))
        case_oracle.copy_sparse(str(directory / 'ours.qcow2'), str(directory / 'qemu.qcow2'))
        subprocess.run([*program, '-f', 'qcow2', '-r', 'all', f'--undo={directory}/undo', str(directory / 'ours.qcow2')],
                       capture_output=True, timeout=seconds(120), check=False)
        case_oracle.qemu_img(str(directory), 'check', '-f', 'qcow2', '-r', 'all', 'qemu.qcow2')
        here = Judge('here')
        if here.clean(directory, 'ours.qcow2').returncode != 0:
            return []
        results = []
        for judge in judges:
            run = judge.clean(directory, 'ours.qcow2')
            said = f'exit {run.returncode}: {(run.stderr + run.stdout).strip()[:150]}' if run.returncode else ''
            results.append((f'{name}: qemu-img of {judge.name}', said))
        if here.clean(directory, 'qemu.qcow2').returncode == 0:
            results.append((f'{name}: data', meant(name, text, same_data(directory))))
        return results
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def meant(name, text, difference):
    """A recipe that says that the guest's data differs from qemu-img's result says why, too."""
    known = name in NOT_COMPARED or any(line.startswith('differs') and line.split()[2] == 'guest' for line in text.splitlines())
    return '' if known else difference


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--build', required=True)
    parser.add_argument('--make', action='store_true', help='make the chroots that are missing')
    parser.add_argument('--filter', default='*', metavar='GLOB')
    args = parser.parse_args()
    program = [str(Path(args.build, 'plugin/cli/vol-repair').resolve()), '--accel=process']
    judges, skips = find_judges(args.make)
    names = sorted(path.name for path in (ROOT / 'tests' / 'cases').glob(args.filter))
    work = tempfile.mkdtemp(prefix='vol-repair-newer-')
    passed = failed = 0
    try:
        with concurrent.futures.ProcessPoolExecutor() as pool:
            for results in pool.map(judge_case, names, [program] * len(names), [judges] * len(names), [work] * len(names)):
                for what, failure in results:
                    passed, failed = passed + (not failure), failed + bool(failure)
                    if failure:
                        print(f'FAIL {what}: {failure}')
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for judge in judges:
        version = judge.run('/tmp', '--version').stdout.splitlines()
        print(f'judged by {judge.name}: {version[0] if version else "?"}')
    for reason in skips:
        print(f'SKIP {reason}')
    print(f'{passed} passed, {failed} failed, {len(skips)} skipped')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
