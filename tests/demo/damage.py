# SPDX-License-Identifier: LGPL-2.1-or-later
"""damage.py: real damage for the demo: a qemu killed in the middle of writes, and the three ways refcounts go wrong."""
import json
import os
import signal
import struct
import subprocess
import time

COPIED = 1 << 63
OFFSET_MASK = 0x00fffffffffffe00


class Metadata:
    """The tables of a qcow2 version 3 image with 16-bit refcounts, by position. Reads and writes in place."""

    def __init__(self, path):
        self.file = open(path, 'r+b', buffering=0)
        header = self.at(0, 104)
        magic, version, bits, order = struct.unpack('>4sI12xI72xI4x', header)
        assert (magic, version, order) == (b'QFI\xfb', 3, 4), 'the demo damages only images that it made'
        self.cluster = 1 << bits
        l1_size, self.l1_offset, self.table_offset, table_clusters = struct.unpack('>IQQI', header[36:60])
        self.l1 = self.entries(self.l1_offset, l1_size)
        self.blocks = [b for b in self.entries(self.table_offset, table_clusters * self.cluster // 8) if b]
        self.file_clusters = -(-os.fstat(self.file.fileno()).st_size // self.cluster)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.fsync(self.file.fileno())
        self.file.close()

    def at(self, offset, length):
        return os.pread(self.file.fileno(), length, offset)

    def put(self, offset, data):
        os.pwrite(self.file.fileno(), data, offset)

    def entries(self, offset, count):
        return list(struct.unpack(f'>{count}Q', self.at(offset, 8 * count)))

    def refcount_at(self, cluster):
        block, index = divmod(cluster, self.cluster // 2)
        return self.blocks[block] + 2 * index

    def refcount(self, cluster):
        return struct.unpack('>H', self.at(self.refcount_at(cluster), 2))[0]

    def set_refcount(self, cluster, value):
        self.put(self.refcount_at(cluster), struct.pack('>H', value))

    def mapped(self):
        """(position of the L2 entry, entry) of each guest cluster that has a host cluster, in guest order."""
        for table in (e & OFFSET_MASK for e in self.l1):
            if table:
                for i, entry in enumerate(self.entries(table, self.cluster // 8)):
                    if entry & OFFSET_MASK:
                        yield table + 8 * i, entry


def leak_clusters(path, count):
    """Adds clusters to the file that have a refcount and that nothing uses."""
    with Metadata(path) as m:
        first = m.file_clusters
        os.ftruncate(m.file.fileno(), (first + count) * m.cluster)
        for cluster in range(first, first + count):
            m.put(cluster * m.cluster, b'lost' * (m.cluster // 4))
            m.set_refcount(cluster, 1)


def zero_refcounts(path, count):
    """Marks clusters that hold guest data as free, and the first L2 table with them."""
    with Metadata(path) as m:
        clusters = [(entry & OFFSET_MASK) // m.cluster for _, entry in m.mapped()][:count]
        clusters.append(next(e & OFFSET_MASK for e in m.l1 if e) // m.cluster)
        for cluster in clusters:
            m.set_refcount(cluster, 0)


def flip_copied(path, count):
    """Inverts the COPIED flag of L2 entries, and of the first L1 entry."""
    with Metadata(path) as m:
        for position, entry in list(m.mapped())[:count]:
            m.put(position, struct.pack('>Q', entry ^ COPIED))
        index = next(i for i, e in enumerate(m.l1) if e)
        m.put(m.l1_offset + 8 * index, struct.pack('>Q', m.l1[index] ^ COPIED))


class Qemu:
    """A qemu that has an image open and serves it as an NBD disk. Leave it by kill() or by its context's end."""

    def __init__(self, path, socket):
        drive = {'driver': 'qcow2', 'node-name': 'disk', 'lazy-refcounts': True,
                 'file': {'driver': 'file', 'filename': str(path)}}
        self.child = subprocess.Popen(['qemu-system-x86_64', '-machine', 'none', '-nodefaults', '-display', 'none', '-S',
                                       '-qmp', 'stdio', '-blockdev', json.dumps(drive)],
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            self.child.stdout.readline()
            self.ask('qmp_capabilities')
            self.ask('nbd-server-start', addr={'type': 'unix', 'data': {'path': str(socket)}})
            self.ask('block-export-add', type='nbd', id='disk', **{'node-name': 'disk'}, writable=True)
        except BaseException:
            self.kill()
            raise
        self.url = f'nbd+unix:///disk?socket={socket}'

    def ask(self, command, **arguments):
        self.child.stdin.write(json.dumps({'execute': command, 'arguments': arguments}) + '\n')
        self.child.stdin.flush()
        for line in self.child.stdout:
            answer = json.loads(line)
            if 'error' in answer:
                raise RuntimeError(f'qemu: {command}: {answer["error"]["desc"]}')
            if 'return' in answer:
                return answer['return']
        raise RuntimeError(f'qemu ended before it answered to {command}')

    def kill(self):
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGKILL)
        self.child.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


def crash_qemu(path, guest_disk, quiet_from, socket):
    """
    A qemu takes `guest_disk` into the image and confirms it as flushed, then writes on behind the offset
    `quiet_from`, and is killed meanwhile. Returns how many bytes the file had grown by at the kill.
    """
    with Qemu(path, socket) as qemu:
        subprocess.run(['qemu-img', 'convert', '-n', '-f', 'raw', '-O', 'raw', str(guest_disk), qemu.url], check=True)
        before = os.stat(path).st_size
        room = int(json.loads(subprocess.run(['qemu-img', 'info', '--output=json', '-f', 'raw', qemu.url], check=True,
                                             stdout=subprocess.PIPE).stdout)['virtual-size']) - quiet_from
        writer = subprocess.Popen(['qemu-img', 'bench', '-w', '-n', '-t', 'none', '-f', 'raw', '-d', '32', '-s', '4096',
                                   '-S', '65536', '-o', str(quiet_from), '-c', str(room // 65536 - 1), qemu.url],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 30
            while os.stat(path).st_size < before + (16 << 20):
                if writer.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError('the writes ended before qemu could be killed')
                time.sleep(0.002)
            qemu.kill()
            return os.stat(path).st_size - before
        finally:
            writer.kill()
            writer.wait()
