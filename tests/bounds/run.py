#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""run.py: images made to eat memory or time. A check and a repair of each end, with a verdict or a refusal, and stay small.

All are files of some MiB, mostly holes, whose tables name each other, or the same cluster, as often as the format lets them;
in several of them qemu-img would go on for hours. No process may take more than its --memory.
"""
import argparse
import contextlib
import os
import signal
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
MEASURE = ROOT / 'tests' / 'bench' / 'measure.c'
CS = 65536
COPIED = 1 << 63
BUDGET = 256          # MiB
SECONDS = 60          # far more than any needs; hours are what is meant
AUTOCLEAR_BITMAPS = 1
BITMAP_IN_USE = 1


class Image:
    """Clusters: 0 header, 1 refcount table, 2 refcount block; the rest as the test likes. Refcounts are left at 0."""

    def __init__(self, path, clusters):
        self.file = open(path, 'w+b')
        self.file.truncate(clusters * CS)
        self.fields = dict(bits=16, size=1 << 29, l1_size=0, l1=3 * CS, reftable=CS, reftable_clusters=1, snapshots=0,
                           snapshots_at=0, autoclear=0, order=4)
        self.extensions = b''
        self.put(CS, struct.pack('>Q', 2 * CS))

    def put(self, at, data):
        self.file.seek(at)
        self.file.write(data)

    def repeat(self, at, entry, times):
        """The same entry, many times over."""
        piece = struct.pack('>Q', entry) * min(times, 1 << 17)
        for done in range(0, times, 1 << 17):
            self.put(at + 8 * done, piece[:8 * min(times - done, 1 << 17)])

    def close(self):
        f = self.fields
        head = struct.pack('>4sIQIIQIIQQIIQQQQII', b'QFI\xfb', 3, 0, 0, f['bits'], f['size'], 0, f['l1_size'], f['l1'],
                           f['reftable'], f['reftable_clusters'], f['snapshots'], f['snapshots_at'], 0, 0, f['autoclear'],
                           f['order'], 104)
        self.put(0, head + self.extensions + bytes(8))
        self.file.close()


def snapshot(number, l1, l1_size, disk_size=1 << 40):
    head = struct.pack('>QIHHIIQII', l1, l1_size, 1, 1, 0, 0, 0, 0, 24) + struct.pack('>QQQ', 0, disk_size, 0)
    entry = head + b'1' + bytes([65 + number % 26])
    return entry + bytes(-len(entry) % 8)


# ---- the images -----------------------------------------------------------------------------------------------


def l1_of_one_table(path):
    """4 million L1 entries, all of which name the same L2 table, whose entries all name one cluster."""
    image = Image(path, 1024)
    image.fields.update(l1_size=1 << 22, size=1 << 51)
    image.repeat(3 * CS, COPIED | 600 * CS, 1 << 22)
    image.repeat(600 * CS, COPIED | 601 * CS, CS // 8)
    image.close()


def l1_of_itself(path):
    """Every L1 entry names the L1 table."""
    image = Image(path, 1024)
    image.fields.update(l1_size=1 << 22, size=1 << 51)
    image.repeat(3 * CS, COPIED | 3 * CS, 1 << 22)
    image.close()


def tables_of_each_other(path):
    """256 L2 tables; every entry of each names one of them."""
    image = Image(path, 300)
    image.fields.update(l1_size=256, size=256 << 29)
    for i in range(256):
        image.put(3 * CS + 8 * i, struct.pack('>Q', COPIED | (4 + i) * CS))
        image.repeat((4 + i) * CS, COPIED | (4 + (i * 7 + 1) % 256) * CS, CS // 8)
    image.close()


def snapshots_of_one_l1(path):
    """65536 snapshots, all with the same L1 table of 32 MiB: 2 TiB of L1 entries in a file of 50 MiB."""
    image = Image(path, 800)
    image.fields.update(l1_size=1 << 22, size=1 << 51, snapshots=65536, snapshots_at=700 * CS)
    image.put(700 * CS, b''.join(snapshot(i, 3 * CS, 1 << 22) for i in range(65536)))
    image.close()


def snapshots_of_overlapping_l1(path):
    """The same, each a sector further."""
    image = Image(path, 1400)
    image.fields.update(l1_size=16, snapshots=65536, snapshots_at=1300 * CS)
    image.put(1300 * CS, b''.join(snapshot(i, 4 * CS + i % 512 * CS, 1 << 22) for i in range(65536)))
    image.close()


def snapshot_table_of_names(path):
    """65536 snapshots with the longest names, ids and extra data that fit: the table has its 64 MiB."""
    image = Image(path, 2000)
    entry = struct.pack('>QIHHIIQII', 3 * CS, 1, 400, 400, 0, 0, 0, 0, 160) + bytes(160) + b'i' * 400 + b'n' * 400
    image.fields.update(snapshots=65536, snapshots_at=900 * CS, l1_size=1)
    image.put(900 * CS, (entry + bytes(-len(entry) % 8)) * 65536)
    image.close()


def bitmap(table, size, name):
    entry = struct.pack('>QIIBBHI', table, size, BITMAP_IN_USE, 1, 16, len(name), 0) + name
    return entry + bytes(-len(entry) % 8)


def bitmaps_of_one_table(path):
    """65535 bitmaps with the largest table there is for such clusters, the same for all: 4 GiB of entries in 140 MiB."""
    image = Image(path, 2100)
    directory = b''.join(bitmap(4 * CS, 1 << 13, b'%d' % i) for i in range(65535))
    image.put(1100 * CS, directory)
    image.repeat(4 * CS, 1090 * CS, 1 << 13)
    image.fields.update(autoclear=AUTOCLEAR_BITMAPS, l1_size=16)
    image.extensions = struct.pack('>IIIIQQ', 0x23852875, 24, 65535, 0, len(directory), 1100 * CS)
    image.close()


def refcount_table_of_one_block(path):
    """A refcount table of 8 MiB, all of whose entries name one block, which is full of the largest number."""
    image = Image(path, 300)
    image.fields.update(reftable=10 * CS, reftable_clusters=128, l1_size=16)
    image.repeat(10 * CS, 2 * CS, 1 << 20)
    image.put(2 * CS, b'\xff' * CS)
    image.close()


def compressed_to_the_full(path):
    """Compressed entries of the largest size, each over three clusters, all over the same ones."""
    image = Image(path, 600)
    image.fields.update(l1_size=64, size=64 << 29)
    shift = 62 - (16 - 8)
    for i in range(64):
        image.put(3 * CS + 8 * i, struct.pack('>Q', COPIED | (10 + i) * CS))
        image.repeat((10 + i) * CS, 1 << 62 | 255 << shift | 500 * CS + 511, CS // 8)
    image.close()


def hole_of_16_tib(path):
    """A file of nearly 16 TiB without a byte in it but the header's."""
    image = Image(path, 16)
    image.fields.update(l1_size=16)
    image.file.truncate((16 << 40) - CS)
    image.close()


def smallest_clusters(path):
    """512-byte clusters and 1-bit refcounts: 2 million clusters in a file of 1 GiB, all of them said to be used."""
    image = Image(path, 16384)
    image.fields.update(bits=9, order=0, l1=1024, l1_size=64, reftable=512, size=2 << 20)
    image.put(512, struct.pack('>Q', 4096) * 64)
    image.put(4096, b'\xff' * 512)
    image.close()


def leaks_that_read_as_tables(path):
    """8000 leaked clusters, each full of entries that name others of them."""
    image = Image(path, 8192)
    image.fields.update(l1_size=1)
    image.put(2 * CS, struct.pack('>H', 1) * 8192)
    for i in range(16, 8192):
        image.repeat(i * CS, COPIED | (16 + i * 7 % 8176) * CS, CS // 8)
    image.close()


def damaged_tables_of_many(path):
    """16000 L2 tables of a sector, each with a damaged entry, each in the L1 tables of the disk and 47 snapshots; and a leak."""
    small, tables, roots, blocks = 512, 16000, 48, 180
    l1_length = tables * 8 // small
    l1 = 4 + blocks
    snapshots = l1 + roots * l1_length
    l2 = snapshots + 7
    leak = l2 + 2 * tables
    image = Image(path, 300)
    image.file.truncate((leak + 1) * small)
    image.fields.update(bits=9, size=tables * 64 * small, l1_size=tables, l1=l1 * small, reftable=small, reftable_clusters=3,
                        snapshots=roots - 1, snapshots_at=snapshots * small)
    image.put(small, struct.pack(f'>{blocks}Q', *[(4 + i) * small for i in range(blocks)]))
    image.put(4 * small, struct.pack('>H', 1) * l2 + struct.pack('>H', roots) * (2 * tables) + struct.pack('>H', 1))
    for root in range(roots):
        image.put((l1 + root * l1_length) * small, struct.pack(f'>{tables}Q', *[(l2 + i) * small for i in range(tables)]))
    image.put(snapshots * small, b''.join(snapshot(i, (l1 + i * l1_length) * small, tables, tables * 64 * small) for i in range(1, roots)))
    for i in range(tables):
        image.put((l2 + i) * small, struct.pack('>Q', (l2 + tables + i) * small | 2))  # 2: a reserved bit
    image.put(leak * small, b'x' * small)
    image.close()


def with_a_leak(make):
    """The same image; one cluster more holds something, is counted, and is not named."""
    def made(path):
        make(path)
        with open(path, 'r+b') as file:
            cluster = min(os.path.getsize(path) // CS, CS // 2) - 1
            file.seek(2 * CS + 2 * cluster)
            file.write(b'\0\1')
            file.seek(cluster * CS)
            file.write(b'x' * CS)
    made.__name__ = f'{make.__name__}_and_a_leak'
    return made


# Exit statuses of check, leaks (which refuses where refcounts are to be rebuilt) and all. 3: the leaks are kept.
IMAGES = {l1_of_one_table: (2, 1, 2), l1_of_itself: (2, 1, 2), tables_of_each_other: (2, 1, 2), snapshots_of_one_l1: (2, 1, 2),
          snapshots_of_overlapping_l1: (2, 1, 2), snapshot_table_of_names: (2, 1, 2), bitmaps_of_one_table: (1, 1, 1),
          refcount_table_of_one_block: (2, 1, 3), compressed_to_the_full: (2, 1, 2), hole_of_16_tib: (2, 1, 0),
          smallest_clusters: (2, 1, 3), leaks_that_read_as_tables: (3, 3, 3), damaged_tables_of_many: (2, 2, 2)}
FULL = (refcount_table_of_one_block, smallest_clusters, leaks_that_read_as_tables, damaged_tables_of_many)  # have leaks
# Beside a leak that holds something, a refcount of 0 may be of what the leak's pointer names now.
IMAGES.update({with_a_leak(make): (*wanted[:2], wanted[2] or 2) for make, wanted in IMAGES.items() if make not in FULL})


# ---- one run ----------------------------------------------------------------------------------------------------


def run(measure, tool, image, mode):
    """(exit status, MiB of the largest process, seconds, why it refused)"""
    with tempfile.TemporaryFile() as result, tempfile.TemporaryFile() as said:
        journal = [] if mode == 'check' else [f'--undo={image}.undo']
        command = [*tool, '-q', '-f', 'qcow2', f'--mode={mode}', f'--memory={BUDGET}M', '--max-messages=3', *journal, str(image)]
        process = subprocess.Popen(['sh', '-c', f'exec "$@" 3>&{result.fileno()}', 'sh', str(measure), *command], stderr=said,
                                   stdout=subprocess.DEVNULL, pass_fds=[result.fileno()], start_new_session=True)
        try:
            process.wait(SECONDS)
        finally:  # also the repairer, which measure waits for
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        result.seek(0)
        said.seek(0)
        seconds, status, peak, _ = result.read().split()
        last = (said.read().decode(errors='replace').splitlines() or [''])[-1]
    return int(status), int(peak) >> 10, float(seconds), last.split(': ')[-1] if status == b'1' else ''


def test(measure, tool, image, make):
    """A line of numbers; raises AssertionError."""
    told = []
    for mode, wanted in zip(('check', 'leaks', 'all'), IMAGES[make]):
        try:
            status, peak, seconds, why = run(measure, tool, image, mode)
        except subprocess.TimeoutExpired:
            raise AssertionError(f'{mode} goes on after {SECONDS} s') from None
        assert status == wanted, f'{mode} ended with {status} ({why}), not {wanted}'
        assert peak <= BUDGET, f'{mode} took {peak} MiB'
        told.append(f'{mode} {status}{why and f" ({why})"}, {seconds:.1f} s, {peak} MiB')
    return '; '.join(told)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--build', required=True)
    parser.add_argument('filter', nargs='?', default='')
    args = parser.parse_args()
    kvm = os.access('/dev/kvm', os.R_OK | os.W_OK)
    tool = [str(Path(args.build, 'plugin/cli/vol-repair').resolve()), f'--accel={"kvm" if kvm else "process"}']
    passed = failed = 0
    for make in IMAGES:
        if args.filter not in make.__name__:
            continue
        with tempfile.TemporaryDirectory(prefix='vol-repair-bounds.', dir='/var/tmp') as directory:
            measure, image = Path(directory, 'measure'), Path(directory, 'disk.qcow2')
            subprocess.run(['cc', '-O2', '-o', str(measure), str(MEASURE)], check=True)
            make(image)
            try:
                print(f'passed  {make.__name__}: {test(measure, tool, image, make)}', flush=True)
                passed += 1
            except AssertionError as error:
                failed += 1
                print(f'FAIL {make.__name__}: {error}', flush=True)
    print(f'{(passed + failed) * kvm} ran under KVM')
    print(f'{passed} passed, {failed} failed, 0 skipped')
    return failed != 0


if __name__ == '__main__':
    sys.exit(main())
