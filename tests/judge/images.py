# SPDX-License-Identifier: LGPL-2.1-or-later
"""
images.py: the sound images of the judge, made by qemu-img and qemu-io and found clean by qemu-img.

The same kind has the same bytes in every run with the same qemu-img: what depends on the clock (when a snapshot was taken) is set
to a constant. Every sector that is written holds its own guest address and the number of the write, so that a cluster that is read
in a wrong place, or too old, is seen.
"""
import dataclasses
import itertools
import struct
import subprocess
from pathlib import Path

from guest import View
from qcow2_parts import COMPRESSED, Parts

IMAGE = 'disk.qcow2'
K, M = 1 << 10, 1 << 20

# kind: (options of qemu-img create, virtual size, steps). Steps: `write START LENGTH`, `zeros START LENGTH`,
# `compress START LENGTH`, `snapshot NAME`, `bitmap NAME`; first of all `backing`.
KINDS = {
    'plain': ('cluster_size=4K', 8 * M, ['write 0 96K', 'write 1M 64K', 'write 2M 40K', 'write 6M 32K', 'zeros 16K 8K',
                                         'write 2052K 4K']),
    'snapshots': ('cluster_size=4K', 8 * M, ['write 0 64K', 'write 4M 24K', 'snapshot first', 'write 64K 16K', 'write 4M 8K',
                                             'snapshot second', 'write 0 16K', 'write 2M 16K',
                                             'snapshot third-with-a-name', 'write 8K 4K']),
    'bitmaps': ('cluster_size=4K', 4 * M, ['write 0 64K', 'bitmap one', 'write 32K 48K', 'snapshot s', 'bitmap two',
                                           'write 2M 16K']),
    'compressed': ('cluster_size=4K', 4 * M, ['compress 0 96K', 'write 128K 16K', 'snapshot s', 'compress 2M 32K',
                                              'write 16K 8K']),
    'extended': ('cluster_size=16K,extended_l2=on', 32 * M, ['write 0 64K', 'write 100K 3K', 'zeros 4K 2K', 'write 17M 32K',
                                                             'snapshot s', 'write 20K 9K']),
    'data-file': ('cluster_size=4K,data_file=data.raw', 4 * M, ['write 0 64K', 'write 2M 32K', 'zeros 8K 8K']),
    'version-2': ('cluster_size=4K,compat=0.10', 8 * M, ['write 0 64K', 'snapshot a', 'write 16K 16K', 'write 3M 16K',
                                                         'snapshot b', 'write 3M 4K']),
    'small-clusters': ('cluster_size=512', 256 * K, ['write 0 6K', 'write 40K 4K', 'snapshot s', 'write 2K 4K', 'write 200K 3K']),
    'large-clusters': ('cluster_size=64K', 1024 * M, ['write 0 320K', 'write 512M 128K', 'snapshot s', 'write 128K 64K']),
    'narrow-refcounts': ('cluster_size=4K,refcount_bits=1', 4 * M, ['write 0 64K', 'write 2M 32K', 'zeros 0 4K']),
    'wide-refcounts': ('cluster_size=4K,refcount_bits=64', 4 * M, ['write 0 64K', 'snapshot s', 'write 2M 32K', 'write 4K 8K']),
    'backing': ('cluster_size=4K', 4 * M, ['backing', 'write 0 64K', 'write 2M 16K', 'zeros 32K 8K']),
}


@dataclasses.dataclass
class Sound:
    """A sound image, and what can be known of it: all that a repair is measured by."""
    kind: str
    directory: Path   # where its side files lie, and its damaged copies go
    data: bytes
    parts: Parts
    refcounts: dict   # cluster -> refcount
    metadata: set     # clusters that hold structures
    replaceable: set  # of them, those that a repair may make anew elsewhere, and clusters that are only preallocated
    view: View        # what the guest reads


def qemu(directory, *command):
    subprocess.run(command, cwd=directory, check=True, capture_output=True)


def number(text):
    return int(text.rstrip('KM')) * {'K': K, 'M': M}.get(text[-1], 1)


def stamped(start, length, step):
    return b''.join(struct.pack('>QI', at, step) * 42 + bytes(8) for at in range(start, start + length, 512))


def write(directory, steps):
    """Writes in a row, by one qemu-io."""
    commands = []
    for step, (verb, start, length) in steps:
        start, length, source = number(start), number(length), f'written-{step}'
        (directory / source).write_bytes(stamped(start, length, step))
        how = '-z' if verb == 'zeros' else f'-c -s {source}' if verb == 'compress' else f'-s {source}'
        commands += ['-c', f'write {how} {start} {length}']
    qemu(directory, 'qemu-io', '-f', 'qcow2', *commands, IMAGE)


def carry_out(directory, steps):
    """steps: [(number, words)] that are all writes, or all of another verb."""
    for _, (verb, *words) in steps:
        if verb == 'snapshot':
            qemu(directory, 'qemu-img', 'snapshot', '-c', *words, IMAGE)
        elif verb == 'bitmap':
            qemu(directory, 'qemu-img', 'bitmap', '--add', '-g', '64K', IMAGE, *words)
        else:
            write(directory, steps)
            return


def without_times(data):
    """Snapshots bear the time at which they were taken: a constant one."""
    fixed = bytearray(data)
    for snapshot in Parts(data).snapshots():
        fixed[snapshot.at + 16:snapshot.at + 24] = struct.pack('>II', 1500000000, 0)
    return bytes(fixed)


def make(kind, scratch):
    """The sound image of this kind; its directory is made below scratch."""
    options, size, steps = KINDS[kind]
    directory = Path(scratch) / kind
    directory.mkdir()
    backing = []
    if steps[0] == 'backing':
        (directory / 'base.raw').write_bytes(stamped(0, size, 99))
        steps, backing = steps[1:], ['-b', 'base.raw', '-F', 'raw']
    qemu(directory, 'qemu-img', 'create', '-q', '-f', 'qcow2', '-o', options, *backing, IMAGE, str(size))
    words = list(enumerate(line.split() for line in steps))
    for _, together in itertools.groupby(words, lambda step: step[1][0] in ('write', 'zeros', 'compress')):
        carry_out(directory, list(together))
    data = without_times((directory / IMAGE).read_bytes())
    (directory / IMAGE).write_bytes(data)
    qemu(directory, 'qemu-img', 'check', '-q', IMAGE)  # exit status 0: clean
    return known(kind, directory, data)


def preallocated(parts):
    """Clusters of entries that read as zeros: they hold nothing."""
    tables = {at for name, at, _ in parts.structures() if name.split('.')[-1].startswith('l2')}
    entries = [entry for at in tables for entry, _ in parts.l2_table(at)]
    zeros = [entry for entry in entries if parts.version > 2 and not parts.extended and entry & 1 and not entry & COMPRESSED]
    return {at // parts.cs for at, _ in filter(None, map(parts.host_range, zeros))}


def known(kind, directory, data):
    parts = Parts(data)
    metadata = parts.clusters_of()
    replaceable = parts.clusters_of('reftable', 'refblock', 'snapshots') | preallocated(parts)
    return Sound(kind, directory, data, parts, parts.refcounts(), metadata, replaceable,
                 View(parts, directory, metadata))
