# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Reads the metadata of a qcow2 file, sound or damaged: what each field and table says, and where each structure lies. It judges
nothing: a pointer is what the bytes say, and bytes behind the end of the file are zeros.

Terms are the specification's. Offsets are of the file, in bytes.
"""

import dataclasses
import functools
import struct

from qcow2_image import COMPRESSED, EXT_BITMAPS, INCOMPAT_DATA_FILE, INCOMPAT_EXTL2, OFFSET_MASK

REFTABLE_MASK = 0xFFFFFFFFFFFFFE00
SNAPSHOTS_MAX, BITMAPS_MAX = 65536, 65535  # of a damaged table


@dataclasses.dataclass
class Snapshot:
    """An entry of the snapshot table: `at` to `end` in the file; `text` is where its id and its name are."""
    at: int
    text: int
    end: int
    l1_offset: int
    l1_entries: int
    id: bytes
    name: bytes
    extra_size: int
    disk_size: int | None


@dataclasses.dataclass
class Bitmap:
    """An entry of the bitmap directory, `at` to `end` in the file."""
    at: int
    end: int
    table_offset: int
    table_entries: int
    flags: int
    kind: int
    granularity: int
    extra_size: int
    name: bytes


class Parts:
    """One qcow2 file, its bytes in memory."""

    def __init__(self, data):
        self.data = data
        self.block_counts = functools.cache(self._block_counts)
        (self.magic, self.version, self.backing_offset, self.backing_size, self.cluster_bits, self.size, self.crypt,
         self.l1_entries, self.l1_offset, self.reftable_offset, self.reftable_clusters, self.nb_snapshots, self.snapshots_offset
         ) = struct.unpack(">IIQIIQIIQQIIQ", self.read(0, 72))
        self.incompatible, self.compatible, self.autoclear, self.refcount_order, self.header_length = (
            struct.unpack(">QQQII", self.read(72, 32)) if self.version >= 3 else (0, 0, 0, 4, 72))
        self.cs = 1 << self.cluster_bits if 9 <= self.cluster_bits <= 21 else 0
        self.extended, self.data_file = self.incompatible & INCOMPAT_EXTL2, self.incompatible & INCOMPAT_DATA_FILE
        self.l2_entry_size = 16 if self.extended else 8
        self.l2_entries = self.cs // self.l2_entry_size

    def read(self, at, length):
        return self.data[at:at + length].ljust(length, b"\0")

    def words(self, at, count):
        """`count` big-endian numbers of 64 bits; those that lie wholly behind the end of the file are left out."""
        count = max(0, min(count, -(-(len(self.data) - at) // 8)))
        return struct.unpack(f">{count}Q", self.read(at, count * 8))

    @property
    def file_clusters(self):
        return -(-len(self.data) // self.cs)

    # ---- header extensions -------------------------------------------------------------------------

    def extensions(self):
        """(type, offset of its data, length) of each, up to the end marker or the first that does not fit."""
        at, end = self.header_length, self.backing_offset or self.cs
        while at + 8 <= min(end, self.cs):
            kind, length = struct.unpack(">II", self.read(at, 8))
            if not kind or at + 8 + length > end:
                return
            yield kind, at + 8, length
            at += 8 + (length + 7 & ~7)

    def extension(self, wanted):
        return next(((at, length) for kind, at, length in self.extensions() if kind == wanted), None)

    def header_end(self):
        """Where the header, its extensions and the backing file name end."""
        ends = [at + (length + 7 & ~7) for _, at, length in self.extensions()]
        return max([self.header_length, *ends]) + 8, self.backing_offset + self.backing_size

    # ---- refcounts -----------------------------------------------------------------------------------

    @property
    def refblock_entries(self):
        return self.cs * 8 >> self.refcount_order

    def refblocks(self):
        """(index, entry) of the refcount table's entries in use."""
        entries = self.words(self.reftable_offset, self.reftable_clusters * self.cs // 8)
        return [(index, entry) for index, entry in enumerate(entries) if entry]

    @functools.cached_property
    def _blocks(self):
        return dict(self.refblocks())

    def _block_counts(self, offset):
        """The refcounts of one block. Widths below a byte: the first entry is in the lowest bits."""
        block, bits = self.read(offset, self.cs), 1 << self.refcount_order
        if bits >= 8:
            width = bits // 8
            return [int.from_bytes(block[at:at + width], "big") for at in range(0, self.cs, width)]
        return [byte >> low & (1 << bits) - 1 for byte in block for low in range(0, 8, bits)]

    def refcount(self, cluster):
        """Of any cluster, also behind the end of the file; None where its block is not where a block can be."""
        index, at = divmod(cluster, self.refblock_entries)
        entry = self._blocks.get(index, 0)
        offset = entry & REFTABLE_MASK
        if offset % self.cs or offset >> 63:
            return None
        return self.block_counts(offset)[at] if offset and offset < len(self.data) else 0

    def refcounts(self):
        """{cluster: refcount} of the clusters of the file that have one above 0, where it can be read."""
        counts = {}
        for index, entry in self.refblocks():
            offset, first = entry & REFTABLE_MASK, index * self.refblock_entries
            if offset % self.cs or offset >= len(self.data) or first >= self.file_clusters:
                continue
            block = self.block_counts(offset)[:self.file_clusters - first]
            counts.update((first + at, count) for at, count in enumerate(block) if count)
        return counts

    # ---- maps ------------------------------------------------------------------------------------------

    def l1_table(self, offset=None, entries=None):
        """The entries of an L1 table; of the active one by default."""
        return self.words(self.l1_offset if offset is None else offset, self.l1_entries if entries is None else entries)

    def l2_table(self, offset):
        """(entry, subcluster bitmap) of each entry of an L2 table."""
        words = struct.unpack(f">{self.cs // 8}Q", self.read(offset, self.cs))
        return list(zip(words[::2], words[1::2])) if self.extended else [(word, 0) for word in words]

    def compressed(self, entry):
        """(offset, length) of the sectors that a compressed entry names."""
        shift = 62 - (self.cluster_bits - 8)
        host = entry & (1 << shift) - 1
        sectors = (entry >> shift & (1 << self.cluster_bits - 8) - 1) + 1
        return host, sectors * 512 - host % 512

    def host_range(self, entry):
        """(offset, length) in the file of what an L2 entry names, or None."""
        if entry & COMPRESSED:
            return self.compressed(entry)
        offset = entry & OFFSET_MASK
        return (offset, self.cs) if offset and not self.data_file else None

    # ---- snapshots and bitmaps ---------------------------------------------------------------------------

    def snapshots(self):
        """The entries of the snapshot table; behind the end of the file they are zeros."""
        at = self.snapshots_offset
        for _ in range(min(self.nb_snapshots, SNAPSHOTS_MAX)):
            at = at + 7 & ~7
            fixed = self.read(at, 40)
            l1_offset, l1_entries, id_len, name_len = struct.unpack(">QIHH", fixed[:16])
            extra = int.from_bytes(fixed[36:40], "big")
            disk_size = int.from_bytes(self.read(at + 48, 8), "big") if extra >= 16 else None
            text = at + 40 + extra
            end = text + id_len + name_len
            yield Snapshot(at, text, end, l1_offset, l1_entries, self.read(text, id_len), self.read(text + id_len, name_len),
                           extra, disk_size)
            at = end

    def bitmap_directory(self):
        """(bitmaps that the header says, offset, size) of the directory, or None. Without its autoclear bit there is none."""
        found = self.extension(EXT_BITMAPS)
        if not found or found[1] < 24 or not self.autoclear & 1:
            return None
        count, _, size, offset = struct.unpack(">IIQQ", self.read(found[0], 24))
        return count, offset, size

    def bitmaps(self):
        """The entries of the bitmap directory that lie in the file."""
        count, at, size = self.bitmap_directory() or (0, 0, 0)
        stop = min(at + size, len(self.data))
        for _ in range(min(count, BITMAPS_MAX)):
            if at + 24 > stop:
                return
            table, entries, flags, kind, granularity, name_len, extra = struct.unpack(">QIIBBHI", self.read(at, 24))
            end = at + 24 + extra + name_len
            if end > stop:
                return
            yield Bitmap(at, end, table, entries, flags, kind, granularity, extra, self.read(end - name_len, name_len))
            at = end + 7 & ~7

    # ---- all of it -----------------------------------------------------------------------------------------

    def _maps(self):
        """(name, L1 offset, L1 entries) of the active map and of each snapshot's."""
        yield "", self.l1_offset, self.l1_entries
        for index, snapshot in enumerate(self.snapshots()):
            yield f"snapshot[{index}].", snapshot.l1_offset, snapshot.l1_entries

    def structures(self):
        """[(name, offset, length)] of every structure of a sound image, each place once."""
        extensions_end, _ = self.header_end()
        found = [("header", 0, self.header_length), ("extensions", self.header_length, extensions_end - self.header_length),
                 ("backing name", self.backing_offset, self.backing_size if self.backing_offset else 0),
                 ("reftable", self.reftable_offset, self.reftable_clusters * self.cs)]
        found += [(f"refblock[{index}]", entry & REFTABLE_MASK, self.cs) for index, entry in self.refblocks()]
        snapshots = list(self.snapshots())
        found += [("snapshots", self.snapshots_offset, snapshots[-1].end - self.snapshots_offset)] if snapshots else []
        for name, offset, entries in self._maps():
            found.append((name + "l1", offset, entries * 8))
            found += [(f"{name}l2[{index}]", entry & OFFSET_MASK, self.cs)
                      for index, entry in enumerate(self.l1_table(offset, entries)) if entry & OFFSET_MASK]
        directory = self.bitmap_directory()
        found += [("bitmaps", directory[1], directory[2])] if directory else []
        found += [(f"bitmap[{index}]", bitmap.table_offset, bitmap.table_entries * 8)
                  for index, bitmap in enumerate(self.bitmaps())]
        places = {}
        for name, offset, length in found:
            places.setdefault(offset if length else None, (name, offset, length))
        return [place for at, place in places.items() if at is not None]

    def clusters_of(self, *names):
        """Clusters of the structures whose names begin with one of these; of all without."""
        return {cluster for name, offset, length in self.structures() if name.startswith(names or "")
                for cluster in range(offset // self.cs, (offset + length - 1) // self.cs + 1)}
