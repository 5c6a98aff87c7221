# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names for the parts of an image (l1[0].l2[3].offset), and expressions over them, for recipes."""

import ast
import operator
import re

from qcow2_image import COPIED, OFFSET_MASK, RecipeError

HEADER = {  # name: (position, bytes)
    "magic": (0, 4), "version": (4, 4), "backing_offset": (8, 8), "backing_size": (16, 4), "cluster_bits": (20, 4),
    "size": (24, 8), "crypt": (32, 4), "l1_size": (36, 4), "l1_offset": (40, 8), "reftable_offset": (48, 8),
    "reftable_clusters": (56, 4), "nb_snapshots": (60, 4), "snapshots_offset": (64, 8), "incompatible": (72, 8),
    "compatible": (80, 8), "autoclear": (88, 8), "refcount_order": (96, 4), "header_length": (100, 4),
    "compression_type": (104, 1),
}
ENTRY_BITS = {"zero": 0, "compressed": 62, "copied": 63}
REFTABLE_MASK = 0xFFFFFFFFFFFFFE00
SNAPSHOT = {"l1_offset": (0, 8), "l1_size": (8, 4), "id_len": (12, 2), "name_len": (14, 2), "extra_size": (36, 4)}
BITMAP = {"table_offset": (0, 8), "table_size": (8, 4), "flags": (12, 4), "type": (16, 1), "granularity": (17, 1),
          "name_len": (18, 2), "extra_size": (20, 4)}
EXTENSION = {"type": (0, 4), "length": (4, 4), "data": (8, 8)}
RAW = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50, "E": 1 << 60}

OPERATORS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod, ast.BitOr: operator.or_, ast.BitAnd: operator.and_, ast.BitXor: operator.xor,
    ast.LShift: operator.lshift, ast.RShift: operator.rshift,
}


class Field:
    """A number in the image: `width` bytes at `pos`, of which `mask` (shifted down by `shift`) is meant."""

    def __init__(self, image, pos, width, mask=None, shift=0, table=None):
        self.image, self.pos, self.width, self.shift = image, pos, width, shift
        self.mask = (1 << width * 8) - 1 if mask is None else mask
        self.table = table  # what the entry points to, where it points to a table

    def get(self):
        return (int.from_bytes(self.image.store.read(self.pos, self.width), "big") & self.mask) >> self.shift

    def set(self, value):
        if not 0 <= value << self.shift <= self.mask or (value << self.shift) & ~self.mask:
            raise RecipeError(f"{value:#x} does not fit")
        old = int.from_bytes(self.image.store.read(self.pos, self.width), "big")
        self.image.store.write(self.pos, (old & ~self.mask | value << self.shift).to_bytes(self.width, "big"))

    def part(self, name, offset_mask):
        if name == "offset":
            return Field(self.image, self.pos, 8, offset_mask)
        if name in ENTRY_BITS:
            return Field(self.image, self.pos, 8, 1 << ENTRY_BITS[name], ENTRY_BITS[name])
        if name == "bitmap":
            return Field(self.image, self.pos + 8, 8)
        raise RecipeError(f"an entry has no {name}")


class Table:
    """A structure that fills clusters: `length` bytes at `pos`."""

    def __init__(self, pos, length):
        self.pos, self.length = pos, length


class Names:
    """Evaluates expressions of a recipe over one image; `variables` are those of `each`."""

    def __init__(self, image):
        self.image = image
        self.variables = {}

    def number(self, text):
        value = self._value(self._parse(text))
        if not isinstance(value, int):
            raise RecipeError(f"{text} is a table, not a number")
        return value

    def field(self, text):
        found = self._resolve(self._parse(text))
        if not isinstance(found, Field):
            raise RecipeError(f"{text} is not a field")
        return found

    def table(self, text):
        found = self._resolve(self._parse(text))
        if not isinstance(found, Table):
            raise RecipeError(f"{text} is not a table")
        return found

    @staticmethod
    def _parse(text):
        plain = re.sub(r"\b(\d+)([KMGTPE])\b", lambda m: str(int(m[1]) * UNITS[m[2]]), text.strip())
        try:
            return ast.parse(plain, mode="eval").body
        except SyntaxError as error:
            raise RecipeError(f"cannot read '{text}'") from error

    def _value(self, node):
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](self._value(node.left), self._value(node.right))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -self._value(node.operand)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
            return ~self._value(node.operand) & (1 << 64) - 1
        if isinstance(node, ast.Call):
            return self._call(node)
        found = self._resolve(node)
        return found.get() if isinstance(found, Field) else found

    def _call(self, node):
        if not isinstance(node.func, ast.Name) or len(node.args) != 1:
            raise RecipeError("a function takes one argument")
        found = self._resolve(node.args[0])
        if node.func.id == "offset_of" and isinstance(found, (Field, Table)):
            return found.pos
        if node.func.id == "cluster_of" and isinstance(found, Table):
            return found.pos // self.image.cs
        if node.func.id == "cluster_of" and isinstance(found, Field):
            return (found.get() & OFFSET_MASK) // self.image.cs
        raise RecipeError(f"{node.func.id}() of this does not exist")

    def _resolve(self, node):
        if isinstance(node, ast.Name):
            return self._name(node.id)
        if isinstance(node, ast.Subscript):
            return self._subscript(node.value, self._value(node.slice))
        if isinstance(node, ast.Attribute):
            return self._attribute(node.value, node.attr)
        raise RecipeError("this is not a name")

    def _name(self, name):
        image = self.image
        tables = {"header": Table(0, image.cs), "l1": Table(image.l1_offset, image.l1_entries * 8),
                  "reftable": Table(image.reftable_offset, image.reftable_clusters * image.cs)}
        if name in tables:
            return tables[name]
        if name == "snapshots":
            return Table(self.field("header.snapshots_offset").get(), 40)
        numbers = {"cs": image.cs, "eof": image.store.size, "copied": COPIED, **self.variables}
        if name not in numbers:
            raise RecipeError(f"unknown name {name}")
        return numbers[name]

    def _subscript(self, node, index):
        image = self.image
        if isinstance(node, ast.Attribute) and node.attr == "l2":
            return Field(image, self._resolve(node).pos + index * image.l2_entry_size, 8)
        if isinstance(node, ast.Attribute) and node.attr == "table":
            return Field(image, image.bitmaps[self._value(node.value.slice)][0] + index * 8, 8)
        name = node.id if isinstance(node, ast.Name) else ""
        if name in RAW:
            return Field(image, index, RAW[name])
        if name == "l1":
            return Field(image, image.l1_offset + index * 8, 8, table=index)
        if name == "reftable":
            return Field(image, image.reftable_offset + index * 8, 8)
        if name == "guest":
            return Field(image, image.l2_position(index), 8)
        if name == "refblock" and index in image.refblocks:
            return Table(image.refblocks[index], image.cs)
        if name == "refcount":
            pos, width, low, bits = image.refcount_position(index)
            return Field(image, pos, width, ((1 << bits) - 1) << low, low)
        raise RecipeError(f"there is no {name}[{index}]")

    def _attribute(self, node, attr):
        image = self.image
        name = node.id if isinstance(node, ast.Name) else ""
        if name == "header" and attr in HEADER:
            return Field(image, *HEADER[attr])
        inner = node.value.id if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) else ""
        if inner == "snapshot" and attr in SNAPSHOT:
            pos, width = SNAPSHOT[attr]
            return Field(image, image.snapshot_positions[self._value(node.slice)] + pos, width)
        if inner == "bitmap" and attr in BITMAP:
            pos, width = BITMAP[attr]
            return Field(image, image.bitmap_positions[self._value(node.slice)] + pos, width)
        if inner == "ext" and attr in EXTENSION:
            pos, width = EXTENSION[attr]
            return Field(image, image.ext_positions[self._value(node.slice)] + pos, width)
        field = self._resolve(node)
        if attr == "l2" and isinstance(field, Field) and field.table in image.l2:
            return Table(image.l2[field.table], image.cs)
        if isinstance(field, Field) and field.width == 8:
            return field.part(attr, REFTABLE_MASK if inner == "reftable" else OFFSET_MASK)
        raise RecipeError(f"there is no .{attr} here")
