# SPDX-License-Identifier: LGPL-2.1-or-later
"""
checker.py: a second checker of qcow2 images, slow and obvious. From the specification it counts what everything in an image refers
to, compares that with the refcounts and the COPIED flags that the image has, and counts what breaks the format on the way.

It writes nothing, mends nothing, guards against nothing: images are small, and are made by tests. What it counts as one
corruption is the unit of `qemu-img check`, for users compare the numbers. It trusts pointers wherever the specification does not
forbid it: that two structures claim one cluster is seen in the refcounts alone. What the engine does not follow for that reason is
listed in run.py.
"""
import collections
import dataclasses
import functools

from qcow2_image import COMPRESSED, COPIED, EXT_LUKS, OFFSET_MASK, ZERO
from qcow2_parts import REFTABLE_MASK

L1_RESERVED, L2_RESERVED, REFTABLE_RESERVED = 0x7F000000000001FF, 0x3F000000000001FE, 0x1FF
L1_ENTRIES_MAX = 4194304
EXTRA_VERSION_3 = 16  # bytes of extra data that version 3 demands of a snapshot


@dataclasses.dataclass
class Counts:
    corruptions: int
    leaks: int
    errors: int     # refcounts that cannot be read
    allocated: int  # clusters that the active disk maps
    why: collections.Counter  # what each corruption is, for a person


class Checker:
    def __init__(self, parts):
        self.parts = parts
        self.references = collections.Counter()  # cluster -> how often it is referred to
        self.why = collections.Counter()
        self.allocated = 0
        self.refcount = functools.cache(parts.refcount)
        self.most = (1 << (1 << parts.refcount_order)) - 1  # that a refcount can say

    def wrong(self, what):
        self.why[what] += 1

    def refer(self, offset, length, what):
        """
        Something uses these bytes of the file. A use that ends a cluster or more behind the file's end counts for nothing; a file ends
        with a sector.
        """
        cs = self.parts.cs
        if length <= 0:
            return False
        if offset + length - -(-len(self.parts.data) // 512) * 512 >= cs:
            self.wrong(f'{what} behind the end of the file')
            return False
        for cluster in range(offset // cs, (offset + length - 1) // cs + 1):
            if self.references[cluster] == self.most:
                self.wrong('more references than a refcount can count')
            else:
                self.references[cluster] += 1
        return True

    # ---- maps ------------------------------------------------------------------------------------------

    def map(self, l1_offset, l1_entries, active):
        if not self.refer(l1_offset, l1_entries * 8, 'L1 table'):
            return False
        for entry in self.parts.l1_table(l1_offset, l1_entries):
            offset = entry & OFFSET_MASK
            if entry & L1_RESERVED:
                self.wrong('L1 entry: reserved bits')
            if not offset:
                continue
            inside = self.refer(offset, self.parts.cs, 'L2 table')
            if offset % self.parts.cs:
                self.wrong('L1 entry: not aligned')
            elif inside:
                for word, bitmap in self.parts.l2_table(offset):
                    self.l2_entry(word, bitmap, active)
        return True

    def l2_entry(self, word, bitmap, active):
        if word & COMPRESSED:
            self.compressed(word, bitmap, active)
            return
        offset = word & OFFSET_MASK
        if word & L2_RESERVED:
            self.wrong('L2 entry: reserved bits')
        if self.parts.extended and bitmap & 0xFFFFFFFF and not offset:
            self.wrong('subclusters without a cluster')
        if not offset and not (self.parts.data_file and word & COPIED and not word & ZERO):
            return
        if self.parts.extended and bitmap & bitmap >> 32:
            self.wrong('subcluster allocated and zero')
        if offset % self.parts.cs:
            self.wrong('L2 entry: not aligned')
        self.allocated += active
        if not self.parts.data_file:
            self.refer(offset, self.parts.cs, 'data')

    def compressed(self, word, bitmap, active):
        if word & COPIED:
            self.wrong('compressed and COPIED')
        if self.parts.data_file:
            self.wrong('compressed with an external data file')
        elif self.parts.extended and bitmap:
            self.wrong('compressed with subclusters')
        else:
            self.allocated += active
            self.refer(*self.parts.compressed(word), 'compressed data')

    # ---- everything else that uses clusters ------------------------------------------------------------------

    def snapshots(self):
        parts, end = self.parts, self.parts.snapshots_offset
        if parts.nb_snapshots and parts.data_file:
            self.wrong('snapshots with an external data file')
        for snapshot in parts.snapshots():
            end = snapshot.end
            if parts.version >= 3 and snapshot.extra_size < EXTRA_VERSION_3:
                self.wrong('snapshot: too little extra data')
            if snapshot.l1_offset % parts.cs:
                self.wrong('snapshot: L1 table not aligned')
            elif snapshot.l1_entries > L1_ENTRIES_MAX:
                self.wrong('snapshot: L1 table too large')
            else:
                self.map(snapshot.l1_offset, snapshot.l1_entries, False)
        self.refer(parts.snapshots_offset, end - parts.snapshots_offset, 'snapshot table')

    def bitmaps(self):
        directory = self.parts.bitmap_directory()
        if not directory:
            return
        self.refer(*directory[1:], 'bitmap directory')
        for bitmap in self.parts.bitmaps():
            if self.refer(bitmap.table_offset, bitmap.table_entries * 8, 'bitmap table'):
                for word in self.parts.words(bitmap.table_offset, bitmap.table_entries):
                    if word & OFFSET_MASK:
                        self.refer(word & OFFSET_MASK, self.parts.cs, 'bitmap')

    def luks(self):
        found = self.parts.extension(EXT_LUKS)
        if found:
            self.refer(*self.parts.words(found[0], 2), 'LUKS header')

    def refblocks(self):
        parts = self.parts
        if self.refer(parts.reftable_offset, parts.reftable_clusters * parts.cs, 'refcount table'):
            for _, entry in parts.refblocks():
                self.refblock(entry)
        else:
            self.refcount = lambda cluster: 0  # a table that is not there as a whole is believed in nothing

    def refblock(self, entry):
        offset = entry & REFTABLE_MASK
        if entry & REFTABLE_RESERVED:
            self.wrong('refcount table entry: reserved bits')
        elif offset % self.parts.cs:
            self.wrong('refcount table entry: not aligned')
        elif offset >= self.parts.file_clusters * self.parts.cs:
            self.wrong('refcount block behind the end of the file')
        else:
            self.refer(offset, self.parts.cs, 'refcount block')
            if self.references[offset // self.parts.cs] != 1:
                self.wrong('refcount block: shared')

    # ---- what the image says of itself, beside it -----------------------------------------------------------------

    def compare(self):
        """(leaks, errors): every cluster's refcount beside its references; corruptions where it is too low."""
        leaks = errors = 0
        for cluster in range(max(self.parts.file_clusters, *(cluster + 1 for cluster in self.references))):
            count = self.refcount(cluster)
            if count is None:
                errors += 1
            elif count < self.references[cluster]:
                self.wrong('refcount too low')
            elif count > self.references[cluster]:
                leaks += 1
        return leaks, errors

    def copied(self):
        """COPIED says of the active map: nobody else refers to this cluster."""
        parts = self.parts
        for entry in parts.l1_table():
            offset = entry & OFFSET_MASK
            count = self.refcount(offset // parts.cs)
            if not offset or count is None:
                continue
            self.judge_flag(entry, count, 'L1')
            if offset % parts.cs or offset >= len(parts.data):
                continue
            for word, _ in parts.l2_table(offset):
                if not word & COMPRESSED and (word & OFFSET_MASK or parts.data_file and word & COPIED):
                    count = 1 if parts.data_file else self.refcount((word & OFFSET_MASK) // parts.cs)
                    self.judge_flag(word, count, 'L2')

    def judge_flag(self, entry, count, what):
        if count is not None and bool(entry & COPIED) != (count == 1):
            self.wrong(f'COPIED flag of an {what} entry')


def check(parts):
    checker = Checker(parts)
    checker.refer(0, parts.cs, 'header')
    followed = checker.map(parts.l1_offset, parts.l1_entries, True)
    checker.snapshots()
    checker.luks()
    checker.bitmaps()
    checker.refblocks()
    leaks, errors = checker.compare()
    if followed:
        checker.copied()
    return Counts(sum(checker.why.values()), leaks, errors, checker.allocated, checker.why)
