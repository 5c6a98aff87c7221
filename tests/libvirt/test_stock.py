# SPDX-License-Identifier: LGPL-2.1-or-later
# With the extension loaded, everything else libvirt does with pools and volumes is as it was.
import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import libvirt

from common import Skip, StreamJob, connection, create_from, expect_error, read_volume, report_xml, volume

LAB = Path(__file__).resolve().parent / 'lab.py'


def send(conn, vol, data, offset=0):
    stream = conn.newStream()
    vol.upload(stream, offset, len(data), 0)
    stream.sendAll(lambda _stream, count, state: state.read(count), Bytes(data))
    stream.finish()


class Bytes:
    def __init__(self, data):
        self.data = data

    def read(self, count):
        head, self.data = self.data[:count], self.data[count:]
        return head


def download(conn, vol, offset, length):
    stream = conn.newStream()
    vol.download(stream, offset, length, 0)
    data = b''
    while chunk := stream.recv(65536):
        data += chunk
    stream.finish()
    return data


def exercise(conn, pool_name):
    """Each volume operation once."""
    pool = conn.storagePoolLookupByName(pool_name)
    vol = pool.createXML("<volume><name>v.raw</name><capacity>1048576</capacity></volume>", 0)
    data = os.urandom(200000)
    send(conn, vol, data, 4096)
    assert download(conn, vol, 4096, 200000) == data
    assert download(conn, vol, 4096 + 1000, 17) == data[1000:1017]
    assert len(read_volume(conn, vol)) == 1048576
    copy = pool.createXMLFrom(report_xml('copy.raw'), vol, 0)
    assert read_volume(conn, copy) == read_volume(conn, vol)
    copy.wipe(0)
    assert read_volume(conn, copy) == bytes(1048576)
    vol.resize(2097152, 0)
    assert vol.info()[1] == 2097152
    pool.refresh(0)
    assert {'v.raw', 'copy.raw'} <= set(pool.listVolumes())
    qcow2 = pool.createXML("<volume><name>v.qcow2</name><capacity>1048576</capacity>"
                           "<target><format type='qcow2'/></target></volume>", 0)
    converted = pool.createXMLFrom(report_xml('converted.raw'), qcow2, 0)
    for each in (vol, copy, qcow2, converted):
        each.delete(0)


def test_volume_operations(t):
    with t.lab('clean') as lab, connection(lab) as conn:
        exercise(conn, 'default')
        assert 'vol-repair' not in conn.listStoragePools(), 'a pool of ours without a job'


def test_volume_operations_during_a_job(t):
    """Other volumes of a pool in which a streaming repair runs."""
    with t.lab('slow') as lab, connection(lab) as conn:
        lab.virsh('vol-create-as', 'default', 'disk.qcow2', '1M', '--format', 'qcow2')
        job = StreamJob(conn, volume(conn, 'disk.qcow2'), 'all')
        assert job.until('progress')
        with connection(lab) as other:
            exercise(other, 'default')
        assert job.until('progress'), 'the repair went on'
        job.abort()


def test_pool_operations(t):
    with t.lab('clean') as lab, connection(lab) as conn:
        target = lab.dir / 'second'
        xml = f"<pool type='dir'><name>second</name><target><path>{target}</path></target></pool>"
        pool = conn.storagePoolDefineXML(xml, 0)
        pool.build(0)
        pool.create(0)
        exercise(conn, 'second')
        pool.destroy()
        pool.delete(0)
        pool.undefine()
        assert not target.exists()
        expect_error(libvirt.VIR_ERR_NO_STORAGE_POOL, conn.storagePoolLookupByName, 'second')


def test_report_volume_is_a_volume(t):
    """A report can be cloned, resized and deleted like any raw volume, and repaired by nobody."""
    with t.lab('clean') as lab, connection(lab) as conn:
        lab.virsh('vol-create-as', 'default', 'disk.qcow2', '1M', '--format', 'qcow2')
        vol = create_from(conn, 'disk.qcow2', 'check')
        pool = conn.storagePoolLookupByName('default')
        copy = pool.createXMLFrom(report_xml('kept.json'), vol, 0)
        assert read_volume(conn, copy).rstrip(b'\0') == read_volume(conn, vol)
        expect_error(libvirt.VIR_ERR_OPERATION_UNSUPPORTED, create_from, conn, vol.name(), 'all')
        vol.delete(0)
        assert json_verdict(create_from(conn, 'disk.qcow2', 'check'), conn) == 'clean', 'the name is free again'


def json_verdict(vol, conn):
    return json.loads(read_volume(conn, vol))['verdict']


def test_daemon_restart(t):
    with t.lab('clean') as lab:
        lab.restart()
        with connection(lab) as conn:
            exercise(conn, 'default')


def in_a_session(t, settings, body):
    """Runs body as nobody, with a session daemon; it prints 'session: UID' at its end."""
    if os.geteuid() != 0:
        raise Skip('the other tests are this one where they do not run as root')
    nobody = pwd.getpwnam('nobody')
    become = ['setpriv', f'--reuid={nobody.pw_uid}', f'--regid={nobody.pw_gid}', '--clear-groups']
    if subprocess.run([*become, 'test', '-r', LAB], check=False, cwd='/').returncode != 0:
        raise Skip(f'nobody may not read {LAB.parent}')
    script = f'''
import sys
sys.path.insert(0, {str(LAB.parent)!r})
import os
from common import connection, control, create_from, jobs, leak, make_image, qemu_check, refresh, repair, wait_for_state
from lab import Lab
with Lab({str(t.build)!r}, settings={settings!r}) as lab, connection(lab) as conn:
{body}
    print('session:', os.geteuid())
'''
    env = {k: v for k, v in os.environ.items() if not k.startswith('XDG_')}
    done = subprocess.run([*become, sys.executable, '-c', script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env={**env, 'HOME': '/nonexistent'}, cwd='/', check=False)
    assert done.returncode == 0 and f'session: {nobody.pw_uid}' in done.stdout, done.stdout


def test_session_daemon(t):
    """The same as an ordinary user: a session daemon, with directories of its own."""
    in_a_session(t, {'helper': str(t.script('clean'))}, '''
    assert lab.virsh('vol-create-as', 'default', 'disk.qcow2', '1M', '--format', 'qcow2').returncode == 0
    argv = repair(conn, 'disk.qcow2', 'all')['argv']
    assert f"--report={lab.dir}/run/vol-repair/reports/job-1-disk.qcow2.json" in argv, argv
    assert create_from(conn, 'disk.qcow2', 'check').name() == 'disk.qcow2.repair-check.json'
    wait_for_state(conn, 'done')
    assert len(jobs(conn)) == 2''')


def test_session_repairs(t):
    """The real program without any right; by the process accelerator, since KVM is not every user's."""
    in_a_session(t, {'accel': 'process'}, '''
    path = make_image(lab, 'disk.qcow2')
    leak(path, 10)
    refresh(lab)
    report = repair(conn, 'disk.qcow2', 'leaks')
    assert report['verdict'] == 'repaired' and report['leaks-fixed'] == 10, report
    assert qemu_check(path).get('leaks', 0) == 0
    assert repair(conn, 'disk.qcow2', 'undo')['verdict'] == 'undone'
    assert qemu_check(path)['leaks'] == 10''')
