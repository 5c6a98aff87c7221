#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""damage.py PATH KIND...: damages a qcow2 image in a file or on a block device, in place.

leak: the last data cluster is unmapped; zero: its refcount becomes 0; copied: COPIED is cleared in every L2 entry;
rebuild: the refcount table is emptied; corrupt-bit: the header says that the image is corrupt.
"""
import os
import struct
import sys

OFFSET, COMPRESSED, COPIED = 0x00fffffffffffe00, 1 << 62, 1 << 63


class Image:
    def __init__(self, path):
        self.fd = os.open(path, os.O_RDWR)
        header = os.pread(self.fd, 104, 0)
        assert header[:4] == b'QFI\xfb', 'not a qcow2 image'
        self.cluster_bits, = struct.unpack_from('>I', header, 20)
        self.cluster = 1 << self.cluster_bits
        entries, self.l1 = struct.unpack_from('>IQ', header, 36)
        self.refcounts, clusters = struct.unpack_from('>QI', header, 48)
        self.refcount_entries = clusters * self.cluster // 8
        self.tables = [entry & OFFSET for entry in self.words(self.l1, entries) if entry & OFFSET]

    def words(self, offset, count):
        return struct.unpack(f'>{count}Q', os.pread(self.fd, 8 * count, offset))

    def write(self, offset, data):
        os.pwrite(self.fd, data, offset)

    def last_data(self):
        """(where its entry is, the cluster's offset)"""
        for table in reversed(self.tables):
            entries = self.words(table, self.cluster // 8)
            for i in reversed(range(len(entries))):
                if entries[i] & OFFSET and not entries[i] & COMPRESSED:
                    return table + 8 * i, entries[i] & OFFSET
        raise AssertionError('the image has no data')

    def leak(self):
        self.write(self.last_data()[0], bytes(8))

    def zero(self):
        cluster = self.last_data()[1] >> self.cluster_bits
        block = self.words(self.refcounts, self.refcount_entries)[cluster // (self.cluster // 2)]
        self.write(block + 2 * (cluster % (self.cluster // 2)), bytes(2))

    def copied(self):
        count = self.cluster // 8
        for table in self.tables:
            entries = self.words(table, count)
            self.write(table, struct.pack(f'>{count}Q', *[e if e & COMPRESSED else e & ~COPIED for e in entries]))

    def rebuild(self):
        self.write(self.refcounts, bytes(8 * self.refcount_entries))

    def corrupt_bit(self):
        features, = struct.unpack('>Q', os.pread(self.fd, 8, 72))
        self.write(72, struct.pack('>Q', features | 2))


def main():
    image = Image(sys.argv[1])
    for kind in sys.argv[2:]:
        getattr(image, kind.replace('-', '_'))()
    os.fsync(image.fd)


main()
