# SPDX-License-Identifier: LGPL-2.1-or-later
# The streaming door, by stock virsh and by libvirt-python, with well-behaved and ill-behaved helpers and clients.
import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import libvirt

from common import (disk, MAGIC, OPS, StreamJob, check_schema, connection, control, expect_error, jobs, repair,
                    volume, wait_for_state)
from lab import wait_until
from patience import seconds

NAMES = ['two words.qcow2', 'blå-日本.qcow2', '..%2f..%2fetc.qcow2', "it's \"quoted\" & <odd>.qcow2", '-r.qcow2',
         '$(id).qcow2']


def helper_is_gone(job):
    return wait_until(lambda: not os.path.exists(f"/proc/{job.lines[0]['pid']}"), 10)


def test_by_stock_virsh(t):
    out = t.tmp / 'out.json'
    with t.lab('clean') as lab:
        path = disk(lab)
        done = lab.virsh('vol-download', '--pool', 'default', 'disk.qcow2', str(out),
                         '--offset', str(MAGIC + OPS['all']))
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        assert [line['event'] for line in lines] == ['start', 'progress', 'report']
        assert (lines[0]['job'], lines[0]['report']) == (1, 'job-1-disk.qcow2.json'), lines[0]
        assert lines[0]['mode'] == 'all' and lines[-1]['report']['filename'] == str(path)


def test_each_mode(t):
    with t.lab('clean') as lab, connection(lab) as conn:
        disk(lab)
        for mode in OPS:
            argv = repair(conn, 'disk.qcow2', mode)['argv']
            assert f'--mode={mode}' in argv and '--image-fd=3' in argv and argv[argv.index('-f') + 1] == 'qcow2', argv


def test_unknown_operation_and_flags(t):
    with t.lab('clean') as lab, connection(lab) as conn:
        disk(lab)
        vol = volume(conn, 'disk.qcow2')
        for op in (4, 255, 0xffff):
            expect_error(libvirt.VIR_ERR_INVALID_ARG, vol.download, conn.newStream(), MAGIC + op, 0, 0)
        expect_error(libvirt.VIR_ERR_INVALID_ARG, vol.download, conn.newStream(), MAGIC, 0,
                     libvirt.VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM)
        assert jobs(conn) == []


def test_names(t):
    with t.lab('clean') as lab, connection(lab) as conn:
        for name in NAMES:
            path = disk(lab, name)
            assert repair(conn, name, 'check')['filename'] == str(path)
        assert sorted(j['volume'] for j in jobs(conn)) == sorted(NAMES)
        reports = os.listdir(lab.reports_dir)
        assert len(reports) == len(NAMES) and sorted(os.listdir(lab.reports_dir.parent)) == ['reports', 'reports.jobs'], reports


def test_name_that_is_not_utf8(t):
    with t.lab('clean') as lab, connection(lab) as conn:
        name = os.fsencode(lab.pool_dir) + b'/bad\xff\xfe.qcow2'
        subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', name, '1M'], check=True)
        assert lab.virsh('pool-refresh', 'default').returncode == 0
        out = t.tmp / 'out.json'
        done = lab.run(['/usr/bin/virsh', 'vol-download', name, str(out), '--offset', str(MAGIC)], text=False)
        assert done.returncode == 0, done.stderr
        assert '"verdict":"clean"' in out.read_text()
        assert [j['volume'] for j in jobs(conn)] == ['bad\ufffd\ufffd.qcow2']


def test_symbolic_link_is_refused(t):
    with t.lab('clean') as lab, connection(lab) as conn:
        path = disk(lab)
        (lab.pool_dir / 'link.qcow2').symlink_to(path)
        lab.virsh('pool-refresh', 'default')
        text = expect_error(libvirt.VIR_ERR_OPERATION_FAILED, repair, conn, 'link.qcow2', 'all')
        assert 'it is a symbolic link' in text, text


def test_volume_gone(t):
    with t.lab('clean') as lab, connection(lab) as conn:
        disk(lab).unlink()
        text = expect_error(libvirt.VIR_ERR_OPERATION_FAILED, repair, conn, 'disk.qcow2', 'all')
        assert 'No such file' in text, text


def test_stream_abort_stops_the_job(t):
    with t.lab('slow') as lab, connection(lab) as conn:
        disk(lab)
        job = StreamJob(conn, volume(conn, 'disk.qcow2'), 'all')
        assert job.until('progress')
        job.abort()
        assert helper_is_gone(job)
        done = wait_for_state(conn, 'done')
        assert done['verdict'] == 'failed', done
        report = json.loads(next(lab.reports_dir.glob('job-1-*')).read_text())
        assert report['error'] == 'aborted', report


def test_client_killed(t):
    with t.lab('slow') as lab, connection(lab) as conn:
        disk(lab)
        argv = ['/usr/bin/virsh', 'vol-download', '--pool', 'default', 'disk.qcow2', '/dev/null',
                '--offset', str(MAGIC + OPS['all'])]
        client = subprocess.Popen(lab.command(argv), env=lab.env)
        wait_for_state(conn, 'running')
        client.kill()
        client.wait()
        assert wait_for_state(conn, 'done')['verdict'] == 'failed'
        assert repair_after(lab, conn, t)


def repair_after(lab, conn, t):
    """The volume is free again."""
    lab.configure(helper=str(t.script('clean')))
    return repair(conn, 'disk.qcow2', 'all')['verdict'] == 'clean'


def test_helper_dies(t):
    with t.lab('die') as lab, connection(lab) as conn:
        path = disk(lab)
        assert repair(conn, 'disk.qcow2', 'all') is None
        assert wait_for_state(conn, 'done')['verdict'] == 'failed'
        report = json.loads(next(lab.reports_dir.glob('job-1-*')).read_text())
        assert report['error'] == 'the repair program was killed by signal 9', report
        assert report['filename'] == str(path), report
        assert report['image-changed'] is False
        check_schema(report)
        assert 'was killed by signal 9' in lab.log()


def test_helper_dies_in_commit(t):
    with t.lab('die-in-commit') as lab, connection(lab) as conn:
        disk(lab)
        assert repair(conn, 'disk.qcow2', 'all') is None
        wait_for_state(conn, 'done')
        report = json.loads(next(lab.reports_dir.glob('job-1-*')).read_text())
        assert report['error'].endswith('signal 11') and report['image-changed'] is True, report


def test_helper_fails_without_a_word_of_json(t):
    with t.lab('mute') as lab, connection(lab) as conn:
        disk(lab)
        assert repair(conn, 'disk.qcow2', 'all') is None
        wait_for_state(conn, 'done')
        report = json.loads(next(lab.reports_dir.glob('job-1-*')).read_text())
        assert report['error'] == 'no such thing today', report


def test_endless_line_is_stopped(t):
    with t.lab('endless') as lab, connection(lab) as conn:
        disk(lab)
        job = StreamJob(conn, volume(conn, 'disk.qcow2'), 'all')
        assert job.report() is None and helper_is_gone(job)
        assert wait_for_state(conn, 'done')['verdict'] == 'failed'


def test_stuck_client_holds_up_nobody(t):
    """A client that reads nothing: its job goes on to the end, and others are served; then it gets its report."""
    with t.lab('flood') as lab, connection(lab) as conn, connection(lab) as other:
        disk(lab)
        stuck = StreamJob(conn, volume(conn, 'disk.qcow2'), 'all')
        assert wait_for_state(other, 'done', 60)['verdict'] == 'clean'
        assert other.storagePoolLookupByName('default').refresh(0) == 0
        report = stuck.report()
        assert report['verdict'] == 'clean' and len(report['padding']) == 3000000
        assert len(stuck.lines) < 20002, 'nothing was left out, so nothing was tested'


def thread_names(lab):
    names = []
    for comm in Path(f'/proc/{lab.daemon.pid}/task').glob('*/comm'):
        with contextlib.suppress(OSError):
            names.append(comm.read_text().strip())
    return names


def test_stuck_client_goes_away(t):
    with t.lab('flood') as lab, connection(lab) as other:
        disk(lab)
        conn = libvirt.open(lab.uri)
        stuck = StreamJob(conn, volume(conn, 'disk.qcow2'), 'all')
        wait_for_state(other, 'done', 60)
        del stuck
        conn.close()
        assert wait_until(lambda: 'vol-repair' not in thread_names(lab), 10), thread_names(lab)


def test_many_at_a_time(t):
    with t.lab('brief') as lab, connection(lab) as conn:
        for i in range(12):
            disk(lab, f'd{i}.qcow2')
        started = time.monotonic()
        running = [StreamJob(conn, volume(conn, f'd{i}.qcow2'), 'all') for i in range(12)]
        assert len([j for j in jobs(conn) if j['state'] == 'running']) == 12
        assert time.monotonic() - started < seconds(5), 'the daemon was held up'
        assert all(job.report()['verdict'] == 'repaired' for job in running)


def test_two_jobs_on_one_volume(t):
    with t.lab('slow') as lab, connection(lab) as conn:
        disk(lab)
        vol = volume(conn, 'disk.qcow2')
        first = StreamJob(conn, vol, 'all')
        assert first.until('progress')
        for mode in ('all', 'check', 'undo'):
            text = expect_error(libvirt.VIR_ERR_OPERATION_INVALID, StreamJob, conn, vol, mode)
            assert 'job 1 (all) is working on it' in text, text
        os.link(lab.pool_dir / 'disk.qcow2', lab.pool_dir / 'same.qcow2')
        conn.storagePoolLookupByName('default').refresh(0)
        expect_error(libvirt.VIR_ERR_OPERATION_INVALID, repair, conn, 'same.qcow2', 'all')
        first.abort()
        wait_for_state(conn, 'done')
        checks = [StreamJob(conn, vol, 'check') for _ in range(2)]
        assert all(job.until('progress') for job in checks), 'two checks share a volume'
        for job in checks:
            job.abort()


def test_daemon_stops_during_a_job(t):
    """The daemon goes at once; the helper notices and ends."""
    with t.lab('slow') as lab, connection(lab) as conn:
        disk(lab)
        job = StreamJob(conn, volume(conn, 'disk.qcow2'), 'all')
        assert job.until('progress')
        started = time.monotonic()
        lab.stop()
        assert time.monotonic() - started < 10
        assert helper_is_gone(job)


def test_daemon_killed_during_a_job(t):
    with t.lab('slow') as lab:
        disk(lab)
        conn = libvirt.open(lab.uri)
        job = StreamJob(conn, volume(conn, 'disk.qcow2'), 'all')
        assert job.until('progress')
        lab.restart(signal.SIGKILL)
        assert helper_is_gone(job)
        with connection(lab) as again:
            ended = wait_for_state(again, 'done')
            assert (ended['id'], ended['verdict'], ended['percent']) == ('1', 'failed', '100'), ended
            assert repair_after(lab, again, t)
            assert wait_for_state(again, 'done')['id'] == '2', 'report files keep their numbers'


def test_source_pool_is_refreshed_after_a_repair(t):
    with t.lab('brief') as lab, connection(lab) as conn:
        disk(lab)
        subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', lab.pool_dir / 'new.qcow2', '1M'], check=True)
        assert repair(conn, 'disk.qcow2', 'all')['verdict'] == 'repaired'
        pool = conn.storagePoolLookupByName('default')
        assert wait_until(lambda: 'new.qcow2' in pool.listVolumes(), 10), 'the pool was not refreshed'


def test_source_pool_with_poison_is_not_refreshed(t):
    """libvirt stops a pool when a refresh meets the stub of a qcow2 v3 header; that must not be our doing."""
    with t.lab('brief') as lab, connection(lab) as conn:
        disk(lab)
        (lab.pool_dir / 'stub').write_bytes(b'QFI\xfb\0\0\0\3' + bytes(40))
        assert repair(conn, 'disk.qcow2', 'all')['verdict'] == 'repaired'
        time.sleep(2)
        assert conn.storagePoolLookupByName('default').isActive()


def test_control_on_busy_daemon(t):
    """Streaming jobs hold no worker: the control door answers at once however many run."""
    with t.lab('slow') as lab, connection(lab) as conn:
        for i in range(30):
            disk(lab, f'd{i}.qcow2')
        running = [StreamJob(conn, volume(conn, f'd{i}.qcow2'), 'check') for i in range(30)]
        started = time.monotonic()
        assert "version=" in control(conn, "<vol-repair request='capabilities'/>")
        assert time.monotonic() - started < seconds(3)
        for job in running:
            job.abort()
        assert wait_until(lambda: all(j['state'] == 'done' for j in jobs(conn)), 20)
