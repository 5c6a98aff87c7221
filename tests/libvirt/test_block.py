# SPDX-License-Identifier: LGPL-2.1-or-later
# Volumes that are block devices, in pools that libvirt keeps for them: every door, and who else has the device.
import hashlib
import json
import os
import signal
import stat
import struct
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import libvirt

from common import (StreamJob, check_schema, connection, control, create_from, expect_error, jobs, leak, qemu_check, qemu_with,
                    read_volume, report_xml, volume, wait_for_state)
from devices import group_lab, loop_device
from lab import wait_until

OPTIONS = "<vol-repair request='options'>{}</vol-repair>"
CAPABILITIES = "<vol-repair request='capabilities'/>"


def put_image(t, device, leaks=10, path=None):
    """A qcow2 image with leaks on the device; digest of the whole device."""
    image = path or t.tmp / 'image.qcow2'
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', image, '64M'], check=True)
    subprocess.run(['qemu-io', '-f', 'qcow2', '-c', 'write -q -P 0x5a 0 8M', image], check=True,
                   stdout=subprocess.DEVNULL)
    if leaks:
        leak(image, leaks)
    copy_to(image, device)
    return digest(device)


def copy_to(image, device):
    with open(device, 'r+b') as f:
        f.write(image.read_bytes())
        f.flush()
        os.fsync(f.fileno())


def digest(device):
    with open(device, 'rb') as f:
        return hashlib.file_digest(f, 'sha256').hexdigest()


def with_format(conn, more=''):
    """A token for a request that names the format."""
    answer = control(conn, OPTIONS.format('<format>qcow2</format>' + more))
    return int(ElementTree.fromstring(answer).get('token'))


def run(conn, mode, token=None):
    """A job on lv1 by the streaming door; its report."""
    report = StreamJob(conn, volume(conn, 'lv1', 'vg1'), mode, with_format(conn) if token is None else token).report()
    check_schema(report)
    return report


def test_capabilities_name_the_pools(t):
    """All whose backend is installed, and no other."""
    with t.lab('clean') as lab, connection(lab) as conn:
        root = ElementTree.fromstring(control(conn, CAPABILITIES))
        ours = [e.get('name') for e in root.find('pools')]
        stock = ElementTree.fromstring(lab.virsh('pool-capabilities').stdout)
        there = {e.get('type') for e in stock if e.tag == 'pool' and e.get('supported') == 'yes'}
        assert ours[:3] == ['dir', 'fs', 'netfs'], ours
        known = {'dir', 'fs', 'netfs', 'logical', 'disk', 'iscsi', 'scsi', 'mpath', 'zfs'}
        assert set(ours) == there & known, (ours, there)
        assert 'repair is off' not in lab.log()


def test_unknown_backend_is_left_alone(t):
    """One table that is not as we know it: pools of that type are libvirt's own, all others are served."""
    with group_lab(t, other_module=True) as (lab, device), connection(lab) as conn:
        before = put_image(t, device)
        assert 'repair is off for pools of type logical' in lab.log()
        names = [e.get('name') for e in ElementTree.fromstring(control(conn, CAPABILITIES)).find('pools')]
        assert 'logical' not in names and {'dir', 'disk'} <= set(names), names
        done = lab.virsh_ours('vol-repair', 'vg1', 'lv1', '--mode=all', '--format=qcow2')
        assert done.returncode == 1 and "in a pool of type 'logical'" in done.stderr, done
        assert 'dir, fs, netfs' in done.stderr, done
        stream = conn.newStream()
        volume(conn, 'lv1', 'vg1').download(stream, 0, 4, 0)
        assert stream.recv(4) == b'QFI\xfb' and digest(device) == before
        stream.finish()
        # Its LVs can still be reached from a pool of files.
        vol = conn.storagePoolLookupByName('default').createXMLFrom(
            report_xml('lv1.repair-check.qcow2.json'), volume(conn, 'lv1', 'vg1'), 0)
        assert json.loads(read_volume(conn, vol))['leaks'] == 10


def test_stream(t):
    """check, leaks and undo by the streaming door, with the format from the request."""
    with group_lab(t) as (lab, device), connection(lab) as conn:
        before = put_image(t, device)
        assert run(conn, 'check')['leaks'] == 10
        assert digest(device) == before
        assert run(conn, 'all')['verdict'] == 'repaired'
        assert qemu_check(device).get('leaks', 0) == 0
        assert jobs(conn)[0]['pool'] == 'vg1' and jobs(conn)[0]['volume'] == 'lv1'
        # An undo finds its journal and needs no format.
        assert run(conn, 'undo', token=0)['verdict'] == 'undone'
        assert digest(device) == before


def test_virsh_as_typed(t):
    with group_lab(t) as (lab, device):
        before = put_image(t, device)
        done = lab.virsh_ours('vol-repair', 'vg1', 'lv1', '--mode=all')
        assert done.returncode == 63 and '--format=qcow2' in done.stderr and "type 'logical'" in done.stderr, done
        assert digest(device) == before
        done = lab.virsh_ours('vol-repair', 'vg1', 'lv1', '--mode=all', '--format=qcow2')
        assert done.returncode == 0, done
        assert qemu_check(device).get('leaks', 0) == 0
        done = lab.virsh_ours('vol-repair', 'vg1', 'lv1', '--mode=undo')
        assert done.returncode == 0 and digest(device) == before, done


def test_format_is_never_guessed(t):
    """A device that looks like qcow2 is not taken for one: its contents are the guest's."""
    with group_lab(t) as (lab, device), connection(lab) as conn:
        before = put_image(t, device)
        for mode in ('check', 'leaks', 'all'):
            text = expect_error(libvirt.VIR_ERR_OPERATION_UNSUPPORTED, StreamJob, conn, volume(conn, 'lv1', 'vg1'), mode)
            assert '--format=qcow2' in text and "type 'logical'" in text, text
            text = expect_error(libvirt.VIR_ERR_OPERATION_UNSUPPORTED, create_from, conn, 'lv1', mode, 'default', 'vg1')
            assert f'lv1.repair-{mode}.qcow2.json' in text, text
        assert digest(device) == before and not list(lab.pool_dir.iterdir())


def test_create_from(t):
    """The report in a pool of files, the damaged LV in its own; the report's name has the format."""
    with group_lab(t) as (lab, device), connection(lab) as conn:
        before = put_image(t, device)
        files, source = conn.storagePoolLookupByName('default'), volume(conn, 'lv1', 'vg1')
        vol = files.createXMLFrom(report_xml('lv1.repair-all.qcow2.json'), source, 0)
        report = json.loads(read_volume(conn, vol))
        check_schema(report)
        assert report['verdict'] == 'repaired' and qemu_check(device).get('leaks', 0) == 0
        assert jobs(conn)[0]['pool'] == 'vg1', jobs(conn)
        vol = files.createXMLFrom(report_xml('lv1.repair-undo.json'), source, 0)
        assert json.loads(read_volume(conn, vol))['verdict'] == 'undone' and digest(device) == before


def test_report_in_the_group(t):
    """A volume group is no place for a report: nothing is cloned, and libvirt takes its new LV away."""
    with group_lab(t, spare=True) as (lab, device), connection(lab) as conn:
        before = put_image(t, device)
        group, source = conn.storagePoolLookupByName('vg1'), volume(conn, 'lv1', 'vg1')
        xml = report_xml('lv1.repair-all.qcow2.json')
        text = expect_error(libvirt.VIR_ERR_INVALID_ARG, group.createXMLFrom, xml, source, 0)
        assert "pool of files, not in one of type 'logical'" in text, text
        assert [v.name() for v in group.listAllVolumes()] == ['lv1'] and digest(device) == before
        # An ordinary clone is libvirt's, as ever.
        group.createXMLFrom('<volume><name>copy</name><capacity>1</capacity></volume>', source, 0)
        assert digest(t.tmp / 'spare.img') == before


def changes(conn):
    """What would change lv1: (name, call)"""
    vol = volume(conn, 'lv1', 'vg1')

    def upload():
        stream = conn.newStream()
        vol.upload(stream, 0, 512, 0)
        stream.abort()
    return [('delete', lambda: vol.delete(0)), ('wipe', lambda: vol.wipe(0)), ('upload', upload)]


def test_lv_under_a_job_is_left_alone(t):
    with group_lab(t, 'slow', spare=True) as (lab, device), connection(lab) as conn, connection(lab) as other:
        before = put_image(t, device)
        vol, group = volume(other, 'lv1', 'vg1'), other.storagePoolLookupByName('vg1')
        reads = [('download', lambda: read_volume(other, vol)), ('clone', lambda: group.createXMLFrom(
            '<volume><name>copy</name><capacity>1</capacity></volume>', vol, 0))]
        for mode in ('check', 'all'):
            job = StreamJob(conn, volume(conn, 'lv1', 'vg1'), mode, with_format(conn))
            assert job.until('progress')
            for name, call in changes(other) + (reads if mode == 'all' else []):
                text = expect_error(libvirt.VIR_ERR_OPERATION_INVALID, call)
                assert 'is working on it' in text, f'{name}: {text}'
            job.abort()
            wait_for_state(conn, 'done')
        assert digest(device) == before


def test_lv_is_free_after_the_job(t):
    with group_lab(t) as (lab, device), connection(lab) as conn:
        put_image(t, device)
        assert run(conn, 'check')['leaks'] == 10
        for name, call in changes(conn)[::-1]:
            call()
        assert conn.storagePoolLookupByName('vg1').listAllVolumes() == []


def test_link_that_others_can_change(t):
    """A link is followed only where nobody but root can let it lead elsewhere."""
    with group_lab(t) as (lab, device), connection(lab) as conn:
        before = put_image(t, device)
        vol, token = volume(conn, 'lv1', 'vg1'), lambda: with_format(conn)
        for change, back in ((['chmod', '777', '/dev/vg1'], ['chmod', '755', '/dev/vg1']),
                             (['chown', 'nobody', '/dev/vg1'], ['chown', 'root', '/dev/vg1'])):
            assert lab.run(change).returncode == 0
            text = expect_error(libvirt.VIR_ERR_OPERATION_FAILED, StreamJob, conn, vol, 'all', token())
            assert 'others than root can change' in text, text
            assert lab.run(back).returncode == 0
        # To a file, round in circles, through a directory that is a link.
        for script, reason in (('touch /dev/file; ln -sf ../file /dev/vg1/lv1', 'is not a block device'),
                               ('ln -sf ../vg1/lv1 /dev/vg1/lv1', 'Too many levels of symbolic links'),
                               ('ln -s . /dev/here; ln -sf ../here/dm-0 /dev/vg1/lv1', 'others than root can change')):
            assert lab.run(['sh', '-c', script]).returncode == 0
            text = expect_error(libvirt.VIR_ERR_OPERATION_FAILED, StreamJob, conn, vol, 'all', token())
            assert reason in text, text
        assert digest(device) == before


def test_link_in_a_pool_of_files(t):
    """There it is refused as ever, wherever it leads."""
    with group_lab(t) as (lab, device), connection(lab) as conn:
        before = put_image(t, device)
        (lab.pool_dir / 'disk.qcow2').symlink_to('/dev/vg1/lv1')
        assert lab.virsh('pool-refresh', 'default').returncode == 0
        text = expect_error(libvirt.VIR_ERR_OPERATION_FAILED, StreamJob, conn, volume(conn, 'disk.qcow2'), 'all',
                            with_format(conn))
        assert 'it is a symbolic link' in text and digest(device) == before, text


# ---- who else has it ----------------------------------------------------------------------------------------------

DOMAIN = '''<domain type='qemu'><name>vm</name><memory unit='MiB'>64</memory><os><type arch='x86_64'>hvm</type></os>
<devices><disk type='block' device='disk'><driver name='qemu' type='qcow2'/><source dev='/dev/vg1/lv1'/>
<target dev='vda' bus='virtio'/>{}</disk><memballoon model='none'/></devices></domain>'''


NO_KCMP = '''#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <sys/syscall.h>
long syscall(long number, long a, long b, long c, long d, long e, long f);
long syscall(long number, long a, long b, long c, long d, long e, long f)
{
    long (*next)(long, ...) = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    errno = ENOSYS;
    return number == SYS_kcmp ? -1 : next(number, a, b, c, d, e, f);
}
'''


NO_ANSWER = '''#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
void *virConnectOpen(const char *name);
void *virConnectOpen(const char *name)
{
    void *(*next)(const char *) = (void *(*)(const char *))dlsym(RTLD_NEXT, "virConnectOpen");
    return next(name && strncmp(name, "qemu", 4) == 0 ? getenv("INSTEAD_OF_QEMU") : name);
}
'''


def test_no_answer_is_not_no_domain(t):
    """A daemon of domains that is down leaves its domains running; without any such driver there are none."""
    preload = t.tmp / 'no-answer.so'
    subprocess.run(['cc', '-shared', '-fPIC', '-x', 'c', '-', '-o', preload], input=NO_ANSWER, text=True, check=True)
    for instead, answers in (('qemu+unix:///system?socket=/nowhere', False), ('nosuch:///system', True)):
        with group_lab(t, daemon_env={'LD_PRELOAD': str(preload), 'INSTEAD_OF_QEMU': instead}) as (lab, device), \
                connection(lab) as conn:
            before = put_image(t, device)
            assert run(conn, 'check')['leaks'] == 10
            if answers:
                assert run(conn, 'leaks')['verdict'] == 'repaired'
                continue
            text = expect_error(libvirt.VIR_ERR_OPERATION_FAILED, StreamJob, conn, volume(conn, 'lv1', 'vg1'), 'leaks',
                                with_format(conn))
            assert 'it cannot be seen whether a running domain has' in text and digest(device) == before, text


def other_node(t, device):
    """As libvirt gives a QEMU in a mount namespace of its own: QEMU's locks do not show on the first one."""
    node = t.tmp / 'node'
    if not node.exists():
        os.mknod(node, 0o600 | stat.S_IFBLK, os.stat(device).st_rdev)
    return node


def program(t, mode, device, *more):
    journal = [] if mode == 'check' else [f'--undo={t.tmp}/journal']
    return [t.program, '--accel=process', f'--mode={mode}', '-f', 'qcow2', *journal, *more, device]


def test_check_of_a_device_that_is_written_to(t):
    """What a check would find there may never have been on disk at one time; who only reads does no harm."""
    with loop_device(t.tmp / 'disk.img', 32 << 20) as device:
        put_image(t, device)
        node = other_node(t, device)
        with open(node, 'r+b') as file:
            holder = subprocess.Popen(['sleep', '60'], stdin=file)
        try:
            done = subprocess.run(program(t, 'check', device), capture_output=True, text=True, check=False)
            assert done.returncode == 1 and 'open elsewhere' in done.stderr, done
            done = subprocess.run(program(t, 'check', device, '-U'), capture_output=True, text=True, check=False)
            assert done.returncode == 3 and '10 leaked clusters' in done.stdout, done
        finally:
            holder.kill()
            holder.wait()
        with open(node, 'rb') as file:
            holder = subprocess.Popen(['sleep', '60'], stdin=file)
        try:
            done = subprocess.run(program(t, 'check', device), capture_output=True, text=True, check=False)
            assert done.returncode == 3, done
        finally:
            holder.kill()
            holder.wait()


def test_lv_of_a_running_domain(t):
    """A check and a repair are refused as those of a file are; a check not where the domain only reads."""
    with group_lab(t) as (lab, device), connection(lab) as conn:
        before = put_image(t, device)
        domain = conn.createXML(DOMAIN.format(''), 0)
        for mode in ('check', 'all'):
            text = expect_error(libvirt.VIR_ERR_OPERATION_INVALID, StreamJob, conn, volume(conn, 'lv1', 'vg1'), mode,
                                with_format(conn))
            assert "the running domain 'vm' has it" in text, text
        domain.destroy()
        assert digest(device) == before
        domain = conn.createXML(DOMAIN.format('<readonly/>'), 0)
        assert run(conn, 'check')['leaks'] == 10
        text = expect_error(libvirt.VIR_ERR_OPERATION_INVALID, StreamJob, conn, volume(conn, 'lv1', 'vg1'), 'all',
                            with_format(conn))
        assert "the running domain 'vm' has it" in text, text
        domain.destroy()
        assert run(conn, 'all')['verdict'] == 'repaired'


def slow_image(path):
    """Some seconds of work, and one reference too many; all is found by a walk that has long begun."""
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-o', 'cluster_size=512', path, '64M'], check=True)
    subprocess.run(['qemu-io', '-f', 'qcow2', '-c', 'write -q -P 9 0 16M', path], check=True, stdout=subprocess.DEVNULL)
    with open(path, 'r+b') as f:
        f.seek(48)
        table, = struct.unpack('>Q', f.read(8))
        f.seek(table)
        block, = struct.unpack('>Q', f.read(8))
        f.seek(block + 2 * 200)
        assert f.read(2) == b'\0\1'
        f.seek(block + 2 * 200)
        f.write(b'\0\2')
    return path


def stopped_guest(parent):
    """The repairer's own process, two below the program, stopped where it is."""
    def below(pid):
        return Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
    guest = wait_until(lambda: [g for child in below(parent) for g in below(child)], 10, 0.001)
    os.kill(int(guest[0]), signal.SIGSTOP)
    return int(guest[0])


def test_device_opened_during_a_repair(t):
    """By another node, where no lock is seen: nothing is written under whom the walk did not find."""
    with loop_device(t.tmp / 'disk.img', 256 << 20) as device:
        image = slow_image(t.tmp / 'image.qcow2')
        copy_to(image, device)
        before, node = digest(device), other_node(t, device)
        with subprocess.Popen(program(t, 'leaks', device, '--timeout=0'), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True) as run_:
            guest = stopped_guest(run_.pid)
            with qemu_with(node) as vm:
                vm.stdin.write('info block\n')
                vm.stdin.flush()
                assert wait_until(lambda: str(node) in vm.stdout.readline(), 10)
                os.kill(guest, signal.SIGCONT)
                said = run_.communicate(timeout=100)[0]
        assert run_.returncode == 1 and 'open elsewhere' in said and digest(device) == before, said
        assert not list(t.tmp.glob('journal*')), 'a journal of nothing is left'
        done = subprocess.run(program(t, 'leaks', device), capture_output=True, text=True, check=False)
        assert done.returncode == 0 and digest(device) != before, done


def test_kernel_that_cannot_compare(t):
    """Without kcmp(2) our own processes, which have the device as well, are not taken for others."""
    library = t.tmp / 'no-kcmp.so'
    subprocess.run(['cc', '-shared', '-fPIC', '-x', 'c', '-', '-o', library], input=NO_KCMP, text=True, check=True)
    with loop_device(t.tmp / 'disk.img', 32 << 20) as device:
        put_image(t, device)
        done = subprocess.run(program(t, 'leaks', device), capture_output=True, text=True, check=False,
                              env={**os.environ, 'LD_PRELOAD': str(library)})
        assert done.returncode == 0 and qemu_check(device).get('leaks', 0) == 0, done


def test_file_opened_during_a_repair(t):
    """By who takes no locks, in the same way."""
    image = slow_image(t.tmp / 'image.qcow2')
    before = digest(image)
    with subprocess.Popen(program(t, 'leaks', image, '--timeout=0'), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True) as run_:
        guest = stopped_guest(run_.pid)
        with open(image, 'rb'):
            os.kill(guest, signal.SIGCONT)
            said = run_.communicate(timeout=100)[0]
    assert run_.returncode == 1 and 'open elsewhere' in said and digest(image) == before, said
