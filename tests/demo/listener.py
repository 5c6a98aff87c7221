#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""listener.py: a client with nothing but stock libvirt-python: hears refresh events, fetches reports, prints JSON lines."""
import json
import sys
import threading

import libvirt

REPORT_POOL = 'vol-repair'


def download(connection, volume):
    stream = connection.newStream()
    volume.download(stream, 0, 0)
    parts = []
    stream.recvAll(lambda _stream, data, parts: parts.append(data), parts)
    stream.finish()
    return b''.join(parts)


def fetch_reports(connection, pool_name, seen):
    """Yields (name of the volume, parsed JSON) of the pool's files that are new or have changed."""
    pool = connection.storagePoolLookupByName(pool_name)
    for volume in pool.listAllVolumes():
        try:
            text = download(connection, volume)
        except libvirt.libvirtError:
            continue  # gone since it was listed: a report in the making, or too old to be kept
        if text and seen.get(volume.name()) != text:
            seen[volume.name()] = text
            yield volume.name(), json.loads(text)


def say(**what):
    print(json.dumps(what), flush=True)


def main():
    libvirt.virEventRegisterDefaultImpl()
    connection = libvirt.open(sys.argv[1])
    heard, seen = threading.Semaphore(0), {}
    names = []

    def refreshed(_connection, pool, _opaque):
        names.append(pool.name())
        heard.release()

    connection.storagePoolEventRegisterAny(None, libvirt.VIR_STORAGE_POOL_EVENT_ID_REFRESH, refreshed, None)

    def pump():
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=pump, daemon=True).start()
    say(listening=sys.argv[1])
    while True:
        heard.acquire()
        name = names.pop(0)
        say(event='refresh', pool=name)
        if name == REPORT_POOL:
            for file, content in fetch_reports(connection, name, seen):
                say(file=file, content=content)


if __name__ == '__main__':
    main()
