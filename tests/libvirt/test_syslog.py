# SPDX-License-Identifier: LGPL-2.1-or-later
# What the system's log says of loading and of jobs: a socket of the test's own stands where journald or syslogd would listen.
import os
import shlex
import socket
import subprocess

from common import Skip, connection, create_from, leak, make_image, repair, StreamJob, volume, wait_for_state
from lab import Lab, wait_until

LOADED, STARTED, ENDED = ('9676e6c1266b426fb5f916ac64fa57ac', '101db182bd7249528d2077d294030816',
                          '8e0059778d6743c59c7b68dc3da6a9c2')
DEVICES = 'null zero full random urandom tty kvm'


class Log:
    """A datagram socket and what has come by it."""

    def __init__(self, path):
        if os.geteuid() != 0:
            raise Skip('needs root, for a system daemon with a /run of its own')
        path.parent.mkdir(parents=True, exist_ok=True)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(path))
        self.sock.setblocking(False)
        self.raw = []

    def _read(self):
        while True:
            try:
                self.raw.append(self.sock.recv(1 << 20))
            except BlockingIOError:
                return

    def entries(self):
        """Each entry of journald's protocol as a dictionary of bytes."""
        self._read()
        return [parse(data) for data in self.raw]

    def lines(self):
        self._read()
        return [data.decode() for data in self.raw]

    def wait_for(self, kind, count=1):
        def found():
            return [e for e in self.entries() if e.get('MESSAGE_ID') == kind.encode()]
        assert wait_until(lambda: len(found()) >= count, 10), self.entries()
        return found()


def parse(data):
    """https://systemd.io/JOURNAL_NATIVE_PROTOCOL/: NAME=text, or NAME, a length and bytes."""
    fields = {}
    while data:
        line, data = data.split(b'\n', 1)
        name, equals, value = line.partition(b'=')
        if not equals:
            size = int.from_bytes(data[:8], 'little')
            value, data = data[8:8 + size], data[8 + size + 1:]
        assert name.decode() not in fields, f'{name} twice'
        fields[name.decode()] = value
    return fields


def logged_lab(t, *args, **kwargs):
    if '-DHAVE_SYSTEMD=1' not in (t.build / 'compile_commands.json').read_text():
        raise Skip('built without libsystemd')
    lab = t.lab(*args, **kwargs)
    try:
        return lab, Log(lab.dir / 'run' / 'systemd' / 'journal' / 'socket')
    except Skip:
        lab.close()
        raise


def disk(lab, name='disk.qcow2'):
    path = os.fsencode(lab.pool_dir) + b'/' + os.fsencode(name)
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', path, '1M'], check=True)
    assert lab.virsh('pool-refresh', 'default').returncode == 0
    return path


def text(entry, name):
    return entry.get('VOL_REPAIR_' + name, b'').decode()


def test_loading(t):
    lab, log = logged_lab(t, 'clean')
    with lab:
        entry, = log.wait_for(LOADED)
        assert text(entry, 'STATE') == 'on' and text(entry, 'VERSION') and text(entry, 'LIBVIRT').count('.') == 2, entry
        assert entry['SYSLOG_IDENTIFIER'] == b'vol-repair' and entry['PRIORITY'] == b'5', entry
        assert 'is in use in libvirt' in entry['MESSAGE'].decode(), entry


def test_loading_in_vain(t):
    """Off, and why: a libvirt that is too new, a configuration that cannot be read, a switch."""
    for settings, reason in (({'newest_libvirt': '9000'}, 'is newer than newest_libvirt'), ({'memory': 'lots'}, 'is not'),
                             ({'enabled': '0'}, 'enabled = 0')):
        lab, log = logged_lab(t, 'clean', settings=settings)
        with lab:
            entry, = log.wait_for(LOADED)
            assert text(entry, 'STATE') == 'off' and reason in text(entry, 'REASON'), entry
            assert entry['PRIORITY'] == b'4' and reason in entry['MESSAGE'].decode(), entry


def test_start_and_end(t):
    lab, log = logged_lab(t, 'slow')
    with lab, connection(lab) as conn:
        path = disk(lab).decode()
        job = StreamJob(conn, volume(conn, 'disk.qcow2'), 'all')
        assert job.until('progress')
        entry, = log.wait_for(STARTED)
        common = {'JOB': '1', 'MODE': 'all', 'DOOR': 'stream', 'OWNER': 'uid:0', 'POOL': 'default', 'VOLUME': 'disk.qcow2',
                  'PATH': path}
        assert {name: text(entry, name) for name in common} == common, entry
        assert text(entry, 'PID') == str(job.lines[0]['pid']), entry
        assert entry['MESSAGE'] == b"job 1, all of 'disk.qcow2' for uid:0, has started", entry
        job.abort()
        entry, = log.wait_for(ENDED)
        assert {name: text(entry, name) for name in common} == common, entry
        end = {name: text(entry, name) for name in ('VERDICT', 'EXIT_CODE', 'ERROR', 'IMAGE_CHANGED', 'UNDO', 'REPORT')}
        assert end == {'VERDICT': 'failed', 'EXIT_CODE': '1', 'ERROR': 'aborted', 'IMAGE_CHANGED': 'no', 'UNDO': '',
                       'REPORT': text(entry, 'REPORT')}, end
        assert text(entry, 'REPORT').endswith('/vol-repair/reports/job-1-disk.qcow2.json'), entry
        assert entry['PRIORITY'] == b'4' and int(text(entry, 'SECONDS')) < 30, entry


def test_repair(t):
    """The real program: the verdict, and the journal by which it is taken back."""
    lab, log = logged_lab(t, settings={'accel': 'process'})
    with lab, connection(lab) as conn:
        leak(make_image(lab), 3)
        assert repair(conn, 'disk.qcow2', 'leaks')['verdict'] == 'repaired'
        entry, = log.wait_for(ENDED)
        assert (text(entry, 'VERDICT'), text(entry, 'IMAGE_CHANGED'), entry['PRIORITY']) == ('repaired', 'yes', b'5'), entry
        assert text(entry, 'UNDO').endswith('.undo'), entry
        assert repair(conn, 'disk.qcow2', 'undo')['verdict'] == 'undone'
        assert text(log.wait_for(ENDED, 2)[1], 'VERDICT') == 'undone'


def test_create_from(t):
    lab, log = logged_lab(t, 'clean')
    with lab, connection(lab) as conn:
        disk(lab)
        create_from(conn, 'disk.qcow2', 'check')
        entry, = log.wait_for(ENDED)
        assert text(entry, 'DOOR') == 'create', entry
        assert text(entry, 'REPORT') == str(lab.pool_dir / 'disk.qcow2.repair-check.json'), entry


def test_death(t):
    lab, log = logged_lab(t, 'die-in-commit')
    with lab, connection(lab) as conn:
        disk(lab)
        repair(conn, 'disk.qcow2', 'all')
        entry, = log.wait_for(ENDED)
        assert text(entry, 'VERDICT') == 'failed' and text(entry, 'IMAGE_CHANGED') == 'yes', entry
        assert text(entry, 'ERROR') == 'the repair program was killed by signal 11', entry


def test_hostile_names(t):
    """A name is data: it makes neither a field nor a line, and no control character comes through."""
    lab, log = logged_lab(t, 'clean')
    names = [b'a\nMESSAGE=mine\nVOL_REPAIR_VERDICT=clean.qcow2', b'b\x1b[2J\xff\xfe.qcow2', 'c\u202e\u009b.qcow2'.encode(),
             b'd\\x41".qcow2']
    shown = [r'a\x0aMESSAGE=mine\x0aVOL_REPAIR_VERDICT=clean.qcow2', r'b\x1b[2J\xff\xfe.qcow2',
             r'c\xe2\x80\xae\xc2\x9b.qcow2', r'd\\x41".qcow2']
    with lab, connection(lab) as conn:
        for name in names:
            disk(lab, os.fsdecode(name))
        done = 0
        for name in names:
            argv = ['/usr/bin/virsh', 'vol-download', os.fsencode(lab.pool_dir) + b'/' + name, '/dev/null',
                    '--offset', str(0x7265706169720000)]
            done += lab.run(argv, text=False).returncode == 0
        # libvirt itself leaves out names with control characters.
        assert done >= 2, 'no name got as far as a job'
        found = {text(entry, 'VOLUME') for entry in log.wait_for(ENDED, done)}
        assert len(found) == done and found <= set(shown), found
        for entry in log.entries():
            assert b'\n' not in b''.join(entry.values()) and b'\x1b' not in b''.join(entry.values()), entry
        assert wait_for_state(conn, 'done')


class SyslogLab(Lab):
    """With a /dev of its own, for the sake of /dev/log."""

    def _mounts(self):
        dev = shlex.quote(str(self.dir / 'dev'))
        return super()._mounts() + [
            f'for n in {DEVICES}; do [ ! -e /dev/$n ] || {{ touch {dev}/$n; mount --bind /dev/$n {dev}/$n; }}; done',
            f'mount --rbind {dev} /dev']


def test_without_journald(t):
    """Lines for syslog instead, the facts behind the sentence."""
    lab = SyslogLab(t.build, settings={'helper': str(t.script('clean'))})
    log = Log(lab.dir / 'dev' / 'log')
    with lab, connection(lab) as conn:
        disk(lab, 'a "b\\.qcow2')
        assert repair(conn, 'a "b\\.qcow2', 'check')['verdict'] == 'clean'
        assert wait_until(lambda: any(ENDED in line for line in log.lines()), 10), log.lines()
        line = next(line for line in log.lines() if ENDED in line)
        assert r'''vol-repair: job 1, check of 'a "b\\.qcow2' for uid:0, has ended: clean [id=''' in line, line
        assert r'job="1" mode="check" door="stream" owner="uid:0" pool="default" volume="a \"b\\.qcow2" path="' in line, line
        assert 'verdict="clean" exit-code="0"' in line and line.startswith('<29>'), line
        assert any(f'[id={LOADED} state="on"' in line for line in log.lines()), log.lines()
