# SPDX-License-Identifier: LGPL-2.1-or-later
"""
damages.py: single damages to a sound image. Each is a line of text that says what it does to the file's bytes, so that it can be
done again.

    flip AT BIT            turns one bit of the byte at AT
    fill AT LENGTH WITH    WITH: zeros, ones, noise:SEED, or copy:FROM (the bytes of another place)
    entry HOW ONE OTHER SIZE   of two table entries: swap, double (ONE also stands in OTHER), move (double, and ONE is empty), drop

AT, FROM, ONE and OTHER are offsets in the file. Behind a `#` stands which structure that is, for a person.
"""
import random

SECTOR = 512
SMALL = ('header', 'extensions', 'snapshots')  # structures of which every bit is worth a try


# ---- what a damage does ------------------------------------------------------------------------------------


def flip(data, at, bit):
    data[int(at, 0)] ^= 1 << int(bit)


def fill(data, at, length, what):
    at, length = int(at, 0), int(length)
    kind, _, value = what.partition(':')
    data[at:at + length] = {
        'zeros': lambda: bytes(length), 'ones': lambda: b'\xff' * length,
        'noise': lambda: random.Random(int(value)).randbytes(length),
        'copy': lambda: bytes(data[int(value, 0):int(value, 0) + length]).ljust(length, b'\0')}[kind]()


def entry(data, how, one, other, size):
    one, other, size = int(one, 0), int(other, 0), int(size)
    first, second = bytes(data[one:one + size]), bytes(data[other:other + size])
    if how != 'double':
        data[one:one + size] = second if how == 'swap' else bytes(size)
    if how != 'drop':
        data[other:other + size] = first


def damaged(sound, line):
    """The bytes of the sound image with this one damage."""
    data = bytearray(sound.data)
    verb, *words = line.split('#')[0].split()
    {'flip': flip, 'fill': fill, 'entry': entry}[verb](data, *words)
    return bytes(data[:len(sound.data)])


# ---- which there are ---------------------------------------------------------------------------------------


def every_bit(sound):
    """A flip of each bit of header, extensions, backing name and snapshot table."""
    for name, at, length in sound.parts.structures():
        if name.startswith(('backing name', *SMALL)):
            yield from (flip_at(name, at, byte, bit) for byte in range(length) for bit in range(8))


def flip_at(name, at, byte, bit):
    return f'flip {at + byte:#x} {bit}  # {name}, byte {byte}'


def in_use(sound, at, length):
    """Offsets of the 8-byte words of a structure that are not 0; of all where none is."""
    words = [at + i for i in range(0, length, 8) if any(sound.data[at + i:at + i + 8])]
    return words or list(range(at, at + length, 8))


def flip_small(sound, dice):
    name, at, length = dice.choice([s for s in sound.parts.structures() if s[0].startswith(SMALL)])
    return flip_at(name, at, dice.randrange(length), dice.randrange(8))


def flip_table(sound, dice):
    """Of a table: mostly of an entry in use, for most are not."""
    name, at, length = dice.choice([s for s in sound.parts.structures() if not s[0].startswith(SMALL)])
    word = dice.choice(in_use(sound, at, length)) if dice.random() < 0.9 else at + 8 * dice.randrange(max(1, length // 8))
    return flip_at(name, at, min(length - 1, word - at + dice.randrange(8)), dice.randrange(8))


def entries(sound, dice):
    """
    Entries of one table, L1 or L2. Of L2 tables none is dropped, nor moved onto another: what is left then is a leaked data
    cluster and no more, as a crash between two writes leaves it, which a repair is meant to free.
    """
    tables = [s for s in sound.parts.structures() if s[0].split('.')[-1].startswith(('l1', 'l2'))]
    name, at, length = dice.choice([s for s in tables if ('l1' in s[0]) == (dice.random() < 0.5)] or tables)
    size = sound.parts.l2_entry_size if 'l2' in name else 8
    used = sorted({at + (word - at) // size * size for word in in_use(sound, at, length)})
    one = dice.choice(used)
    other = dice.choice(used) if dice.random() < 0.6 else at + size * dice.randrange(length // size)
    hows = ('swap', 'double', 'move', 'drop') if 'l1' in name else ('swap', 'double') if other in used else ('double', 'move')
    how = dice.choice(hows)
    return f'entry {how} {one:#x} {other:#x} {size}  # {name}, entries {(one - at) // size} and {(other - at) // size}'


def filling(sound, dice, length):
    _, other, _ = dice.choice(sound.parts.structures())
    return dice.choice(('zeros', 'zeros', 'ones', f'noise:{dice.randrange(1 << 16)}', f'copy:{other:#x}'))


def fill_structure(sound, dice):
    name, at, length = dice.choice(sound.parts.structures())
    return f'fill {at:#x} {length} {filling(sound, dice, length)}  # {name}'


def fill_sector(sound, dice):
    name, at, length = dice.choice(sound.parts.structures())
    sector = dice.choice(in_use(sound, at, length)) // SECTOR * SECTOR
    return f'fill {sector:#x} {SECTOR} {filling(sound, dice, SECTOR)}  # {name}, the sector at byte {sector - at}'


RANDOM = (flip_small, flip_small, flip_table, flip_table, entries, fill_structure, fill_sector)


def one(sound, dice):
    """A random damage, that changes something."""
    for _ in range(100):
        line = dice.choice(RANDOM)(sound, dice)
        if damaged(sound, line) != sound.data:
            return line
    raise AssertionError(f'{sound.kind}: no damage changes the image')
