# SPDX-License-Identifier: LGPL-2.1-or-later
"""reboot.py: the power goes in the middle of two commits, of a file through libvirt and of an LV, and dm numbers change by it."""
import json
import time

from lab import (IMAGES, PAYLOAD, STORAGE_AGAIN, checksum, data_hash, ended, make, matches, never_says, repair, report_of, same)

COMMIT_SECONDS = 300


def dm_name(host, path):
    return host.do(f'basename $(readlink -f {path})').strip()


def hash_of(host, path):
    if path == '/dev/vg1/lv1':
        return checksum(host, path)
    return data_hash(host, path, '/srv/large/large.qcow2' if path == '/dev/vg1/lvbig' else '')


def volumes_before_the_reboot(host):
    """LVs in the order lv0, lv1, lvbig; lv1 is repaired; then lv0 goes, so that the next boot numbers them anew."""
    host.do('lvcreate -q -y -L 32M -n lv0 vg1; lvcreate -q -y -L 128M -n lv1 vg1; lvcreate -q -y -L 17G -n lvbig vg1; udevadm settle')
    host.do(f'{PAYLOAD}/make.sh /dev/vg1/lv1 64M zero copied')
    host.do(f'{PAYLOAD}/make-large.sh /dev/vg1/lvbig', timeout=600)
    host.do(f'{PAYLOAD}/make-large.sh {IMAGES}/big.qcow2; virsh -q pool-refresh default; virsh -q pool-refresh vg1', timeout=600)
    host.before = {path: hash_of(host, path) for path in ('/dev/vg1/lv1', '/dev/vg1/lvbig', f'{IMAGES}/big.qcow2')}
    host.names = {path: dm_name(host, path) for path in ('/dev/vg1/lv1', '/dev/vg1/lvbig')}
    ended(host.type('vol-repair --mode=all -f qcow2 /dev/vg1/lv1'), 0)
    host.do('lvremove -q -y vg1/lv0; sync')


def run_into_commit(host, command):
    """Starts a job and stops all of it (SIGSTOP) as it writes; the percent it was at. The machine does not see its end."""
    job = host.start(command)
    deadline, pid = time.monotonic() + COMMIT_SECONDS, 0
    for line in job.stdout:
        event = json.loads(line) if line.startswith('{') else {}
        if event.get('event') == 'start':
            pid = event['pid']
        if event.get('event') == 'report' or time.monotonic() > deadline:
            break
        if event.get('phase') == 'commit' and event.get('percent', 0) > 0:
            host.do(f'kill -STOP {pid} $(pgrep -P {pid}); sleep 0.5')
            return event['percent']
    raise AssertionError(f'{command}: it ended before it could be stopped in its commit')


def power_cut_in_two_commits(host):
    at_file = run_into_commit(host, f'{PAYLOAD}/client.py default big.qcow2 all')
    at_lv = run_into_commit(host, 'vol-repair --mode=all --stream -f qcow2 /dev/vg1/lvbig 2>/dev/null')
    host.do('sync /dev/vg1/lvbig')  # the LV is half written then; how much of the file is, the cut decides
    host.cut_power()
    print(f'     power cut at {at_file} % of the file\'s job and {at_lv} % of the LV\'s; up again after {host.boot():.0f} s', flush=True)
    host.do(STORAGE_AGAIN)


def n02_interrupted_repair_is_told(host):
    said = repair(host, 'default big.qcow2', 'check')
    matches(said, r'interrupted')
    never_says(said, 'is all right')
    stream = report_of(host.do(f'{PAYLOAD}/client.py default big.qcow2 check'))
    assert 'interrupted' in json.dumps(stream), f'the report does not tell: {sorted(stream)}'


def n02_corrupt_bit_is_not_all_right(host):
    make(host, f'{IMAGES}/bit.qcow2', 'corrupt-bit')
    said = repair(host, 'default bit.qcow2', 'check')
    never_says(said, 'is all right')
    assert said.code != 0 or 'corrupt' in said, said
    assert host.type(f'qemu-io -f qcow2 -c "read 0 512" -c "write 0 512" {IMAGES}/bit.qcow2').code != 0
    ended(repair(host, 'default bit.qcow2', 'all'), 0)
    host.do(f'qemu-io -f qcow2 -c "write 0 512" {IMAGES}/bit.qcow2')


def power_cut_file_is_mended_and_undone(host):
    ended(repair(host, 'default big.qcow2', 'all', timeout=600), 0)
    ended(repair(host, 'default big.qcow2', 'undo', timeout=600), 0)
    same('the file after cut, repair and undo', hash_of(host, f'{IMAGES}/big.qcow2'), host.before[f'{IMAGES}/big.qcow2'])


def n01_numbers_of_device_mapper_changed(host):
    for path, name in host.names.items():
        assert dm_name(host, path) != name, f'{path} is {name} as before the reboot: this test shows nothing'


def n01_undo_of_a_finished_repair_after_the_reboot(host):
    ended(host.type('vol-repair --mode=undo -f qcow2 /dev/vg1/lv1'), 0)
    same('lv1', hash_of(host, '/dev/vg1/lv1'), host.before['/dev/vg1/lv1'])


def n01_interrupted_repair_is_found_after_the_reboot(host):
    said = host.type('vol-repair --mode=check -f qcow2 /dev/vg1/lvbig', timeout=600)
    matches(said, r'interrupted')
    ended(host.type('vol-repair --mode=all -f qcow2 /dev/vg1/lvbig', timeout=600), 0)
    ended(host.type('vol-repair --mode=undo -f qcow2 /dev/vg1/lvbig', timeout=600), 0)
    same('lvbig after cut, repair and undo', hash_of(host, '/dev/vg1/lvbig'), host.before['/dev/vg1/lvbig'])


def n01_no_journal_is_pushed_aside(host):
    """Another image at lv1's place: its repair must not take the old image's journal away while that is needed by nobody else."""
    ended(host.type('vol-repair --mode=all -f qcow2 /dev/vg1/lv1'), 0)
    before = host.do('ls /var/lib/vol-repair/undo').split()
    ended(host.type('vol-repair --mode=all -f qcow2 /dev/vg1/lvbig', timeout=600), 0)
    after = host.do('ls /var/lib/vol-repair/undo').split()
    lost = [name for name in before if name not in after]
    assert not lost, f'gone: {lost}'
    ended(host.type('vol-repair --mode=undo -f qcow2 /dev/vg1/lv1'), 0)
    same('lv1', hash_of(host, '/dev/vg1/lv1'), host.before['/dev/vg1/lv1'])


TESTS = [volumes_before_the_reboot, power_cut_in_two_commits, n01_numbers_of_device_mapper_changed, n02_interrupted_repair_is_told,
         power_cut_file_is_mended_and_undone, n02_corrupt_bit_is_not_all_right, n01_undo_of_a_finished_repair_after_the_reboot,
         n01_interrupted_repair_is_found_after_the_reboot, n01_no_journal_is_pushed_aside]
