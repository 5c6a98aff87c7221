# SPDX-License-Identifier: LGPL-2.1-or-later
"""images.py: makes the large images of ./run bench: sparse files, whose metadata alone is written."""
import array
import random
import struct
import subprocess
import sys

CS = 1 << 16
COPIED = 1 << 63
COMPRESSED = 1 << 62
PER_TABLE = CS // 8      # entries of an L2 table
PER_BLOCK = CS // 2      # refcounts of 16 bits in a refcount block


def big_endian(kind, values):
    words = array.array(kind, values)
    if sys.byteorder == 'little':
        words.byteswap()
    return words.tobytes()


class Builder:
    """A version 3 image with 64 KiB clusters. Tables are put first, data clusters behind them."""

    def __init__(self, path, size):
        self.file, self.size, self.next = open(path, 'w+b'), size, 1
        self.l1_entries = -(-size // (CS * PER_TABLE))
        self.l1_at = self.take(-(-self.l1_entries * 8 // CS))
        self.l1 = [0] * self.l1_entries
        self.shared = {}  # cluster -> refcount, where it is not 1

    def take(self, clusters):
        first, self.next = self.next, self.next + clusters
        return first

    def table(self, index, entries):
        """An L2 table at L1 entry index."""
        cluster = self.take(1)
        self.l1[index] = cluster * CS | COPIED
        self.file.seek(cluster * CS)
        self.file.write(big_endian('Q', entries))

    def close(self):
        """Refcounts of everything taken, and the header."""
        blocks = table = 1
        while blocks * PER_BLOCK < self.next + blocks + table:
            blocks = -(-(self.next + blocks + table) // PER_BLOCK)
            table = -(-blocks * 8 // CS)
        first, table_at = self.take(blocks), self.take(table)
        ones = big_endian('H', [1]) * PER_BLOCK
        for i in range(blocks):
            used = min(PER_BLOCK, self.next - i * PER_BLOCK)
            self.file.seek((first + i) * CS)
            self.file.write(ones[:2 * used])
        for cluster, count in self.shared.items():
            self.file.seek(first * CS + 2 * cluster)
            self.file.write(struct.pack('>H', count))
        self.file.seek(table_at * CS)
        self.file.write(big_endian('Q', [(first + i) * CS for i in range(blocks)]))
        self.file.seek(self.l1_at * CS)
        self.file.write(big_endian('Q', self.l1))
        self.file.seek(0)
        self.file.write(struct.pack('>4sIQIIQIIQQIIQQQQII', b'QFI\xfb', 3, 0, 0, 16, self.size, 0, self.l1_entries,
                                    self.l1_at * CS, table_at * CS, table, 0, 0, 0, 0, 0, 4, 104))
        self.file.truncate(self.next * CS)
        self.file.close()


def mapped(path, size, order=None, part=1):
    """Every `part`-th L2 table is there, and all of it mapped; order: shuffles the clusters."""
    image = Builder(path, size)
    tables = range(0, image.l1_entries, part)
    first = image.next + len(tables)
    clusters = list(range(first, first + len(tables) * PER_TABLE)) if order else None
    if order:
        order(clusters)
    for number, index in enumerate(tables):
        at = number * PER_TABLE
        some = clusters[at:at + PER_TABLE] if order else range(first + at, first + at + PER_TABLE)
        image.table(index, [c * CS | COPIED for c in some])
    image.take(len(tables) * PER_TABLE)
    image.close()


def fragmented(path, size):
    mapped(path, size, random.Random(1).shuffle)


def sparse(path, size):
    mapped(path, size, part=100)


def compressed(path, size):
    """Eight runs of 8 KiB in each host cluster."""
    image = Builder(path, size)
    first = image.next + image.l1_entries
    shift = 62 - (16 - 8)
    for index in range(image.l1_entries):
        start = (first + index * PER_TABLE // 8) * CS
        image.table(index, [COMPRESSED | 15 << shift | start + 8192 * i for i in range(PER_TABLE)])
    data = image.take(image.l1_entries * PER_TABLE // 8)
    image.shared = dict.fromkeys(range(data, image.next), 8)
    image.close()


def qemu_mapped(path, size, *options):
    settings = ','.join(('preallocation=metadata', *options))
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-o', settings, str(path), str(size)], check=True)


def snapshots(path, size, number=20):
    qemu_mapped(path, size)
    for i in range(number):
        subprocess.run(['qemu-img', 'snapshot', '-c', f's{i}', str(path)], check=True)


def header(path):
    with open(path, 'rb') as file:
        head = file.read(104)
    return {'l1_size': struct.unpack('>I', head[36:40])[0], 'l1': struct.unpack('>Q', head[40:48])[0],
            'reftable': struct.unpack('>Q', head[48:56])[0]}


def leaks(path, size):
    """As many clusters as the disk has are counted, and nothing names them; they are holes of the file, as a preallocation leaves."""
    image = Builder(path, size)
    image.take(size // CS)
    image.close()


def lost_map(path, size):
    """A mapped image that has lost its L1 entries: all its L2 tables and data clusters look leaked."""
    qemu_mapped(path, size)
    head = header(path)
    overwrite(path, head['l1'], 8 * head['l1_size'])


def zeroed_refcounts(path, size):
    """All refcounts are 0 but those of the refcount blocks: else qemu-img would make new ones, not raise each."""
    qemu_mapped(path, size)
    with open(path, 'r+b') as file:
        file.seek(header(path)['reftable'])
        blocks = [at for at in struct.unpack(f'>{CS // 8}Q', file.read(CS)) if at]
        for at in blocks:
            file.seek(at)
            file.write(bytes(CS))
        for at in blocks:
            file.seek(blocks[at // CS // PER_BLOCK] + 2 * (at // CS % PER_BLOCK))
            file.write(b'\0\1')


def lost_refcounts(path, size):
    """The refcount table has lost its entries."""
    qemu_mapped(path, size)
    overwrite(path, header(path)['reftable'], CS)


def overwrite(path, at, length):
    with open(path, 'r+b') as file:
        file.seek(at)
        file.write(bytes(length))
