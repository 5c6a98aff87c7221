# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reads what a guest sees of a qcow2 file without compressed clusters, damaged or not, as QEMU would."""

import hashlib
import os
import struct

from qcow2_image import COMPRESSED, OFFSET_MASK, ZERO

UNREADABLE = "unreadable"
ZEROS = "zeros"
METADATA = "metadata"  # mapped to a structure of the image: shows whatever that holds


class Disk:
    """A qcow2 file opened for reading; bytes behind its end read as zeros. `metadata`: offsets of its structures."""

    def __init__(self, path, metadata):
        self.file = open(path, "rb")
        self.length = os.fstat(self.file.fileno()).st_size
        head = self.read(0, 112)
        (self.version, backing, _, self.cluster_bits, self.size, _, self.l1_entries, self.l1_offset
         ) = struct.unpack(">IQIIQIIQ", head[4:48])
        self.cs = 1 << self.cluster_bits
        self.backing = backing != 0
        self.metadata = metadata

    def close(self):
        self.file.close()

    def read(self, pos, length):
        if pos >= self.length:
            return bytes(length)
        self.file.seek(pos)
        return self.file.read(length).ljust(length, b"\0")

    def _cluster(self, entry):
        """What one L2 entry shows: None where nothing is mapped."""
        offset = entry & OFFSET_MASK
        if entry & COMPRESSED:
            return UNREADABLE
        if entry & ZERO:
            return UNREADABLE if self.version < 3 or offset % self.cs else ZEROS
        if not offset:
            return None
        if offset % self.cs:
            return UNREADABLE
        if offset in self.metadata:
            return METADATA
        data = self.read(offset, self.cs)
        return hashlib.sha256(data).hexdigest()[:16] if any(data) else ZEROS

    def view(self):
        """{guest offset: digest, ZEROS or UNREADABLE}; absent = unallocated (zeros, or the backing file's)."""
        seen = {}
        per_table = self.cs // 8
        used = -(-self.size // (self.cs * per_table))
        table = struct.unpack(f">{used}Q", self.read(self.l1_offset, used * 8))
        for index, entry in enumerate(table):
            offset = entry & OFFSET_MASK
            if not offset:
                continue
            base = index * per_table * self.cs
            if offset % self.cs:
                seen[f"table {base:#x}"] = UNREADABLE
                continue
            entries = struct.unpack(f">{per_table}Q", self.read(offset, self.cs))
            for at in (i for i, value in enumerate(entries) if value):
                shown = self._cluster(entries[at])
                if shown and (self.backing or shown != ZEROS) and base + at * self.cs < self.size:
                    seen[f"{base + at * self.cs:#x}"] = shown
        return seen


def guest_view(path, metadata):
    disk = Disk(path, metadata)
    try:
        return disk.view()
    finally:
        disk.close()


def first_difference(before, after, readable_only):
    """Where two views differ, or None; `readable_only` forgives what was unreadable before."""
    for at in sorted(before.keys() | after.keys()):
        if before.get(at) == after.get(at) or readable_only and before.get(at) == UNREADABLE:
            continue
        return f"{at} showed {before.get(at, 'nothing')}, shows {after.get(at, 'nothing')}"
    return None
