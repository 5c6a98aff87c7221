# SPDX-License-Identifier: LGPL-2.1-or-later
"""
guest.py: what a guest reads of a qcow2 image, sound or damaged: the content of every cluster of the active disk and of each
snapshot, by the specification, without any code of the engine.

A cluster's content is its bytes, or one of these words: UNREADABLE (its entry breaks the format, or its compressed data does),
METADATA n (it is mapped to cluster n, which holds a structure: what it shows changes with every repair), BACKING (not mapped, and
there is a backing file). What is not in a map reads as zeros; so does a cluster of zeros, which is therefore left out.
"""
import zlib

from qcow2_image import COMPRESSED, OFFSET_MASK, ZERO

UNREADABLE, METADATA, BACKING = 'unreadable', 'metadata', 'backing'
ACTIVE = 'the active disk'
SUBCLUSTERS = 32


class View:
    """
    What can be read of one image. `disks`: {ACTIVE or (id, name) of a snapshot: {guest offset: content}}; the guest offset 'size'
    has the size of the disk. Two snapshots of one id and name cannot be told apart: the first counts.
    """

    def __init__(self, parts, directory, metadata):
        self.parts, self.metadata, self.disks = parts, metadata, {}
        self.zeros = bytes(parts.cs)
        self.external = read_or_nothing(directory / 'data.raw') if parts.data_file else None
        if not parts.cs:
            return  # no header, no guest
        self.disks[ACTIVE] = self.disk(parts.l1_offset, parts.l1_entries, parts.size)
        for snapshot in parts.snapshots():
            name = snapshot.id, snapshot.name
            if name not in self.disks:
                size = parts.size if snapshot.disk_size is None else snapshot.disk_size
                self.disks[name] = self.disk(snapshot.l1_offset, snapshot.l1_entries, size)

    def disk(self, l1_offset, l1_entries, size):
        parts, seen = self.parts, {'size': size}
        reach = parts.cs * parts.l2_entries
        for index, entry in enumerate(parts.l1_table(l1_offset, min(l1_entries, -(-size // reach)))):
            offset = entry & OFFSET_MASK
            if not offset:
                continue
            for at, (word, bitmap) in enumerate(parts.l2_table(offset)):
                guest = index * reach + at * parts.cs
                if guest >= size or not (word or bitmap):
                    continue
                shown = UNREADABLE if offset % parts.cs else self.content(word, bitmap)
                if shown not in (BACKING, self.zeros) or parts.backing_offset and shown != BACKING:
                    seen[guest] = shown
        return seen

    def content(self, word, bitmap):
        """What one L2 entry shows. As QEMU does, bits that are reserved are not looked at."""
        parts, offset = self.parts, word & OFFSET_MASK
        if word & COMPRESSED:
            return self.unpacked(word)
        if parts.extended:
            return self.subclusters(offset, bitmap)
        if word & ZERO:
            return self.zeros if parts.version >= 3 else UNREADABLE
        return self.cluster(offset) if offset or parts.data_file and word else BACKING

    def cluster(self, offset):
        if offset % self.parts.cs:
            return UNREADABLE
        if self.external is not None:
            return self.external[offset:offset + self.parts.cs].ljust(self.parts.cs, b'\0')
        if offset // self.parts.cs in self.metadata:
            return f'{METADATA} {offset // self.parts.cs}'
        return self.parts.read(offset, self.parts.cs)

    def subclusters(self, offset, bitmap):
        allocated, zero = bitmap & 0xFFFFFFFF, bitmap >> 32
        if allocated & zero or allocated and not offset:
            return UNREADABLE
        whole = self.cluster(offset) if allocated else bytes(self.parts.cs)
        if isinstance(whole, str):
            return whole
        size = self.parts.cs // SUBCLUSTERS
        unmapped = (b'backing!' if self.parts.backing_offset else bytes(8)) * (size // 8)
        return b''.join(whole[at * size:(at + 1) * size] if allocated >> at & 1 else bytes(size) if zero >> at & 1 else unmapped
                        for at in range(SUBCLUSTERS))

    def unpacked(self, word):
        offset, length = self.parts.compressed(word)
        if self.parts.data_file:
            return UNREADABLE
        try:
            data = zlib.decompressobj(-12).decompress(self.parts.read(offset, length), self.parts.cs)
        except zlib.error:
            return UNREADABLE
        return data if len(data) == self.parts.cs else UNREADABLE


def read_or_nothing(path):
    """A damaged header can say that there is a data file."""
    return path.read_bytes() if path.exists() else b''


def differences(before, after):
    """[(disk, guest offset)] where two views differ, on the disks that both have."""
    return [(disk, at) for disk, seen in before.disks.items() if disk in after.disks
            for at in seen.keys() | after.disks[disk].keys() if seen.get(at) != after.disks[disk].get(at)]
