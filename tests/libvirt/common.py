# SPDX-License-Identifier: LGPL-2.1-or-later
# What the tests share: labs with a chosen helper, libvirt connections, jobs by each door, real images and damage.
import contextlib
import json
import os
import struct
import subprocess
import threading
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import jsonschema
import libvirt

from lab import Lab, wait_until

HERE = Path(__file__).resolve().parent
MAGIC = 0x7265706169720000
OPS = {'check': 0, 'leaks': 1, 'all': 2, 'undo': 3}
CLUSTER = 65536


class Skip(Exception):
    """The test cannot run here; the text says why."""


class Context:
    """Given to each test. build: the build directory. tmp: a directory of the test's own."""

    def __init__(self, build, tmp):
        self.build = Path(build).resolve()
        self.tmp = Path(tmp)
        self.program = self.build / 'plugin' / 'cli' / 'vol-repair'

    def lab(self, helper=None, settings=None, **kwargs):
        """helper: name of a script in scripted-helper.py, or None for the real program."""
        settings = dict(settings or {})
        if helper:
            settings['helper'] = str(self.script(helper))
        elif 'helper' not in settings and not self.program.exists():
            raise Skip('vol-repair is not built')
        return Lab(self.build, settings=settings, **kwargs)

    def script(self, name):
        path = self.tmp / f'helper-{name}'
        if not path.exists():
            path.symlink_to(HERE / 'scripted-helper.py')
        return path


# ---- connections ----

@contextlib.contextmanager
def connection(lab):
    conn = libvirt.open(lab.uri)
    try:
        yield conn
    finally:
        conn.close()


def volume(conn, name, pool='default'):
    return conn.storagePoolLookupByName(pool).storageVolLookupByName(name)


def expect_error(code, call, *args):
    """Calls; returns the libvirt error's text, which must have this code."""
    try:
        call(*args)
    except libvirt.libvirtError as e:
        assert e.get_error_code() == code, f'error {e.get_error_code()}, not {code}: {e}'
        return str(e)
    raise AssertionError('no error')


# ---- the doors ----

class StreamJob:
    """A job by the streaming door. lines: the objects received so far."""

    def __init__(self, conn, vol, mode, token=0):
        self.stream = conn.newStream()
        vol.download(self.stream, MAGIC + OPS[mode], token, 0)
        self.lines = []
        self.buffer = b''

    def next(self):
        """The next object; None at the end."""
        while b'\n' not in self.buffer:
            data = self.stream.recv(65536)
            if not data:
                self.stream.finish()
                assert not self.buffer, f'an unfinished line: {self.buffer[:200]}'
                return None
            self.buffer += data
        line, self.buffer = self.buffer.split(b'\n', 1)
        self.lines.append(json.loads(line))
        return self.lines[-1]

    def until(self, event):
        while line := self.next():
            if line['event'] == event:
                return line
        return None

    def report(self):
        """Reads to the end; the report, or None."""
        while self.next():
            pass
        last = self.lines[-1] if self.lines else {}
        return last['report'] if last.get('event') == 'report' else None

    def abort(self):
        self.stream.abort()


def repair(conn, name, mode, token=0, pool='default'):
    """A whole job by the streaming door; its report."""
    return StreamJob(conn, volume(conn, name, pool), mode, token).report()


def report_xml(name, form='raw', extra=''):
    return f"<volume><name>{name}</name><capacity>0</capacity><target><format type='{form}'/>{extra}</target></volume>"


def create_from(conn, name, mode, pool='default', source_pool=None, **kwargs):
    """A whole job by the create-from door; the report volume."""
    source = volume(conn, name, source_pool or pool)
    xml = report_xml(f'{name}.repair-{mode}.json', **kwargs)
    return conn.storagePoolLookupByName(pool).createXMLFrom(xml, source, 0)


def read_volume(conn, vol):
    stream = conn.newStream()
    vol.download(stream, 0, 0, 0)
    data = b''
    while chunk := stream.recv(65536):
        data += chunk
    stream.finish()
    return data


def control(conn, request):
    return conn.findStoragePoolSources('dir', request, 0)


def check_schema(report):
    """The report is what docs/report.schema.json promises."""
    schema = json.loads((HERE.parent.parent / 'docs' / 'report.schema.json').read_text())
    jsonschema.validate(report, schema)


def jobs(conn):
    """The job list as dictionaries of attributes, newest first."""
    return [dict(job.attrib) for job in ElementTree.fromstring(control(conn, "<vol-repair request='jobs'/>"))]


def wait_for_state(conn, state, seconds=10):
    """Waits until the newest job is in this state."""
    found = wait_until(lambda: [j for j in jobs(conn)[:1] if j['state'] == state], seconds)
    assert found, f'no job became {state}: {jobs(conn)}'
    return found[0]


# ---- events ----

class Listener:
    """A second client that notes REFRESH events: a stock connection and libvirt's own event loop."""
    loop = None

    def __init__(self, lab):
        if not Listener.loop:
            libvirt.virEventRegisterDefaultImpl()
            Listener.loop = threading.Thread(target=self._run, daemon=True)
            Listener.loop.start()
        self.pools = []
        self.conn = libvirt.open(lab.uri)
        self.callback = self.conn.storagePoolEventRegisterAny(
            None, libvirt.VIR_STORAGE_POOL_EVENT_ID_REFRESH, lambda conn, pool, opaque: self.pools.append(pool.name()),
            None)

    @staticmethod
    def _run():
        while True:
            libvirt.virEventRunDefaultImpl()

    def wait_for(self, pool, count, seconds=10):
        wait_until(lambda: self.pools.count(pool) >= count, seconds)
        assert self.pools.count(pool) >= count, f'{count} events of {pool} expected, heard: {self.pools}'

    def close(self):
        self.conn.storagePoolEventDeregisterAny(self.callback)
        self.conn.close()


# ---- images ----

def disk(lab, name='disk.qcow2'):
    """An empty volume, known to the pool; its path."""
    path = lab.pool_dir / name
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', path, '1M'], check=True)
    refresh(lab)
    return path


def make_image(lab, name='disk.qcow2', size='64M', data='8M'):
    """A healthy qcow2 volume with some data, known to the pool; its path."""
    path = lab.pool_dir / name
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', path, size], check=True)
    if data:
        subprocess.run(['qemu-io', '-f', 'qcow2', '-c', f'write -q -P 0x5a 0 {data}', path], check=True,
                       stdout=subprocess.DEVNULL)
    refresh(lab)
    return path


def refresh(lab):
    done = lab.virsh('pool-refresh', 'default')
    assert done.returncode == 0, done.stderr


def leak(path, count):
    """Gives `count` new clusters at the image's end a reference that nothing holds (default geometry only)."""
    with open(path, 'r+b') as f:
        header = f.read(64)
        table, = struct.unpack_from('>Q', header, 48)
        assert header[:4] == b'QFI\xfb' and struct.unpack_from('>I', header, 20)[0] == 16
        f.seek(table)
        block, = struct.unpack('>Q', f.read(8))
        first = (os.fstat(f.fileno()).st_size + CLUSTER - 1) // CLUSTER
        assert first + count <= 32768, 'more than one refcount block'
        f.truncate((first + count) * CLUSTER)
        f.seek(block + 2 * first)
        f.write(b'\0\1' * count)


def qemu_check(path):
    """qemu-img check's own document."""
    done = subprocess.run(['qemu-img', 'check', '--output=json', '-f', 'qcow2', path], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, check=False)
    return json.loads(done.stdout)


@contextlib.contextmanager
def qemu_with(path):
    """A virtual machine, stopped, that has the image attached; yields the process once it holds its locks."""
    argv = ['qemu-system-x86_64', '-S', '-nodefaults', '-display', 'none', '-machine', 'accel=tcg', '-monitor', 'stdio',
            '-drive', f'file={path},format=qcow2,if=virtio']
    vm = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        vm.greeting = vm.stdout.readline()
        yield vm
    finally:
        vm.kill()
        vm.wait()
        vm.stdin.close()
        vm.stdout.close()


