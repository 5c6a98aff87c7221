#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Makes a qcow2 image, sound or damaged, from a recipe text. See testdata/README.md for the language."""

import argparse
import hashlib
import os
import re
import shlex
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from qcow2_image import Image, RecipeError  # noqa: E402
from qcow2_names import OPERATORS, Names  # noqa: E402

MODES = ("check", "leaks", "all")
STATES = MODES + ("after-leaks", "after-all")
POKE = re.compile(r"^(.*?)\s*(<<|>>|[-+|&^*])?=\s*(.*)$")
POKE_OPERATORS = {"+": "Add", "-": "Sub", "|": "BitOr", "&": "BitAnd", "^": "BitXor", "*": "Mult",
                  "<<": "LShift", ">>": "RShift"}


class Difference:
    """Where vol-repair and qemu-img are meant to differ: `key` of their results after `state`."""

    def __init__(self, states, key, ours, qemu, reason):
        self.states, self.key, self.ours, self.qemu, self.reason = states, key, ours, qemu, reason


class Recipe:
    """A recipe, read and carried out: `image` is what it built, the rest is what is expected of it."""

    def __init__(self, text):
        self.image = None
        self.names = None
        self.built = False
        self.side_files = {}   # name -> (bytes, pattern)
        self.raises = {mode: set() for mode in MODES}
        self.exits = {}        # mode -> exit code of vol-repair
        self.refused = set()   # modes
        self.keeps = set()     # modes
        self.hits = {}         # "active" or a snapshot's name -> [(guest offset, length)]
        self.differs = []
        for number, line in enumerate(text.splitlines(), 1):
            try:
                self.statement(line.split("#")[0].strip() if not line.startswith("differs") else line.strip())
            except (RecipeError, ValueError, KeyError, IndexError, OverflowError) as error:
                raise RecipeError(f"line {number}: {line.strip()}: {error}") from error
        if not self.image:
            raise RecipeError("no image statement")
        self.finish()

    def finish(self):
        if not self.built:
            self.image.finish()
            self.built = True

    def statement(self, line):
        if not line:
            return
        verb, _, rest = line.partition(" ")
        handler = getattr(self, "do_" + verb.replace("-", "_"), None)
        if not handler:
            raise RecipeError(f"unknown statement {verb}")
        handler(rest.strip())

    def _arguments(self, rest, positional, defaults):
        """Splits `a b key=value`: numbers, then options; options not named in `defaults` are errors."""
        words = shlex.split(rest)
        numbers = [self.number(word) for word in words[:positional]]
        if len(numbers) < positional:
            raise RecipeError(f"needs {positional} numbers")
        options = dict(defaults)
        for word in words[positional:]:
            key, equals, value = word.partition("=")
            if key not in defaults or not equals:
                raise RecipeError(f"unknown option {word}")
            options[key] = self.number(value) if isinstance(defaults[key], int) else value
        return numbers, options

    def number(self, text):
        return (self.names or Names(None)).number(text)

    # ---- building ------------------------------------------------------------------------------

    def do_image(self, rest):
        _, o = self._arguments(rest, 0, {
            "version": 3, "cluster_bits": 16, "size": 64 << 20, "refcount_bits": 16, "reftable_clusters": 1,
            "l1_entries": -1, "header_length": 112, "extended_l2": "off", "incompatible": 0, "compatible": 0,
            "autoclear": 0, "crypt": 0})
        self.image = Image(o["size"], o["version"], o["cluster_bits"], o["refcount_bits"], o["reftable_clusters"],
                           None if o["l1_entries"] < 0 else o["l1_entries"], o["header_length"],
                           o["extended_l2"] == "on")
        self.image.incompatible |= o["incompatible"]
        self.image.compatible, self.image.autoclear = o["compatible"], o["autoclear"]
        self.image.crypt = o["crypt"]
        self.names = Names(self.image)

    def _building(self):
        if not self.image or self.built:
            raise RecipeError("belongs after image and before the first poke, fill, truncate or grow")
        return self.image

    def do_write(self, rest):
        (start, length), o = self._arguments(rest, 2, {"pattern": 0x11})
        self._building().write(start, length, o["pattern"])

    def do_zero(self, rest):
        (start, length), o = self._arguments(rest, 2, {"keep": "no"})
        self._building().zero(start, length, o["keep"] == "yes")

    def do_compress(self, rest):
        (start, length), o = self._arguments(rest, 2, {"pattern": 0x11})
        self._building().compress(start, length, o["pattern"])

    def do_leak(self, rest):
        (count,), o = self._arguments(rest, 1, {"refcount": 1})
        self._building().alloc(count, o["refcount"])

    def do_snapshot(self, rest):
        _, o = self._arguments(rest, 0, {"id": "1", "name": "s1", "copies": 1, "extra": 24, "padding": 0})
        self._building().snapshot(o["id"], o["name"] + "." * o["padding"], o["copies"], o["extra"])

    def do_bitmap(self, rest):
        _, o = self._arguments(rest, 0, {"name": "b0", "in_use": "yes", "granularity": 16, "parts": 0})
        self._building().bitmap(o["name"], o["in_use"] == "yes", o["granularity"], o["parts"])

    def do_luks(self, rest):
        (clusters,), _ = self._arguments(rest, 1, {})
        self._building().luks(clusters)

    def do_backing(self, rest):
        _, o = self._arguments(rest, 0, {"name": "base.raw", "format": "raw", "size": 0, "pattern": 0x77})
        self._building().set_backing(o["name"], o["format"])
        self.side_files[o["name"]] = (o["size"] or self.image.size, o["pattern"])

    def do_data_file(self, rest):
        _, o = self._arguments(rest, 0, {"name": "data.raw", "pattern": 0x55})
        self._building().set_data_file(o["name"])
        self.side_files[o["name"]] = (self.image.size, o["pattern"])

    def do_extension(self, rest):
        (kind,), o = self._arguments(rest, 1, {"text": "", "hex": ""})
        self._building().extensions.append((kind, o["text"].encode() or bytes.fromhex(o["hex"])))

    # ---- damaging ------------------------------------------------------------------------------

    def do_poke(self, rest):
        self.finish()
        match = POKE.match(rest)
        if not match:
            raise RecipeError("poke FIELD = EXPRESSION")
        field, value = self.names.field(match[1]), self.number(match[3])
        if match[2]:
            operation = next(f for op, f in OPERATORS.items() if op.__name__ == POKE_OPERATORS[match[2]])
            value = operation(field.get(), value)
        field.set(value)

    def do_fill(self, rest):
        self.finish()
        name, kind, value = rest.rsplit(None, 2)
        table, seed = self.names.table(name), self.number(value)
        if kind == "byte":
            data = bytes([seed]) * table.length
        elif kind == "random":
            blocks = -(-table.length // 32)
            data = b"".join(hashlib.sha256(b"%d %d" % (seed, i)).digest() for i in range(blocks))[:table.length]
        else:
            raise RecipeError("fill TABLE byte VALUE | random SEED")
        self.image.store.write(table.pos, data)

    def do_truncate(self, rest):
        self.finish()
        size = self.number(rest)
        if size > self.image.store.size:
            raise RecipeError("truncate does not grow")
        self.image.store.resize(size)

    def do_grow(self, rest):
        self.finish()
        size = self.number(rest)
        if size < self.image.store.size:
            raise RecipeError("grow does not truncate")
        self.image.store.resize(size)

    def do_each(self, rest):
        match = re.match(r"^(\w+) in (\S+)\.\.(\S+) (.*)$", rest)
        if not match:
            raise RecipeError("each NAME in FIRST..LAST STATEMENT")
        for value in range(self.number(match[2]), self.number(match[3]) + 1):
            self.names.variables[match[1]] = value
            self.statement(match[4])
        del self.names.variables[match[1]]

    # ---- expecting -----------------------------------------------------------------------------

    def do_raises(self, rest):
        words = rest.split()
        modes = MODES
        if words and words[0].startswith("mode="):
            modes = words.pop(0)[len("mode="):].split(",")
        for mode in modes:
            self.raises[mode].update(words)

    def do_exit(self, rest):
        for word in rest.split():
            mode, _, code = word.partition("=")
            if mode not in MODES:
                raise RecipeError(f"no mode {mode}")
            self.exits[mode] = int(code)

    def do_hits(self, rest):
        words = rest.split()
        if len(words) not in (1, 3):
            raise RecipeError("hits active|SNAPSHOT [OFFSET LENGTH]")
        ranges = self.hits.setdefault(words[0], [])
        if len(words) == 3:
            ranges.append((self.number(words[1]), self.number(words[2])))

    def do_keeps(self, rest):
        self.keeps.update(rest.split() or MODES[1:])
        if not self.keeps <= set(MODES[1:]):
            raise RecipeError("keeps [leaks] [all]")

    def do_refused(self, rest):
        self.refused.update(rest.split() or MODES)
        if not self.refused <= set(MODES):
            raise RecipeError("refused [check] [leaks] [all]")

    def do_differs(self, rest):
        match = re.match(r"^(\S+) (\S+) ours=(\S+) qemu=(\S+) reason=(.+)$", rest)
        if not match or not set(match[1].split(",")) <= set(STATES):
            raise RecipeError("differs STATE[,STATE] KEY ours=VALUE qemu=VALUE reason=SENTENCE")
        self.differs.append(Difference(match[1].split(","), match[2], match[3], match[4], match[5]))

    # ---- writing -------------------------------------------------------------------------------

    def save(self, path):
        """Writes the image to `path`, and the backing and data files beside it."""
        self.image.store.save(path)
        for name, (size, pattern) in self.side_files.items():
            with open(os.path.join(os.path.dirname(path) or ".", name), "wb") as out:
                out.write(bytes([pattern]) * min(size, 1 << 20))
                out.truncate(size)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", help="recipe file, - for standard input")
    parser.add_argument("image", help="image file to write")
    args = parser.parse_args()
    try:
        with (sys.stdin if args.recipe == "-" else open(args.recipe, encoding="utf-8")) as file:
            Recipe(file.read()).save(args.image)
    except (RecipeError, OSError) as error:
        sys.exit(f"mkqcow2: {error}")


if __name__ == "__main__":
    main()
