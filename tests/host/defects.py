# SPDX-License-Identifier: LGPL-2.1-or-later
"""defects.py: a test for each defect that was once seen on a complete host and needs no reboot; n03 to n15, by its number there.

n01 and n02 are in reboot.py, n04, n05, n06 and n12 in install.py. With commit 536b34e these tests failed on Debian 13 for n03, n04,
n05, n07 and n08; the other defects were seen there by hand, on Debian 12.
"""
import json
import re

from lab import (IMAGES, JOURNALS, PAYLOAD, checksum, clears_and_undoes, create_from, domain, ended, forget_domain, make, matches, never_says, repair,
                 same, says)

LV = '/dev/vg1/lv3'


def volume_on(host, device):
    if device == LV:
        host.do(f'[ -b {LV} ] || lvcreate -q -y -L 128M -n lv3 vg1; udevadm settle')
    host.do(f'virsh -q pool-refresh vg1; virsh -q pool-refresh disk1; {PAYLOAD}/make.sh {device} 64M zero copied')


def n03_logical_volume_through_libvirt(host):
    volume_on(host, LV)
    clears_and_undoes(host, 'vg1 lv3', LV, more='--format=qcow2')


def n03_partition_through_libvirt(host):
    volume_on(host, '/dev/vdc2')
    clears_and_undoes(host, 'disk1 vdc2', '/dev/vdc2', more='--format=qcow2')


def n03_logical_volume_into_a_report(host):
    """create-from: the volume in its pool, the report in a directory pool, the format in its name."""
    volume_on(host, LV)
    for mode, verdict in (('check', 'corruptions-remain'), ('all', 'repaired'), ('undo', 'undone')):
        name = f'lv3.repair-{mode}.qcow2.json'
        create_from(host, name, 'lv3 --inputpool vg1')
        same(f'the verdict of {mode}', json.loads(host.do(f'cat {IMAGES}/{name}'))['verdict'], verdict)


def n07_full_logical_volume(host):
    """An image that fills its LV, its refcounts lost: the advice says by how much to extend; after that the same command mends it."""
    host.do('lvcreate -q -y -L 12M -n lvfull vg1 && udevadm settle')
    # Header, refcount table and block, L1 and L2 table, and 187 clusters of data: 192 of 64 KiB, which is all of the LV.
    host.do(f'''set -e; cd /tmp; rm -f full.qcow2
        qemu-img create -q -f qcow2 full.qcow2 64M
        qemu-io -f qcow2 -c 'write -q -P 1 0 11968K' full.qcow2
        [ $(stat -c %s full.qcow2) = $((12 << 20)) ]
        {PAYLOAD}/damage.py full.qcow2 rebuild
        dd if=full.qcow2 of=/dev/vg1/lvfull bs=1M conv=fsync status=none; virsh -q pool-refresh vg1''')
    before = checksum(host, '/dev/vg1/lvfull')
    said = host.type('vol-repair --mode=all -f qcow2 /dev/vg1/lvfull')
    assert said.code != 0, said
    same('the LV', checksum(host, '/dev/vg1/lvfull'), before)
    advice = re.search(r'lvextend -L \+\d+k', said)
    assert advice, f'no lvextend in the advice: {" ".join(said.split())[-400:]}'
    host.do(f'{advice.group(0)} /dev/vg1/lvfull')
    ended(host.type('vol-repair --mode=all -f qcow2 /dev/vg1/lvfull'), 0)
    host.do('qemu-img check -q -f qcow2 /dev/vg1/lvfull')


def n08_each_job_is_in_the_journal(host):
    make(host, f'{IMAGES}/n8.qcow2', 'zero')
    host.do('date "+%F %T" >/tmp/since; sleep 1')
    ended(repair(host, 'default n8.qcow2', 'all', user='alice'), 0)
    ended(repair(host, 'default n8.qcow2', 'undo'), 0)
    host.do(f'systemctl restart {host.daemon}; virsh -q list >/dev/null')
    lines = host.do('journalctl --no-pager -q -o json -t vol-repair --since "$(cat /tmp/since)"')
    entries = [json.loads(line) for line in lines.splitlines()]
    ended_jobs = [(entry['VOL_REPAIR_VERDICT'], entry['VOL_REPAIR_OWNER'], entry['VOL_REPAIR_VOLUME']) for entry in entries
                  if 'VOL_REPAIR_VERDICT' in entry]
    alice = host.do('id -u alice').strip()
    same('who did what', ended_jobs, [('repaired', f'uid:{alice}', 'n8.qcow2'), ('undone', 'uid:0', 'n8.qcow2')])
    assert any(entry.get('VOL_REPAIR_STATE') == 'on' for entry in entries), 'no entry tells that the extension is loaded'


def n08_jobs_that_ended_stand_at_100_percent(host):
    make(host, f'{IMAGES}/n8b.qcow2', 'zero')
    ended(repair(host, 'default n8b.qcow2', 'all'), 0)
    jobs = host.do(f'{PAYLOAD}/client.py "<vol-repair request=\'jobs\'/>"')
    done = [job for job in re.findall(r'<job [^>]*>', jobs) if "state='done'" in job]
    assert done and all("percent='100'" in job for job in done), jobs


def n09_nfs_with_root_squash(host):
    """root may not open it there: it is repaired as its owner, or refused with the reason."""
    make(host, '/tmp/n9.qcow2', 'zero')
    host.do('cp /tmp/n9.qcow2 /srv/nfs2/; chown libvirt-qemu:libvirt-qemu /srv/nfs2/n9.qcow2; chmod 660 /srv/nfs2/n9.qcow2; '
            'virsh -q pool-refresh nfs2')
    before = checksum(host, '/srv/nfs2/n9.qcow2')
    said = repair(host, 'nfs2 n9.qcow2', 'all')
    if said.code == 0:
        host.do('qemu-img check -q -f qcow2 /srv/nfs2/n9.qcow2')
    else:
        matches(said, r'squash')
        same('the image', checksum(host, '/srv/nfs2/n9.qcow2'), before)


def n10_logical_volume_of_a_running_domain(host):
    volume_on(host, LV)
    ended(repair(host, 'vg1 lv3', 'all', '--format=qcow2'), 0)
    domain(host, 'd10', LV)
    host.do('virsh -q start d10')
    try:
        before = checksum(host, LV)
        for mode in ('check', 'all'):
            said = repair(host, 'vg1 lv3', mode, '--format=qcow2')
            ended(said, 1)
            matches(said, r'use|open|running')
            said = host.type(f'vol-repair --mode={mode} -f qcow2 {LV}')
            ended(said, 1)
        same('the LV', checksum(host, LV), before)
    finally:
        forget_domain(host, 'd10')


def n11_managed_save(host):
    path = f'{IMAGES}/n11.qcow2'
    make(host, path, 'leak')
    domain(host, 'd11', path)
    host.do('virsh -q start d11; virsh -q managedsave d11', timeout=400)
    try:
        before = checksum(host, path)
        said = repair(host, 'default n11.qcow2', 'all')
        matches(said, r'managed.?save|saved')
        if said.code != 0:
            same('the image', checksum(host, path), before)
            host.do('virsh -q managedsave-remove d11')
            ended(repair(host, 'default n11.qcow2', 'all'), 0)
    finally:
        forget_domain(host, 'd11')


def n11_base_of_an_external_snapshot(host):
    make(host, f'{IMAGES}/base.qcow2', 'leak')
    host.do(f'qemu-img create -q -f qcow2 -F qcow2 -b {IMAGES}/base.qcow2 {IMAGES}/overlay.qcow2; virsh -q pool-refresh default')
    said = repair(host, 'default base.qcow2', 'all')
    matches(said, r'overlay|backing')
    host.do(f'rm {IMAGES}/overlay.qcow2; virsh -q pool-refresh default')


def n13_journals_end(host):
    """A volume that is deleted and made anew is repaired and undone; what the configuration allows to be kept is kept, no more."""
    path = f'{IMAGES}/n13.qcow2'
    make(host, path, 'zero')
    ended(repair(host, 'default n13.qcow2', 'all'), 0)
    host.do('virsh -q vol-delete n13.qcow2 default')
    make(host, path, 'zero', 'copied')
    before = checksum(host, path)
    ended(repair(host, 'default n13.qcow2', 'all'), 0)
    ended(repair(host, 'default n13.qcow2', 'undo'), 0)
    same('the image', checksum(host, path), before)
    says(host.do('cat /usr/lib/tmpfiles.d/*'), JOURNALS)
    for _ in range(12):
        host.do(f'{PAYLOAD}/damage.py {path} zero')
        ended(repair(host, 'default n13.qcow2', 'all'), 0)
    kept = host.do(f'ls {JOURNALS}').split()
    mine = [name for name in kept if 'n13.qcow2' in name]
    limit = int(re.search(r'undo_max_count\D*(\d+)', host.do('cat /etc/vol-repair/vol-repair.conf')).group(1))
    assert 0 < len(mine) <= limit < 14, f'{len(mine)} journals of one image are kept, and {limit} are allowed: {kept}'


def n14_restart_during_a_job(host):
    """The client says what became of the image and where the report is; nothing is written and the daemon is back."""
    path = f'{IMAGES}/long.qcow2'
    before = checksum_of_large(host, path)
    job = host.start('virsh vol-repair default long.qcow2 --mode=all --no-progress')
    host.do('for i in $(seq 100); do pgrep -x vol-repair >/dev/null && break; sleep 0.2; done; sleep 2; '
            f'systemctl restart {host.daemon}; for i in $(seq 100); do pgrep -x vol-repair >/dev/null || break; sleep 0.2; done; '
            '! pgrep -x vol-repair', timeout=400)
    said = job.communicate()[0]
    assert job.returncode == 1, said
    matches(said, r'nothing was written|not written|unchanged|was not changed|interrupted|report')
    same('the image', checksum_of_large(host, path), before)
    verdicts = host.do('grep -l aborted /run/vol-repair/reports/job-*-long.qcow2.json')
    says(verdicts, 'long.qcow2')


def checksum_of_large(host, path):
    return host.do(f'{PAYLOAD}/datahash.py {path}', timeout=300)


def n15_one_measure_for_bytes(host):
    make(host, f'{IMAGES}/n15.qcow2', 'copied')
    would = re.search(r'--mode=all would mend .* write (\d+) bytes', repair(host, 'default n15.qcow2', 'check'))
    did = re.search(r'(\d+) bytes of metadata', repair(host, 'default n15.qcow2', 'all'))
    assert would and did, 'a check or a repair names no bytes'
    same('what the repair wrote', did.group(1), would.group(1))


def n15_no_message_says_its_prefix_twice(host):
    make(host, '/mnt/nfs1/n15b.qcow2', 'leak')
    domain(host, 'd15', '/mnt/nfs1/n15b.qcow2')
    host.do('virsh -q start d15')
    try:
        for path in ('/srv/nfs1/n15b.qcow2', '/mnt/nfs1/n15b.qcow2'):
            said = host.type(f'vol-repair --mode=all -f qcow2 {path}')
            ended(said, 1)
            assert said.count('Could not open') <= 1, said
    finally:
        forget_domain(host, 'd15')


def n15_group_kvm_is_named(host):
    host.do('cp /tmp/n9.qcow2 /home/bob/n15c.qcow2; chown bob /home/bob/n15c.qcow2')
    said = host.type('vol-repair --mode=check --accel=kvm n15c.qcow2', user='bob')
    ended(said, 1)
    says(said, '/dev/kvm')
    matches(said, r'group.*kvm')
    ended(host.type('vol-repair --mode=all n15c.qcow2', user='bob'), 0)


def n15_completion_of_vol_repair(host):
    typed = host.do("bash -ic 'source /usr/share/bash-completion/bash_completion; _completion_loader vol-repair; complete -p vol-repair' "
                    '2>/dev/null')
    says(typed, 'complete')
    never_says(typed, '_minimal')


TESTS = [n03_logical_volume_through_libvirt, n03_partition_through_libvirt, n03_logical_volume_into_a_report, n07_full_logical_volume,
         n08_each_job_is_in_the_journal, n08_jobs_that_ended_stand_at_100_percent, n09_nfs_with_root_squash,
         n10_logical_volume_of_a_running_domain, n11_managed_save, n11_base_of_an_external_snapshot, n13_journals_end,
         n14_restart_during_a_job, n15_one_measure_for_bytes, n15_no_message_says_its_prefix_twice, n15_group_kvm_is_named,
         n15_completion_of_vol_repair]
