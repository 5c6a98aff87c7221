# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reads what a guest sees of a qcow2 file, in the active map and in every snapshot, damaged or not, as QEMU would."""

import hashlib
import os
import struct

from qcow2_image import COMPRESSED, INCOMPAT_DATA_FILE, INCOMPAT_EXTL2, OFFSET_MASK, ZERO

UNREADABLE = "unreadable"
ZEROS = "zeros"
SNAPSHOTS_MAX = 256    # of a damaged table
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
        self.snapshots, self.snapshots_offset = struct.unpack(">IQ", head[60:72])
        features = int.from_bytes(head[72:80], "big") if self.version >= 3 else 0
        self.extended, self.data_file = features & INCOMPAT_EXTL2, features & INCOMPAT_DATA_FILE

    def close(self):
        self.file.close()

    def read(self, pos, length):
        if pos >= self.length:
            return bytes(length)
        self.file.seek(pos)
        return self.file.read(length).ljust(length, b"\0")

    def _digest(self, data):
        return hashlib.sha256(data).hexdigest()[:16]

    def _run(self, entry):
        """A compressed cluster, by its bytes in the file: nothing unpacks them."""
        shift = 62 - (self.cluster_bits - 8)
        host = entry & (1 << shift) - 1
        length = ((entry >> shift & (1 << self.cluster_bits - 8) - 1) + 1) * 512 - host % 512
        if any(at in self.metadata for at in range(host - host % self.cs, host + length, self.cs)):
            return METADATA
        return "compressed " + self._digest(self.read(host, length))

    def _cluster(self, entry, bitmap):
        """What one L2 entry shows: None where nothing is mapped."""
        offset = entry & OFFSET_MASK
        if entry & COMPRESSED:
            return self._run(entry)
        if self.data_file:
            return f"data file {offset:#x} {entry & ZERO} {bitmap:#x}" if entry else None
        if self.extended and offset and offset in self.metadata:
            return METADATA
        if self.extended and offset and not offset % self.cs:
            return f"{self._digest(self.read(offset, self.cs))} {bitmap:#x}"
        if self.extended:
            return UNREADABLE if offset and bitmap & 0xFFFFFFFF else f"zeros {bitmap:#x}" if bitmap else None
        if entry & ZERO:
            return UNREADABLE if self.version < 3 or offset % self.cs else ZEROS
        if not offset:
            return None
        if offset % self.cs:
            return UNREADABLE
        if offset in self.metadata:
            return METADATA
        data = self.read(offset, self.cs)
        return self._digest(data) if any(data) else ZEROS

    def _snapshot_roots(self):
        """(L1 offset, L1 entries) of each entry of the snapshot table."""
        at = self.snapshots_offset
        if at < self.cs:
            return  # the header is no list of snapshots
        for _ in range(min(self.snapshots, SNAPSHOTS_MAX)):
            at = at + 7 & ~7
            fixed = self.read(at, 40)
            l1_offset, l1_entries, id_len, name_len = struct.unpack(">QIHH", fixed[:16])
            at += 40 + int.from_bytes(fixed[36:40], "big") + id_len + name_len
            yield l1_offset, l1_entries

    def view(self):
        """{guest offset: digest, ZEROS or UNREADABLE}; absent = unallocated (zeros, or the backing file's)."""
        if not 9 <= self.cluster_bits <= 21:
            return {}  # no header, no guest
        seen = self.view_of(self.l1_offset, self.l1_entries)
        for index, (l1_offset, l1_entries) in enumerate(self._snapshot_roots()):
            shown = self.view_of(l1_offset, l1_entries) if l1_offset < self.length and not l1_offset % self.cs else {}
            seen.update((f"snapshot {index}: {at}", value) for at, value in shown.items())
        return seen

    def view_of(self, l1_offset, l1_entries):
        seen = {}
        size = 16 if self.extended else 8
        per_table = self.cs // size
        used = min(-(-self.size // (self.cs * per_table)), l1_entries)
        table = struct.unpack(f">{used}Q", self.read(l1_offset, used * 8))
        for index, entry in enumerate(table):
            offset = entry & OFFSET_MASK
            if not offset:
                continue
            base = index * per_table * self.cs
            if offset % self.cs:
                seen[f"table {base:#x}"] = UNREADABLE
                continue
            words = struct.unpack(f">{self.cs // 8}Q", self.read(offset, self.cs))
            entries, bitmaps = (words[::2], words[1::2]) if self.extended else (words, (0,) * per_table)
            for at in (i for i in range(per_table) if entries[i] or bitmaps[i]):
                shown = self._cluster(entries[at], bitmaps[at])
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
