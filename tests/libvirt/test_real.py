# SPDX-License-Identifier: LGPL-2.1-or-later
# The whole way with the real program: damage, repair, undo, a busy image, accidents in the middle.
import hashlib
import json
import os
import signal
import stat
import subprocess
import time

import libvirt
from xml.etree import ElementTree

from common import (StreamJob, check_schema, connection, control, create_from, expect_error, jobs, leak, make_image, qemu_check,
                    qemu_with, read_volume, refresh, repair, volume, wait_for_state)
from lab import wait_until

LEAKS = 20000
DOMAIN = '''<domain type='qemu'><name>vm</name><memory unit='MiB'>64</memory><os><type arch='x86_64'>hvm</type></os>
<devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{path}'/>
<target dev='vda' bus='virtio'/></disk>
<memballoon model='none'/></devices></domain>'''


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def damaged(lab, count=100, name='disk.qcow2'):
    path = make_image(lab, name)
    leak(path, count)
    refresh(lab)
    assert qemu_check(path)['leaks'] == count
    return path


def no_worse(path, leaks):
    check = qemu_check(path)
    return check.get('corruptions', 0) == 0 and check['check-errors'] == 0 and check.get('leaks', 0) <= leaks


def gone(pid):
    """Ended; a process whose parent died may be a zombie for a while."""
    try:
        with open(f'/proc/{pid}/stat') as stat:
            return stat.read().rsplit(')', 1)[1].split()[0] == 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return True


def stopped_in_the_middle(conn, path, mode):
    """A job whose program is held by SIGSTOP after it had begun; the pid is lines[0]['pid']."""
    for _ in range(20):
        job = StreamJob(conn, volume(conn, path.name), mode)
        assert job.until('progress')
        try:
            os.kill(job.lines[0]['pid'], signal.SIGSTOP)
        except ProcessLookupError:
            continue
        if not gone(job.lines[0]['pid']):
            return job
    raise AssertionError('no job could be stopped before its end')


def test_check_repair_undo(t):
    with t.lab() as lab, connection(lab) as conn:
        path = damaged(lab)
        before = digest(path)
        report = repair(conn, 'disk.qcow2', 'check')
        check_schema(report)
        assert (report['verdict'], report['leaks'], report['exit-code']) == ('leaks-remain', 100, 3), report
        assert digest(path) == before
        report = repair(conn, 'disk.qcow2', 'all')
        check_schema(report)
        assert (report['verdict'], report['leaks-fixed'], report['image-changed']) == ('repaired', 100, True), report
        assert qemu_check(path).get('leaks', 0) == 0
        assert repair(conn, 'disk.qcow2', 'check')['verdict'] == 'clean'
        report = repair(conn, 'disk.qcow2', 'undo')
        check_schema(report)
        assert report['verdict'] == 'undone' and digest(path) == before, report


def interrupt(t, lab, path):
    """A repair without libvirt, killed after its first write."""
    tool = str(t.build / 'plugin' / 'cli' / 'vol-repair-test')
    before = digest(path)
    lab.run([tool, '--accel=process', '--mode=all', '--test-crash-after=1', str(path)])
    assert digest(path) != before
    return before


def test_interrupted_repair_is_told(t):
    with t.lab() as lab, connection(lab) as conn:
        path = damaged(lab)
        before = interrupt(t, lab, path)
        report = repair(conn, 'disk.qcow2', 'check')
        check_schema(report)
        assert report['interrupted-repair']['state'] == 'pending' and 'would-do' not in report, report
        report = json.loads(read_volume(conn, create_from(conn, 'disk.qcow2', 'check')))
        assert report['interrupted-repair']['state'] == 'pending', report
        report = repair(conn, 'disk.qcow2', 'all')
        check_schema(report)
        assert (report['interrupted-repair']['state'], report['verdict']) == ('rolled-back', 'repaired'), report
        assert repair(conn, 'disk.qcow2', 'undo')['verdict'] == 'undone' and digest(path) == before


def test_journals_of_a_volume_are_bounded(t):
    """A caller who repairs and undoes for ever, each time under another name."""
    with t.lab(settings={'undo_max_count': '3'}) as lab, connection(lab) as conn:
        path = make_image(lab)
        for i in range(6):
            leak(path, 10)
            refresh(lab)
            options = f"<vol-repair request='options'><undo>fill{i}</undo></vol-repair>"
            token = int(ElementTree.fromstring(control(conn, options)).get('token'))
            assert repair(conn, 'disk.qcow2', 'leaks', token)['verdict'] == 'repaired'
            token = int(ElementTree.fromstring(control(conn, options)).get('token'))
            assert repair(conn, 'disk.qcow2', 'undo', token)['verdict'] == 'undone'
            assert repair(conn, 'disk.qcow2', 'leaks')['verdict'] == 'repaired'
        names = os.listdir(lab.undo_dir)
        assert len(names) <= 3, names


def test_create_from(t):
    with t.lab() as lab, connection(lab) as conn:
        path = damaged(lab)
        before = digest(path)
        report = json.loads(read_volume(conn, create_from(conn, 'disk.qcow2', 'leaks')))
        check_schema(report)
        assert (report['verdict'], report['leaks-fixed']) == ('repaired', 100), report
        report = json.loads(read_volume(conn, create_from(conn, 'disk.qcow2', 'undo')))
        assert report['verdict'] == 'undone' and digest(path) == before, report


def test_event_report_is_the_same(t):
    with t.lab() as lab, connection(lab) as conn:
        damaged(lab)
        report = repair(conn, 'disk.qcow2', 'all')
        wait_for_state(conn, 'done')
        assert json.loads(next(lab.reports_dir.glob('job-1-*')).read_text()) == report


def test_undo_without_a_journal(t):
    with t.lab() as lab, connection(lab) as conn:
        path = make_image(lab)
        before = digest(path)
        report = repair(conn, 'disk.qcow2', 'undo')
        check_schema(report)
        assert report['verdict'] in ('failed', 'refused') and report['error'], report
        expect_error(libvirt.VIR_ERR_OPERATION_INVALID, create_from, conn, 'disk.qcow2', 'undo')
        assert digest(path) == before and sorted(os.listdir(lab.pool_dir)) == ['disk.qcow2']


def test_image_of_a_running_qemu(t):
    with t.lab() as lab, connection(lab) as conn:
        path = damaged(lab)
        before = digest(path)
        with qemu_with(path) as vm:
            assert 'QEMU' in vm.greeting, vm.greeting
            for mode in ('check', 'leaks', 'all'):
                report = repair(conn, 'disk.qcow2', mode)
                check_schema(report)
                assert report['verdict'] == 'refused' and 'Is another process using the image' in report['error'], report
                text = expect_error(libvirt.VIR_ERR_OPERATION_INVALID, create_from, conn, 'disk.qcow2', mode)
                assert 'Is another process using the image' in text, text
            assert digest(path) == before
        assert repair(conn, 'disk.qcow2', 'all')['verdict'] == 'repaired'


def test_disk_of_a_running_domain(t):
    with t.lab() as lab, connection(lab) as conn:
        path = damaged(lab)
        domain = conn.createXML(DOMAIN.format(path=path), 0)
        report = repair(conn, 'disk.qcow2', 'all')
        assert report['verdict'] == 'refused' and 'Is another process using the image' in report['error'], report
        text = expect_error(libvirt.VIR_ERR_OPERATION_INVALID, create_from, conn, 'disk.qcow2', 'all')
        assert 'disk.qcow2' in text and 'Is another process using the image' in text, text
        domain.destroy()
        assert repair(conn, 'disk.qcow2', 'all')['verdict'] == 'repaired'


def test_block_device_of_a_running_domain(t):
    """The domain has it under another node, so that neither QEMU's locks nor the path tell."""
    from common import Skip
    with t.lab() as lab, connection(lab) as conn:
        image = t.tmp / 'image'
        damaged(lab).rename(image)
        made = subprocess.run(['losetup', '-f', '--show', image], capture_output=True, text=True, check=False)
        if made.returncode != 0:
            raise Skip(f'no loop device: {made.stderr.strip()[:80]}')
        device = made.stdout.strip()
        try:
            os.mknod(lab.pool_dir / 'disk', 0o600 | stat.S_IFBLK, os.stat(device).st_rdev)
            refresh(lab)
            domain = conn.createXML(DOMAIN.format(path=device).replace("type='file'", "type='block'").replace('file=', 'dev='), 0)
            text = expect_error(libvirt.VIR_ERR_OPERATION_INVALID, StreamJob, conn, volume(conn, 'disk'), 'all')
            assert "the running domain 'vm' has it" in text, text
            domain.destroy()
            exclusive = os.open(device, os.O_RDONLY | os.O_EXCL)  # as a mount has it
            text = expect_error(libvirt.VIR_ERR_OPERATION_FAILED, StreamJob, conn, volume(conn, 'disk'), 'all')
            assert 'busy' in text, text
            os.close(exclusive)
            assert repair(conn, 'disk', 'all')['verdict'] == 'repaired'
            assert qemu_check(lab.pool_dir / 'disk').get('leaks', 0) == 0
        finally:
            subprocess.run(['losetup', '-d', device], check=True)


def test_qemu_and_domain_start_during_a_repair(t):
    with t.lab() as lab, connection(lab) as conn:
        path = damaged(lab, LEAKS)
        job = stopped_in_the_middle(conn, path, 'all')
        with qemu_with(path) as vm:
            assert 'lock' in vm.greeting, vm.greeting
        with connection(lab) as other:
            text = expect_error(libvirt.VIR_ERR_INTERNAL_ERROR, other.createXML, DOMAIN.format(path=path), 0)
            assert 'lock' in text, text
        os.kill(job.lines[0]['pid'], signal.SIGCONT)
        assert job.report()['verdict'] in ('repaired', 'clean')
        assert qemu_check(path).get('leaks', 0) == 0


def test_abort(t):
    """By the stream, at whatever moment: the image is no worse, and the next run ends clean."""
    with t.lab() as lab, connection(lab) as conn:
        path = damaged(lab, LEAKS)
        for i in range(8):
            job = StreamJob(conn, volume(conn, 'disk.qcow2'), 'all')
            assert job.next()['event'] == 'start'
            time.sleep(i * 0.01)
            job.abort()
            assert wait_until(lambda: gone(job.lines[0]['pid']), 60)
            assert wait_until(lambda: all(j['state'] == 'done' for j in jobs(conn)), 10)
            assert no_worse(path, LEAKS), qemu_check(path)
        assert repair(conn, 'disk.qcow2', 'all')['verdict'] in ('repaired', 'clean')
        assert qemu_check(path).get('leaks', 0) == 0


def test_daemon_killed(t):
    """kill -9 of libvirtd at whatever moment of a repair."""
    with t.lab() as lab:
        path = damaged(lab, LEAKS)
        pristine = path.with_name('copy')
        subprocess.run(['cp', '--sparse=always', path, pristine], check=True)
        for i in range(6):
            # Whole at once: the pool's refresh after the last repair may look at any moment.
            subprocess.run(['cp', '--sparse=always', pristine, lab.dir / 'next'], check=True)
            os.replace(lab.dir / 'next', path)
            conn = libvirt.open(lab.uri)
            job = StreamJob(conn, volume(conn, 'disk.qcow2'), 'all')
            assert job.next()['event'] == 'start'
            time.sleep(i * 0.02)
            lab.restart(signal.SIGKILL)
            assert wait_until(lambda: gone(job.lines[0]['pid']), 60)
            assert no_worse(path, LEAKS), qemu_check(path)
            with connection(lab) as again:
                assert repair(again, 'disk.qcow2', 'all')['verdict'] in ('repaired', 'clean')
            assert qemu_check(path).get('leaks', 0) == 0


def test_program_killed(t):
    """kill -9 of the program: the client sees an end without a report, listeners get one that says so."""
    with t.lab() as lab, connection(lab) as conn:
        path = damaged(lab, LEAKS)
        job = stopped_in_the_middle(conn, path, 'all')
        os.kill(job.lines[0]['pid'], signal.SIGKILL)
        assert job.report() is None
        number = wait_for_state(conn, 'done')['id']
        report = json.loads(next(lab.reports_dir.glob(f'job-{number}-*')).read_text())
        check_schema(report)
        assert report['error'] == 'the repair program was killed by signal 9', report
        assert no_worse(path, LEAKS), qemu_check(path)
        assert repair(conn, 'disk.qcow2', 'all')['verdict'] in ('repaired', 'clean')
        assert qemu_check(path).get('leaks', 0) == 0


def test_not_a_qcow2_image(t):
    with t.lab() as lab, connection(lab) as conn:
        path = make_image(lab)
        with open(path, 'r+b') as f:
            f.write(b'XXXX')
        # libvirt has not looked at the volume since, and still calls it qcow2.
        before = digest(path)
        report = repair(conn, 'disk.qcow2', 'all')
        check_schema(report)
        assert report['verdict'] in ('refused', 'failed') and digest(path) == before, report
