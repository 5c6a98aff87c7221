# SPDX-License-Identifier: LGPL-2.1-or-later
"""Builds a sound qcow2 image in memory: the part of mkqcow2 that knows the layout and writes no file."""

import itertools
import struct
import zlib

COPIED = 1 << 63
COMPRESSED = 1 << 62
ZERO = 1
OFFSET_MASK = 0x00FFFFFFFFFFFE00

INCOMPAT_DIRTY, INCOMPAT_CORRUPT, INCOMPAT_DATA_FILE, INCOMPAT_COMPRESSION, INCOMPAT_EXTL2 = 1, 2, 4, 8, 16
EXT_BACKING_FORMAT, EXT_FEATURES, EXT_BITMAPS = 0xE2792ACA, 0x6803F857, 0x23852875
EXT_LUKS, EXT_DATA_FILE = 0x0537BE77, 0x44415441


class RecipeError(Exception):
    """What the recipe asks for cannot be built."""


class Store:
    """A sparse file in memory: bytes never written read as zeros."""

    CHUNK = 65536

    def __init__(self):
        self.chunks = {}
        self.size = 0

    def read(self, pos, length):
        out = bytearray()
        while length:
            index, at = divmod(pos, self.CHUNK)
            take = min(length, self.CHUNK - at)
            chunk = self.chunks.get(index)
            out += chunk[at:at + take] if chunk else bytes(take)
            pos, length = pos + take, length - take
        return bytes(out)

    def write(self, pos, data):
        if pos < 0 or pos + len(data) > self.size:
            raise RecipeError(f"write of {len(data)} bytes at {pos:#x}, outside the file of {self.size:#x}")
        done = 0
        while done < len(data):
            index, at = divmod(pos + done, self.CHUNK)
            take = min(len(data) - done, self.CHUNK - at)
            self.chunks.setdefault(index, bytearray(self.CHUNK))[at:at + take] = data[done:done + take]
            done += take

    def resize(self, size):
        if size < self.size:
            self.write(size, bytes(min(self.size - size, -size % self.CHUNK)))
            last = (size + self.CHUNK - 1) // self.CHUNK
            self.chunks = {i: c for i, c in self.chunks.items() if i < last}
        self.size = size

    def save(self, path):
        with open(path, "wb") as out:
            out.truncate(self.size)
            for index in sorted(self.chunks):
                chunk = self.chunks[index][:max(0, self.size - index * self.CHUNK)]
                if any(chunk):
                    out.seek(index * self.CHUNK)
                    out.write(chunk)


class Image:
    """
    One qcow2 image. Clusters are handed out in rising order: header, refcount table, first refcount block, L1
    table, then whatever the calls below need. The layout is remembered as built, so that names stay valid after
    pokes: l1_offset, l2 (index -> offset), reftable_offset, refblocks (index -> offset), snapshots, extensions.
    """

    def __init__(self, size, version=3, cluster_bits=16, refcount_bits=16, reftable_clusters=1,
                 l1_entries=None, header_length=112, extended_l2=False):
        self.store = Store()
        self.version, self.cluster_bits, self.cs = version, cluster_bits, 1 << cluster_bits
        self.size, self.refcount_bits = size, refcount_bits
        self.header_length = header_length if version == 3 else 72
        self.l2_entry_size = 16 if extended_l2 else 8
        self.l2_entries = self.cs // self.l2_entry_size
        self.rb_entries = self.cs * 8 // refcount_bits
        self.reftable_clusters = reftable_clusters
        need = -(-size // (self.cs * self.l2_entries))
        self.l1_entries = need if l1_entries is None else l1_entries
        self.incompatible = INCOMPAT_EXTL2 if extended_l2 else 0
        self.compatible = self.autoclear = self.crypt = 0
        self.backing = b""
        self.data_file = False
        self.next = 0
        self.l2, self.refblocks, self.snapshots, self.extensions = {}, {}, [], []
        self.ext_positions = []
        self.snapshot_positions = []
        self.bitmaps = []
        self.bitmap_positions = []
        self.compress_at = None
        self._lay_out()

    # ---- clusters and refcounts ----------------------------------------------------------------

    def _lay_out(self):
        self.next = 1 + self.reftable_clusters
        self.store.resize(self.next * self.cs)
        self.reftable_offset = self.cs
        self._add_refblock(0)
        for cluster in range(1 + self.reftable_clusters):
            self.set_refcount(cluster, 1)
        self.l1_offset = self.alloc(-(-self.l1_entries * 8 // self.cs)) if self.l1_entries else 0

    def _take(self):
        self.next += 1
        self.store.resize(self.next * self.cs)
        return self.next - 1

    def _add_refblock(self, index):
        if index >= self.reftable_clusters * self.cs // 8:
            raise RecipeError(f"the refcount table has no entry {index}: raise reftable_clusters")
        cluster = self._take()
        self.refblocks[index] = cluster * self.cs
        self.put64(self.reftable_offset + index * 8, cluster * self.cs)
        self.set_refcount(cluster, 1)

    def alloc(self, count=1, refcount=1):
        """Takes `count` neighbouring clusters and returns the byte offset of the first."""
        while any(c // self.rb_entries not in self.refblocks for c in range(self.next, self.next + count)):
            missing = next(c for c in range(self.next, self.next + count)
                           if c // self.rb_entries not in self.refblocks)
            self._add_refblock(missing // self.rb_entries)
        first = self.next
        for _ in range(count):
            self.set_refcount(self._take(), refcount)
        return first * self.cs

    def refcount_position(self, cluster):
        """(byte position, bytes, lowest bit, bits) of a cluster's refcount."""
        index, entry = divmod(cluster, self.rb_entries)
        if index not in self.refblocks:
            raise RecipeError(f"no refcount block covers cluster {cluster}")
        bits = self.refcount_bits
        if bits < 8:
            return self.refblocks[index] + entry * bits // 8, 1, entry * bits % 8, bits
        return self.refblocks[index] + entry * bits // 8, bits // 8, 0, bits

    def get_refcount(self, cluster):
        pos, width, low, bits = self.refcount_position(cluster)
        return int.from_bytes(self.store.read(pos, width), "big") >> low & ((1 << bits) - 1)

    def set_refcount(self, cluster, value):
        pos, width, low, bits = self.refcount_position(cluster)
        if not 0 <= value < 1 << bits:
            raise RecipeError(f"refcount {value} does not fit into {bits} bits")
        old = int.from_bytes(self.store.read(pos, width), "big")
        new = old & ~(((1 << bits) - 1) << low) | value << low
        self.store.write(pos, new.to_bytes(width, "big"))

    def get64(self, pos):
        return int.from_bytes(self.store.read(pos, 8), "big")

    def put64(self, pos, value):
        self.store.write(pos, value.to_bytes(8, "big"))

    # ---- the map -------------------------------------------------------------------------------

    def l2_position(self, guest):
        """Byte position of the L2 entry that maps guest offset `guest`; its L2 table is made if there is none."""
        l1_index, l2_index = divmod(guest // self.cs, self.l2_entries)
        if l1_index >= self.l1_entries:
            raise RecipeError(f"guest offset {guest:#x} lies behind the L1 table")
        if l1_index not in self.l2:
            self.l2[l1_index] = self.alloc()
            self.put64(self.l1_offset + l1_index * 8, self.l2[l1_index] | COPIED)
        return self.l2[l1_index] + l2_index * self.l2_entry_size

    def _clusters(self, guest, length):
        if guest % self.cs or length <= 0:
            raise RecipeError(f"guest range {guest:#x}+{length:#x} does not start on a cluster boundary")
        return range(guest, guest + length, self.cs)

    def _host_of(self, pos, guest):
        """Host offset of the guest cluster behind the L2 entry at `pos`, allocated if there is none."""
        entry = self.get64(pos)
        if self.data_file:
            return guest
        if entry & OFFSET_MASK and not entry & COMPRESSED:
            return entry & OFFSET_MASK
        return self.alloc()

    def write(self, guest, length, pattern):
        for at in self._clusters(guest, length):
            pos = self.l2_position(at)
            host = self._host_of(pos, at)
            self.put64(pos, host | COPIED)
            if self.l2_entry_size == 16:
                self.put64(pos + 8, 0xFFFFFFFF)
            if not self.data_file:
                self.store.write(host, bytes([pattern]) * min(self.cs, guest + length - at))

    def zero(self, guest, length, keep):
        """Zero clusters: plain, or (`keep`) with a host cluster that stays preallocated."""
        for at in self._clusters(guest, length):
            pos = self.l2_position(at)
            self.put64(pos, self._host_of(pos, at) | COPIED | ZERO if keep else ZERO)

    def compress(self, guest, length, pattern):
        for at in self._clusters(guest, length):
            pos = self.l2_position(at)
            deflate = zlib.compressobj(9, zlib.DEFLATED, -12)
            stream = deflate.compress(bytes([pattern]) * self.cs) + deflate.flush()
            room = -self.compress_at % self.cs if self.compress_at is not None else 0
            if len(stream) > room:
                self.compress_at = self.alloc(refcount=0)
            host = self.compress_at
            sectors = (len(stream) - 1) // 512
            self.set_refcount(host // self.cs, self.get_refcount(host // self.cs) + 1)
            self.store.write(host, stream)
            self.compress_at = host + (sectors + 1) * 512
            self.put64(pos, COMPRESSED | sectors << (62 - (self.cluster_bits - 8)) | host)

    # ---- what else an image may hold -----------------------------------------------------------

    def _refer(self, cluster, more):
        self.set_refcount(cluster, self.get_refcount(cluster) + more)

    def _host_clusters(self, entry):
        """Clusters that an L2 entry refers to."""
        if entry & COMPRESSED:
            shift = 62 - (self.cluster_bits - 8)
            host = entry & (1 << shift) - 1
            sectors = (entry >> shift & (1 << self.cluster_bits - 8) - 1) + 1
            return range(host // self.cs, (host // 512 * 512 + sectors * 512 - 1) // self.cs + 1)
        return [(entry & OFFSET_MASK) // self.cs] if entry & OFFSET_MASK and not self.data_file else []

    def snapshot(self, ident, name, copies=1, extra=24):
        """
        Takes internal snapshots: an L1 copy, more references to all it names, COPIED cleared. `copies`: entries of the
        snapshot table that all name that L1 copy. `extra`: bytes of extra data of each.
        """
        l1_clusters = max(1, -(-self.l1_entries * 8 // self.cs))
        copy = self.alloc(l1_clusters, copies)
        for index, table in sorted(self.l2.items()):
            for at in range(table, table + self.cs, self.l2_entry_size):
                entry = self.get64(at)
                for cluster in self._host_clusters(entry):
                    self._refer(cluster, copies)
                if not self.data_file:
                    self.put64(at, entry & ~COPIED)
            self._refer(table // self.cs, copies)
            self.put64(self.l1_offset + index * 8, table)
        self.store.write(copy, self.store.read(self.l1_offset, self.l1_entries * 8))
        self.snapshots += [(copy, ident.encode(), name.encode(), extra)] * copies

    def _snapshot_entry(self, l1_offset, ident, name, extra):
        head = struct.pack(">QIHHIIQII", l1_offset, self.l1_entries, len(ident), len(name), 0, 0, 0, 0, extra)
        known = struct.pack(">QQQ", 0, self.size, (1 << 64) - 1)[:extra]
        entry = head + known + bytes(extra - len(known)) + ident + name
        return entry + bytes(-len(entry) % 8)

    def _write_snapshot_table(self):
        """The offset of the table; 0 where there are no snapshots."""
        if not self.snapshots:
            return 0
        entries = [self._snapshot_entry(*snapshot) for snapshot in self.snapshots]
        offset = self.alloc(-(-sum(map(len, entries)) // self.cs))
        self.snapshot_positions = [offset + at for at in (0, *itertools.accumulate(map(len, entries)))]
        self.store.write(offset, b"".join(entries))
        return offset

    def bitmap(self, name, in_use, granularity, parts):
        """A persistent bitmap: its table, and `parts` clusters of bits, all set."""
        entries = max(1, -(-self.size // (8 * self.cs << granularity)))
        table = self.alloc(-(-entries * 8 // self.cs))
        for part in range(min(parts, entries)):
            bits = self.alloc()
            self.store.write(bits, b"\xff" * self.cs)
            self.put64(table + part * 8, bits)
        self.bitmaps.append((table, entries, 1 if in_use else 0, granularity, name.encode()))

    def _write_bitmap_directory(self):
        """The directory, its extension, and the autoclear bit that puts it in force."""
        if not self.bitmaps:
            return
        entries = []
        for table, count, flags, granularity, name in self.bitmaps:
            entry = struct.pack(">QIIBBHI", table, count, flags, 1, granularity, len(name), 0) + name
            entries.append(entry + bytes(-len(entry) % 8))
        size = sum(map(len, entries))
        directory = self.alloc(-(-size // self.cs))
        self.store.write(directory, b"".join(entries))
        self.bitmap_positions = [directory + at for at in (0, *itertools.accumulate(map(len, entries)))]
        self.extensions.append((EXT_BITMAPS, struct.pack(">IIQQ", len(entries), 0, size, directory)))
        self.autoclear |= 1

    def luks(self, clusters):
        """A LUKS header of version 1 whose key slots nobody uses, its key material and the rest of its clusters empty."""
        offset = self.alloc(clusters)
        slots = struct.pack(">II32xII", 0xdead, 0, 2, 10) * 8
        self.store.write(offset, struct.pack(">6sH32s32s32sII20x32xI40s", b"LUKS\xba\xbe", 1, b"aes", b"xts-plain64", b"sha256",
                                             clusters * self.cs // 512, 32, 1000, bytes(40)) + slots)
        self.crypt = 2
        self.extensions.append((EXT_LUKS, struct.pack(">QQ", offset, clusters * self.cs)))

    def set_data_file(self, name):
        self.data_file = True
        self.incompatible |= INCOMPAT_DATA_FILE
        self.extensions.append((EXT_DATA_FILE, name.encode()))

    def set_backing(self, name, fmt):
        self.backing = name.encode()
        self.extensions.append((EXT_BACKING_FORMAT, fmt.encode()))

    def structures(self):
        """(position, length) of all tables, as built."""
        return [(0, self.cs), (self.reftable_offset, self.reftable_clusters * self.cs),
                (self.l1_offset, self.l1_entries * 8),
                *((at, self.cs) for at in (*self.refblocks.values(), *self.l2.values()))]

    def structure_clusters(self):
        """Offsets of the clusters that hold them."""
        others = [(snapshot[0], self.l1_entries * 8) for snapshot in self.snapshots]
        others += [(positions[0], positions[-1] - positions[0])
                   for positions in (self.snapshot_positions, self.bitmap_positions) if positions]
        others += [(bitmap[0], bitmap[1] * 8) for bitmap in self.bitmaps]
        return {at for start, length in (*self.structures(), *others) for at in range(start, start + length, self.cs)}

    # ---- the header ----------------------------------------------------------------------------

    def finish(self):
        """Writes the snapshot table, the header and its extensions. Nothing may be allocated afterwards."""
        snapshots = self._write_snapshot_table()
        self._write_bitmap_directory()
        extensions = b""
        for kind, data in self.extensions:
            self.ext_positions.append(self.header_length + len(extensions))
            extensions += struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)
        self.ext_positions.append(self.header_length + len(extensions))
        extensions += bytes(8)
        backing_offset = self.header_length + len(extensions) if self.backing else 0
        header = struct.pack(">IIQIIQIIQQIIQ", 0x514649FB, self.version, backing_offset, len(self.backing),
                             self.cluster_bits, self.size, self.crypt, self.l1_entries, self.l1_offset,
                             self.reftable_offset, self.reftable_clusters, len(self.snapshots), snapshots)
        if self.version == 3:
            header += struct.pack(">QQQII", self.incompatible, self.compatible, self.autoclear,
                                  self.refcount_bits.bit_length() - 1, self.header_length)
            header = header.ljust(self.header_length, b"\0")
        everything = header + extensions + self.backing
        if len(everything) > self.cs:
            raise RecipeError("header, extensions and backing file name do not fit into one cluster")
        self.store.write(0, everything)
