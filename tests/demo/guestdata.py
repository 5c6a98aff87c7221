# SPDX-License-Identifier: LGPL-2.1-or-later
"""guestdata.py: what is inside the demo's disks: an ext4 file system full of files, and how to look at it from outside."""
import os
import random
import subprocess

FS_SIZE = 96 << 20     # the file system; a disk may be longer
DISK_SIZE = 8 << 30


def make_filesystem(work):
    """Returns the path of a raw ext4 file system with a few hundred files in it."""
    tree, raw = work / 'tree', work / 'guest.ext4'
    dice = random.Random(42)
    for folder in ('etc', 'home/ann', 'home/bob', 'var/mail'):
        (tree / folder).mkdir(parents=True)
        for i in range(60):
            (tree / folder / f'file-{i:03}').write_bytes(dice.randbytes(dice.choice((100, 5000, 70000, 400000))))
    (tree / 'etc' / 'hostname').write_text('precious\n')
    with open(raw, 'wb') as file:
        file.truncate(FS_SIZE)
    subprocess.run(['mke2fs', '-q', '-t', 'ext4', '-F', '-d', str(tree), str(raw)], check=True)
    return raw


def make_disk(path, guest_disk, **options):
    """A qcow2 image of DISK_SIZE with the file system at its start; without one if guest_disk is None."""
    extra = ['-o', ','.join(f'{k}={v}' for k, v in options.items())] if options else []
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', *extra, str(path), str(DISK_SIZE)], check=True)
    if guest_disk:
        subprocess.run(['qemu-img', 'convert', '-n', '-f', 'raw', '-O', 'qcow2', str(guest_disk), str(path)], check=True)


def read_back(path, work):
    """The file system inside the image as a raw file: read by qemu-img, not by us."""
    raw = work / 'read-back.raw'
    subprocess.run(['qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', str(path), str(raw)], check=True)
    os.truncate(raw, FS_SIZE)
    return raw


def fsck(raw):
    """(clean?, e2fsck's last line)"""
    done = subprocess.run(['e2fsck', '-f', '-n', str(raw)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    return done.returncode == 0, done.stdout.strip().splitlines()[-1]
