# SPDX-License-Identifier: LGPL-2.1-or-later
# A volume that a job works on is left alone by everything else; so is one that somebody has open without QEMU's locks.
import hashlib
import os
import subprocess
import threading
import time

import libvirt

from common import (StreamJob, connection, create_from, expect_error, jobs, leak, make_image, qemu_check, read_volume, refresh,
                    repair, volume, wait_for_state)

IN_USE = libvirt.VIR_ERR_OPERATION_INVALID


def busy(t, lab, conn, mode):
    """A job that stays until its stream is let go of."""
    path = make_image(lab, 'disk.qcow2')
    refresh(lab)
    job = StreamJob(conn, volume(conn, 'disk.qcow2'), mode)
    assert job.until('progress')
    return path, job


def changes(conn, vol):
    """What would change the volume: (name, call)"""
    def upload():
        stream = conn.newStream()
        vol.upload(stream, 0, 512, 0)
        stream.abort()
    yield from (('delete', lambda: vol.delete(0)), ('resize', lambda: vol.resize(1 << 30, 0)), ('wipe', lambda: vol.wipe(0)),
                ('upload', upload))


def refused_all(conn, lab, path, calls):
    before = path.read_bytes()
    for name, call in calls:
        text = expect_error(IN_USE, call)
        assert 'in use' in text, f'{name}: {text}'
    assert path.read_bytes() == before, 'the volume was changed'


def test_volume_under_repair_is_not_changed(t):
    with t.lab(helper='slow') as lab, connection(lab) as conn, connection(lab) as other:
        path, job = busy(t, lab, conn, 'all')
        refused_all(other, lab, path, changes(other, volume(other, 'disk.qcow2')))
        job.abort()


def test_volume_under_check_is_not_changed(t):
    with t.lab(helper='slow') as lab, connection(lab) as conn, connection(lab) as other:
        path, job = busy(t, lab, conn, 'check')
        refused_all(other, lab, path, changes(other, volume(other, 'disk.qcow2')))
        job.abort()


def test_volume_under_repair_is_not_read(t):
    with t.lab(helper='slow') as lab, connection(lab) as conn, connection(lab) as other:
        path, job = busy(t, lab, conn, 'leaks')
        vol, pool = volume(other, 'disk.qcow2'), other.storagePoolLookupByName('default')
        clone = '<volume><name>copy</name><capacity>0</capacity></volume>'
        refused_all(other, lab, path, [('download', lambda: read_volume(other, vol)),
                                       ('clone', lambda: pool.createXMLFrom(clone, vol, 0))])
        assert not (lab.pool_dir / 'copy').exists()
        job.abort()


def test_volume_is_free_after_the_job(t):
    with t.lab() as lab, connection(lab) as conn:
        make_image(lab, 'disk.qcow2')
        refresh(lab)
        assert repair(conn, 'disk.qcow2', 'check')['verdict'] == 'clean'
        vol = volume(conn, 'disk.qcow2')
        assert read_volume(conn, vol)
        vol.resize(1 << 30, 0)
        vol.delete(0)
        assert not (lab.pool_dir / 'disk.qcow2').exists()


def test_other_volumes_are_free(t):
    with t.lab(helper='slow') as lab, connection(lab) as conn, connection(lab) as other:
        make_image(lab, 'neighbour.qcow2')
        _, job = busy(t, lab, conn, 'all')
        volume(other, 'neighbour.qcow2').delete(0)
        job.abort()


def test_open_elsewhere_without_locks(t):
    """A reader that takes none of QEMU's locks, such as a backup: no repair writes under it; a check may look."""
    with t.lab() as lab, connection(lab) as conn:
        path = make_image(lab, 'disk.qcow2')
        leak(path, 10)
        refresh(lab)
        before = hashlib.sha256(path.read_bytes()).hexdigest()
        with open(path, 'rb'):
            report = repair(conn, 'disk.qcow2', 'leaks')
            assert report['verdict'] == 'refused' and 'open elsewhere' in report['error'], report
            assert hashlib.sha256(path.read_bytes()).hexdigest() == before
            assert repair(conn, 'disk.qcow2', 'check')['leaks'] == 10
        assert repair(conn, 'disk.qcow2', 'leaks')['verdict'] == 'repaired'


def test_block_device_open_elsewhere(t):
    """Through another node of the same device, where no lock can be seen."""
    from common import Skip
    image = t.tmp / 'disk.qcow2'
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', image, '64M'], check=True)
    made = subprocess.run(['losetup', '-f', '--show', image], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise Skip(f'no loop device: {made.stderr.strip()[:80]}')
    device, node = made.stdout.strip(), t.tmp / 'node'
    command = [t.program, '-f', 'qcow2', '-r', 'leaks', f'--undo={t.tmp}/undo', device]
    try:
        os.mknod(node, 0o600 | 0o060000, os.stat(device).st_rdev)
        with open(node, 'rb') as file:
            holder = subprocess.Popen(['sleep', '60'], stdin=file)
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        finally:
            holder.kill()
            holder.wait()
        assert done.returncode == 1 and 'open elsewhere' in done.stderr, done.stderr
        # Who starts the program may be a daemon that has it open for somebody else, and is no exception.
        with open(node, 'rb'):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and 'open elsewhere' in done.stderr, done.stderr
        # But the descriptor that it passes on is.
        with open(device, 'r+b') as file:
            done = subprocess.run([*command[:-1], f'--image-fd={file.fileno()}', device], pass_fds=[file.fileno()],
                                  capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    finally:
        subprocess.run(['losetup', '-d', device], check=True)


# ---- many at once -------------------------------------------------------------------------------------------------

CLIENTS, VOLUMES = 20, 100


def client(lab, names, results, number):
    """One connection after the other: a repair each; some are aborted, some clients go away without a word."""
    for i, name in enumerate(names):
        try:
            conn = libvirt.open(lab.uri)
            fate = (number + i) % 5
            if fate == 0:
                results[name] = create_from(conn, name, 'leaks').name()
            else:
                job = StreamJob(conn, volume(conn, name), 'leaks')
                if fate == 1:
                    job.abort()
                elif fate == 2:
                    job.next()
                    conn = None  # the socket is closed with the last reference
                else:
                    results[name] = (job.report() or {}).get('verdict')
            if conn:
                conn.close()
        except libvirt.libvirtError as error:
            results[name] = str(error)


def daemon_state(lab):
    pid = lab.daemon.pid
    children = subprocess.run(['pgrep', '-P', str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return len(os.listdir(f'/proc/{pid}/fd')), len(children)


def test_a_hundred_at_once(t):
    with t.lab() as lab, connection(lab) as watch:
        names = [f'v{i:03}.qcow2' for i in range(VOLUMES)]
        first = make_image(lab, names[0], '64M', '1M')
        leak(first, 50)
        content = first.read_bytes()
        for name in names[1:]:
            (lab.pool_dir / name).write_bytes(content)
        refresh(lab)
        repair(watch, names[0], 'check')
        descriptors, children = daemon_state(lab)
        results = {}
        threads = [threading.Thread(target=client, args=(lab, names[i::CLIENTS], results, i)) for i in range(CLIENTS)]
        for thread in threads:
            thread.start()
        slowest = 0
        while any(thread.is_alive() for thread in threads):
            before = time.monotonic()
            watch.getLibVersion()
            watch.storagePoolLookupByName('default').info()
            slowest = max(slowest, time.monotonic() - before)
            time.sleep(0.02)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and any(j['state'] == 'running' for j in jobs(watch)):
            time.sleep(0.1)
        assert slowest < 5, f'the daemon did not answer for {slowest:.1f} s'
        for name in names:
            check = qemu_check(lab.pool_dir / name)
            changed = (lab.pool_dir / name).read_bytes() != content
            assert check.get('corruptions', 0) == 0 and (check.get('leaks', 0) == 0 if changed else check['leaks'] == 50), name
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and daemon_state(lab) > (descriptors + 2, children):
            time.sleep(0.1)
        assert daemon_state(lab)[0] <= descriptors + 2, f'descriptors: {descriptors}, then {daemon_state(lab)[0]}'
        assert daemon_state(lab)[1] <= children, 'a helper is left'
        locks = open('/proc/locks', encoding='ascii').read()
        inodes = {os.stat(lab.pool_dir / n).st_ino for n in names}
        assert not [x for x in locks.splitlines() if int(x.split()[5].split(':')[2]) in inodes], 'a lock is left'
        refresh(lab)
        assert watch.storagePoolLookupByName('default').isActive()
        print(f'       {sum(v == "repaired" for v in results.values())} repaired by streams, slowest answer {slowest * 1000:.0f} ms')
