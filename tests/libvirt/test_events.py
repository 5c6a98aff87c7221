# SPDX-License-Identifier: LGPL-2.1-or-later
# The reports pool, and what a second, stock client hears and can fetch.
import json
import os
import signal
import threading
import time

import libvirt

from common import (Listener, StreamJob, connection, control, create_from, jobs, read_volume, repair, volume,
                    wait_for_state)
from lab import state, wait_until


def disk(lab, name='disk.qcow2'):
    done = lab.virsh('vol-create-as', 'default', name, '1M', '--format', 'qcow2')
    assert done.returncode == 0, done.stderr


def fetch(conn, job):
    """The job's file, as a stock client reads it: by its prefix in the pool vol-repair."""
    pool = conn.storagePoolLookupByName('vol-repair')
    name, = [n for n in pool.listVolumes() if n.startswith(f'job-{job}-')]
    return json.loads(read_volume(conn, pool.storageVolLookupByName(name)))


def test_start_and_end_are_heard(t):
    with t.lab('slow') as lab, connection(lab) as conn:
        disk(lab)
        listener = Listener(lab)
        job = StreamJob(conn, volume(conn, 'disk.qcow2'), 'all')
        listener.wait_for('vol-repair', 1)
        start = fetch(listener.conn, 1)
        assert start == {'event': 'start', 'job': 1, 'mode': 'all', 'pool': 'default', 'volume': 'disk.qcow2',
                         'filename': str(lab.pool_dir / 'disk.qcow2')}, start
        job.abort()
        listener.wait_for('vol-repair', 2)
        assert fetch(listener.conn, 1)['error'] == 'aborted'
        time.sleep(0.5)
        assert listener.pools == ['vol-repair'] * 2, listener.pools
        listener.close()


def test_create_from_is_heard(t):
    with t.lab('clean') as lab, connection(lab) as conn:
        disk(lab)
        listener = Listener(lab)
        vol = create_from(conn, 'disk.qcow2', 'check')
        listener.wait_for('vol-repair', 2)
        assert fetch(listener.conn, 1) == json.loads(read_volume(conn, vol))
        listener.close()


def test_repaired_pool_is_heard(t):
    with t.lab('brief') as lab, connection(lab) as conn:
        disk(lab)
        listener = Listener(lab)
        repair(conn, 'disk.qcow2', 'all')
        listener.wait_for('default', 1)
        listener.close()


def test_create_from_repair_refreshes_its_pool(t):
    """The pool is held until the call has returned; the refresh waits for that."""
    with t.lab('brief') as lab, connection(lab) as conn:
        disk(lab)
        listener = Listener(lab)
        create_from(conn, 'disk.qcow2', 'all')
        listener.wait_for('default', 1)
        listener.close()


def test_busy_pool_is_refreshed_later(t):
    """Another job holds the pool: that delays neither the events of this one nor its end, only the refresh."""
    with t.lab('slow') as lab, connection(lab) as conn:
        disk(lab)
        disk(lab, 'other.qcow2')
        listener = Listener(lab)
        holder = threading.Thread(target=hold_pool, args=(lab,))
        holder.start()
        held = wait_for_state(conn, 'running')
        lab.configure(helper=str(t.script('brief')))
        assert repair(conn, 'disk.qcow2', 'all')['verdict'] == 'repaired'
        listener.wait_for('vol-repair', 3)
        time.sleep(0.5)
        assert 'default' not in listener.pools, 'the pool was not busy'
        control(conn, f"<vol-repair request='abort' job='{held['id']}'/>")
        holder.join()
        listener.wait_for('default', 1, 30)
        listener.close()


def hold_pool(lab):
    """A create-from job that lasts until it is aborted."""
    with connection(lab) as conn:
        create_from(conn, 'other.qcow2', 'check')


def test_source_refresh_can_be_switched_off(t):
    with t.lab('brief', settings={'refresh_source_pool': '0'}) as lab, connection(lab) as conn:
        disk(lab)
        listener = Listener(lab)
        repair(conn, 'disk.qcow2', 'all')
        listener.wait_for('vol-repair', 2)
        time.sleep(1)
        assert 'default' not in listener.pools, listener.pools
        listener.close()


def test_pool_survives_a_restart(t):
    with t.lab('clean') as lab:
        disk(lab)
        with connection(lab) as conn:
            repair(conn, 'disk.qcow2', 'check')
            wait_for_state(conn, 'done')
        lab.restart()
        with connection(lab) as conn:
            listener = Listener(lab)
            repair(conn, 'disk.qcow2', 'check')
            listener.wait_for('vol-repair', 2)
            assert fetch(conn, 2)['verdict'] == 'clean'
            listener.close()


def test_stranger_has_the_name(t):
    """A pool of that name which is not ours is left alone, and jobs run all the same."""
    with t.lab('clean') as lab, connection(lab) as conn:
        disk(lab)
        (lab.dir / 'mine').mkdir()
        lab.virsh('pool-create-as', 'vol-repair', 'dir', '--target', str(lab.dir / 'mine'))
        assert repair(conn, 'disk.qcow2', 'check')['verdict'] == 'clean'
        wait_for_state(conn, 'done')
        assert wait_until(lambda: "a storage pool named 'vol-repair' exists" in lab.log(), 10)
        assert conn.storagePoolLookupByName('vol-repair').isActive() and os.listdir(lab.dir / 'mine') == []


def test_strangers_pool_is_not_started(t):
    """Of our directory even: who may define pools and not start them would have it started, with what he says is mounted there."""
    with t.lab('clean') as lab, connection(lab) as conn:
        disk(lab)
        place = state.option(t.build, 'runstatedir') / 'vol-repair' / 'reports' if lab.system else lab.reports_dir
        assert lab.virsh('pool-define-as', 'vol-repair', 'dir', '--target', str(place)).returncode == 0
        assert repair(conn, 'disk.qcow2', 'check')['verdict'] == 'clean'
        wait_for_state(conn, 'done')
        assert wait_until(lambda: "a storage pool named 'vol-repair' exists" in lab.log(), 10)
        assert not conn.storagePoolLookupByName('vol-repair').isActive()


def test_reports_directory_is_somebody_elses(t):
    with t.lab('clean') as lab, connection(lab) as conn:
        disk(lab)
        lab.reports_dir.parent.mkdir(parents=True)
        lab.reports_dir.symlink_to(lab.pool_dir)
        assert repair(conn, 'disk.qcow2', 'check')['verdict'] == 'clean'
        assert 'no events' in lab.log() and os.listdir(lab.pool_dir) == ['disk.qcow2']


def test_reports_are_private(t):
    with t.lab('clean') as lab, connection(lab) as conn:
        disk(lab)
        repair(conn, 'disk.qcow2', 'check')
        wait_for_state(conn, 'done')
        assert os.stat(lab.reports_dir).st_mode & 0o777 == 0o700
        assert len(jobs(conn)) == 1


def test_pool_destroyed_by_somebody(t):
    """The next job makes it again."""
    with t.lab('clean') as lab, connection(lab) as conn:
        disk(lab)
        listener = Listener(lab)
        repair(conn, 'disk.qcow2', 'check')
        listener.wait_for('vol-repair', 2)
        conn.storagePoolLookupByName('vol-repair').destroy()
        repair(conn, 'disk.qcow2', 'check')
        listener.wait_for('vol-repair', 4)
        assert fetch(conn, 2)['verdict'] == 'clean'
        listener.close()


def test_other_users_do_not_see_it(t):
    """libvirt's own rule: a read-only client lists the pool, and cannot download from it."""
    with t.lab('clean') as lab, connection(lab) as conn:
        disk(lab)
        repair(conn, 'disk.qcow2', 'check')
        wait_for_state(conn, 'done')
        assert wait_until(lambda: conn.storagePoolLookupByName('vol-repair').listVolumes(), 10)
        reader = libvirt.openReadOnly(lab.uri)
        try:
            read_volume(reader, reader.storagePoolLookupByName('vol-repair').listAllVolumes()[0])
        except libvirt.libvirtError as e:
            assert e.get_error_code() == libvirt.VIR_ERR_OPERATION_DENIED, e
        else:
            raise AssertionError('a read-only connection read a report')
        reader.close()


def test_reports_are_bounded_in_bytes(t):
    """/run is memory. The oldest reports go; the file of a job that runs stays, however old it is."""
    with t.lab('slow') as lab, connection(lab) as conn:
        disk(lab)
        disk(lab, 'other.qcow2')
        running = StreamJob(conn, volume(conn, 'other.qcow2'), 'check')
        assert running.until('progress')
        # However slow the machine is, it is running until the end of the test.
        os.kill(running.lines[0]['pid'], signal.SIGSTOP)
        lab.configure(helper=str(t.script('big')))
        for _ in range(9):
            create_from(conn, 'disk.qcow2', 'check').delete(0)

        def ids():
            return sorted(int(f.name.split('-')[1]) for f in lab.reports_dir.glob('job-*.json'))
        assert wait_until(lambda: ids() == [1, 5, 6, 7, 8, 9, 10], 10), ids()
        assert fetch(conn, 1)['event'] == 'start'
        os.kill(running.lines[0]['pid'], signal.SIGCONT)
        running.abort()


def test_as_documented(t):
    """What docs/libvirt.md opens with, by stock virsh."""
    with t.lab('clean') as lab, connection(lab) as conn:
        disk(lab)
        assert repair(conn, 'disk.qcow2', 'check')['verdict'] == 'clean'
        assert wait_until(lambda: 'job-1-disk.qcow2.json' in lab.virsh('vol-list', 'vol-repair').stdout, 10)
        done = lab.virsh('vol-download', '--pool', 'vol-repair', 'job-1-disk.qcow2.json', '/dev/stdout')
        assert done.returncode == 0 and '"verdict": "clean"' in done.stdout, done
        assert lab.virsh('pool-destroy', 'vol-repair').returncode == 0
