#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""datahash.py FILE: a sha256 of all 4 KiB blocks that are not zero, with their places; holes cost no time.

datahash.py FILE MAP: of what lies where MAP, a sparse file, has data: a device has no holes. datahash.py --copy FROM TO: the data
of a sparse file, to the same places.
"""
import hashlib
import os
import sys

STEP = 1 << 20


def pieces(fd):
    """(offset, length) of what is not a hole, in pieces of at most 1 MiB."""
    size, at = os.lseek(fd, 0, os.SEEK_END), 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            return
        at = os.lseek(fd, start, os.SEEK_HOLE)
        for offset in range(start & ~4095, at, STEP):
            yield offset, min(STEP, at - offset)


def data_hash(fd, where):
    total, zeros = hashlib.sha256(), bytes(4096)
    for offset, length in pieces(where):
        data = os.pread(fd, length, offset)
        for i in range(0, length, 4096):
            block = data[i:i + 4096]
            if block != zeros[:len(block)]:
                total.update(b'%d ' % (offset + i) + block)
    return total.hexdigest()


def main():
    if sys.argv[1] == '--copy':
        source, target = os.open(sys.argv[2], os.O_RDONLY), os.open(sys.argv[3], os.O_WRONLY)
        for offset, length in pieces(source):
            os.pwrite(target, os.pread(source, length, offset), offset)
        os.fsync(target)
        return
    fd = os.open(sys.argv[1], os.O_RDONLY)
    print(data_hash(fd, os.open(sys.argv[2], os.O_RDONLY) if len(sys.argv) > 2 else fd))


main()
