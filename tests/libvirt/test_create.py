# SPDX-License-Identifier: LGPL-2.1-or-later
# The create-from door, by stock virsh and by libvirt-python.
import json
import os
import stat
import threading

import libvirt

from common import (StreamJob, connection, control, create_from, expect_error, jobs, read_volume, report_xml, volume,
                    wait_for_state)
from lab import wait_until


def disk(lab, name='disk.qcow2', pool='default'):
    done = lab.virsh('vol-create-as', pool, name, '1M', '--format', 'qcow2')
    assert done.returncode == 0, done.stderr


def in_background(lab, name, mode):
    """A create-from job on a connection of its own; a thread with .error when it failed."""
    def run():
        with connection(lab) as conn:
            try:
                create_from(conn, name, mode)
            except libvirt.libvirtError as e:
                thread.error = e
    thread = threading.Thread(target=run)
    thread.error = None
    thread.start()
    return thread


def test_by_stock_virsh(t):
    xml, out = t.tmp / 'report.xml', t.tmp / 'out.json'
    xml.write_text(report_xml('disk.qcow2.repair-all.json'))
    with t.lab('clean') as lab:
        disk(lab)
        done = lab.virsh('vol-create-from', 'default', str(xml), 'disk.qcow2', '--inputpool', 'default')
        assert done.returncode == 0 and 'Vol disk.qcow2.repair-all.json created' in done.stdout, done.stderr
        done = lab.virsh('vol-download', '--pool', 'default', 'disk.qcow2.repair-all.json', str(out))
        assert done.returncode == 0, done.stderr
        report = json.loads(out.read_text())
        assert (report['mode'], report['verdict']) == ('all', 'clean')


def test_report_volume(t):
    """Its size is that of the report, at once; nothing is left of the blocks that stood for progress."""
    with t.lab('clean') as lab, connection(lab) as conn:
        disk(lab)
        vol = create_from(conn, 'disk.qcow2', 'check')
        text = (lab.pool_dir / vol.name()).read_bytes()
        assert vol.info()[1:] == [len(text), 4096], vol.info()
        assert json.loads(text)['verdict'] == 'clean' and read_volume(conn, vol) == text
        st = os.stat(lab.pool_dir / vol.name())
        assert stat.S_IMODE(st.st_mode) == 0o600 and st.st_uid == os.geteuid()
        assert jobs(conn)[0]['volume'] == 'disk.qcow2'


def test_permissions_as_requested(t):
    extra = '<permissions><mode>0644</mode><owner>65534</owner><group>65534</group></permissions>'
    with t.lab('clean') as lab, connection(lab) as conn:
        disk(lab)
        vol = create_from(conn, 'disk.qcow2', 'check', extra=extra)
        st = os.stat(lab.pool_dir / vol.name())
        assert stat.S_IMODE(st.st_mode) == 0o644
        if os.geteuid() == 0:
            assert (st.st_uid, st.st_gid) == (65534, 65534)


def test_report_must_be_raw(t):
    with t.lab('clean') as lab, connection(lab) as conn:
        disk(lab)
        text = expect_error(libvirt.VIR_ERR_INVALID_ARG, lambda: create_from(conn, 'disk.qcow2', 'all', form='qcow2'))
        assert "must have the format 'raw'" in text, text
        assert os.listdir(lab.pool_dir) == ['disk.qcow2'] and jobs(conn) == []


def test_report_exists(t):
    with t.lab('clean') as lab, connection(lab) as conn:
        disk(lab)
        (lab.pool_dir / 'disk.qcow2.repair-all.json').symlink_to('/nonexistent')
        try:
            create_from(conn, 'disk.qcow2', 'all')
        except libvirt.libvirtError:
            pass
        else:
            raise AssertionError('a symbolic link was followed')
        assert jobs(conn) == [] and not os.path.exists('/nonexistent')


def test_other_names_are_ordinary_clones(t):
    with t.lab('clean') as lab, connection(lab) as conn:
        disk(lab)
        pool = conn.storagePoolLookupByName('default')
        for name in ('disk.qcow2.repair-everything.json', 'other.repair-all.json', 'copy.qcow2',
                     'disk.qcow2.repair-.json', 'disk.qcow2.repair-all.json.bak', 'xdisk.qcow2.repair-all.json'):
            vol = pool.createXMLFrom(report_xml(name, form='qcow2'), volume(conn, 'disk.qcow2'), 0)
            data = (lab.pool_dir / vol.name()).read_bytes()
            assert data[:4] == b'QFI\xfb', name
        assert jobs(conn) == []


def test_odd_names(t):
    with t.lab('clean') as lab, connection(lab) as conn:
        for name in ('two words.qcow2', 'blå-日本.qcow2', '..%2f..%2fetc.qcow2', 'a.repair-all.json'):
            disk(lab, name)
            assert json.loads(read_volume(conn, create_from(conn, name, 'all')))['verdict'] == 'clean'


def test_across_pools(t):
    """The source in one pool, the report in another."""
    with t.lab('clean') as lab, connection(lab) as conn:
        (lab.dir / 'reports').mkdir()
        lab.virsh('pool-create-as', 'reports', 'dir', '--target', str(lab.dir / 'reports'))
        disk(lab)
        vol = create_from(conn, 'disk.qcow2', 'all', pool='reports', source_pool='default')
        assert json.loads(read_volume(conn, vol))['filename'] == str(lab.pool_dir / 'disk.qcow2')
        assert jobs(conn)[0]['pool'] == 'default', 'not the pool of the source'


def test_progress_is_seen_by_stock_calls(t):
    with t.lab('slow') as lab, connection(lab) as conn:
        disk(lab)
        job = in_background(lab, 'disk.qcow2', 'all')
        running = wait_for_state(conn, 'running')
        report = volume(conn, 'disk.qcow2.repair-all.json')
        first = report.info()
        assert first[1] == 409600, first
        assert wait_until(lambda: report.info()[2] >= first[2] + 5 * 4096, 10), f'{first} did not grow: {report.info()}'
        expect_error(libvirt.VIR_ERR_OPERATION_INVALID, report.delete, 0)
        expect_error(libvirt.VIR_ERR_OPERATION_INVALID, volume(conn, 'disk.qcow2').delete, 0)
        control(conn, f"<vol-repair request='abort' job='{running['id']}'/>")
        job.join()
        assert job.error is None, job.error
        assert json.loads(read_volume(conn, report))['error'] == 'aborted'


def test_helper_dies(t):
    """Once it had begun, the call succeeds, and the report says what became of it."""
    with t.lab('die-in-commit') as lab, connection(lab) as conn:
        disk(lab)
        report = json.loads(read_volume(conn, create_from(conn, 'disk.qcow2', 'all')))
        assert (report['verdict'], report['image-changed']) == ('failed', True)
        assert report['error'] == 'the repair program was killed by signal 11'


def test_helper_never_begins(t):
    with t.lab('mute') as lab, connection(lab) as conn:
        disk(lab)
        text = expect_error(libvirt.VIR_ERR_OPERATION_FAILED, create_from, conn, 'disk.qcow2', 'all')
        assert 'no such thing today' in text, text
        assert os.listdir(lab.pool_dir) == ['disk.qcow2']
        assert conn.storagePoolLookupByName('default').listVolumes() == ['disk.qcow2']


def test_helper_missing(t):
    with t.lab('clean') as lab, connection(lab) as conn:
        lab.configure(helper='/nowhere/vol-repair')
        disk(lab)
        expect_error(libvirt.VIR_ERR_OPERATION_FAILED, create_from, conn, 'disk.qcow2', 'all')
        assert os.listdir(lab.pool_dir) == ['disk.qcow2'] and jobs(conn) == []


def test_format_is_checked(t):
    with t.lab('clean') as lab, connection(lab) as conn:
        lab.virsh('vol-create-as', 'default', 'disk.raw', '1M', '--format', 'raw')
        text = expect_error(libvirt.VIR_ERR_OPERATION_UNSUPPORTED, create_from, conn, 'disk.raw', 'all')
        assert "format 'raw'" in text, text
        assert os.listdir(lab.pool_dir) == ['disk.raw']


def test_busy_volume(t):
    with t.lab('slow') as lab, connection(lab) as conn:
        disk(lab)
        stream = StreamJob(conn, volume(conn, 'disk.qcow2'), 'all')
        assert stream.until('progress')
        expect_error(libvirt.VIR_ERR_OPERATION_INVALID, create_from, conn, 'disk.qcow2', 'check')
        stream.abort()


def test_four_at_a_time(t):
    with t.lab('slow') as lab, connection(lab) as conn:
        for i in range(6):
            disk(lab, f'd{i}.qcow2')
        running = [in_background(lab, f'd{i}.qcow2', 'all') for i in range(4)]
        # At 0 percent a helper may not have begun, and would die of the SIGTERM that it should answer.
        assert wait_until(lambda: len([j for j in jobs(conn) if j['state'] == 'running' and j['percent'] != '0']) == 4, 10)
        text = expect_error(libvirt.VIR_ERR_OPERATION_FAILED, create_from, conn, 'd4.qcow2', 'all')
        assert '4 repair jobs with a report volume are running' in text, text
        stream = StreamJob(conn, volume(conn, 'd5.qcow2'), 'all')
        assert stream.until('progress'), 'the streaming door stays open'
        stream.abort()
        for job in jobs(conn):
            control(conn, f"<vol-repair request='abort' job='{job['id']}'/>")
        for thread in running:
            thread.join()
            assert thread.error is None, thread.error
