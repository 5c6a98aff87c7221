#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""client.py POOL VOLUME MODE: a stock client of the streaming door; client.py REQUEST: of the control door. Prints what comes."""
import sys

import libvirt

OPS = {'check': 0, 'leaks': 1, 'all': 2, 'undo': 3}


def main():
    connection = libvirt.open('qemu:///system')
    if len(sys.argv) == 2:
        print(connection.findStoragePoolSources('dir', sys.argv[1], 0))
        return
    volume = connection.storagePoolLookupByName(sys.argv[1]).storageVolLookupByName(sys.argv[2])
    stream = connection.newStream(0)
    volume.download(stream, 0x7265706169720000 + OPS[sys.argv[3]], 0, 0)
    while data := stream.recv(65536):
        sys.stdout.write(data.decode())
        sys.stdout.flush()
    stream.finish()


main()
