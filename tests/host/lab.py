# SPDX-License-Identifier: LGPL-2.1-or-later
"""lab.py: what the tests on the host share: its pools and volumes, and short words for what is to be seen there."""
import json
import re
import shlex

IMAGES = '/var/lib/libvirt/images'
PAYLOAD = '/root/payload'
JOURNALS = '/var/lib/vol-repair/undo'
# The pools: a directory, a file system on a partition, NFS from ourselves with and without root_squash, LVM, a disk.
STORAGE = '''
set -e
pvcreate -q /dev/vdb; vgcreate -q vg1 /dev/vdb
lvcreate -q -y -L 4M -n keep vg1  # a group without a volume is an inactive pool
parted -s /dev/vdc mklabel gpt mkpart p1 1MiB 1GiB mkpart p2 1GiB 1536MiB
udevadm settle
mke2fs -q -t ext4 /dev/vdc1
mkdir -p /srv/fs /srv/nfs1 /srv/nfs2 /mnt/nfs1 /mnt/nfs2
chown libvirt-qemu:libvirt-qemu /srv/nfs2; chmod 755 /srv/nfs2
printf '/srv/nfs1 127.0.0.1(rw,no_root_squash,no_subtree_check,insecure)\\n' >/etc/exports
printf '/srv/nfs2 127.0.0.1(rw,root_squash,no_subtree_check,insecure)\\n' >>/etc/exports
systemctl start nfs-server; exportfs -ra
virsh -q pool-define-as default dir --target /var/lib/libvirt/images
virsh -q pool-define-as fs1 fs --source-dev /dev/vdc1 --target /srv/fs
virsh -q pool-define-as nfs1 netfs --source-host 127.0.0.1 --source-path /srv/nfs1 --target /mnt/nfs1
virsh -q pool-define-as nfs2 netfs --source-host 127.0.0.1 --source-path /srv/nfs2 --target /mnt/nfs2
virsh -q pool-define-as vg1 logical --source-name vg1 --target /dev/vg1
virsh -q pool-define-as disk1 disk --source-dev /dev/vdc --source-format gpt --target /dev
for pool in default fs1 nfs1 nfs2 vg1 disk1; do virsh -q pool-start $pool; done
virsh -q pool-autostart default; virsh -q pool-autostart vg1
'''

# What does not start by itself after a boot.
STORAGE_AGAIN = '''
systemctl start nfs-server; exportfs -ra; udevadm settle
mkdir -p /srv/large; mount -o ro /dev/vdd /srv/large
for pool in default fs1 nfs1 nfs2 vg1 disk1; do virsh pool-start $pool; done
for pool in default fs1 nfs1 vg1; do virsh -q pool-refresh $pool || exit 1; done
'''


class Skip(Exception):
    """Why a test cannot be tried on this host."""


def says(output, *texts):
    for text in texts:
        assert text in output, f'it does not say "{text}": {" ".join(output.split())[-400:]}'


def matches(output, pattern):
    assert re.search(pattern, output, re.IGNORECASE), f'nothing in it is like "{pattern}": {" ".join(output.split())[-400:]}'


def never_says(output, *texts):
    for text in texts:
        assert text not in output, f'it says "{text}": {" ".join(output.split())[-400:]}'


def ended(output, code):
    assert output.code == code, f'it ended with {output.code}, not {code}: {" ".join(output.split())[-400:]}'


def same(what, now, before):
    assert now == before, f'{what} is {now}, and was {before}'


def repair(host, volume, mode, *more, user='root', timeout=300):
    """`virsh vol-repair POOL VOLUME --mode=...` as it is typed; volume: "POOL VOLUME"."""
    uri = '' if user == 'root' else '-c qemu:///system '
    return host.type(' '.join([f'virsh {uri}vol-repair {volume} --mode={mode}', *more]), user=user, timeout=timeout)


def report_of(text):
    """The report in the lines of a stream."""
    lines = [line for line in text.splitlines() if line.startswith('{"event":"report",')]
    assert lines, f'the stream has no report: {text[-300:]}'
    return json.loads(lines[-1])['report']


def make(host, path, *kinds, size='64M'):
    pool = {IMAGES: 'default', '/srv/fs': 'fs1', '/mnt/nfs1': 'nfs1'}.get(path.rsplit('/', 1)[0])
    refresh = f'; virsh -q pool-refresh {pool}' if pool else ''
    host.do(f'{PAYLOAD}/make.sh {shlex.quote(path)} {size} {" ".join(kinds)}{refresh}')


def checksum(host, path):
    return host.do(f'sha256sum {shlex.quote(path)}').split()[0]


def data_hash(host, path, like=''):
    """Of the data in a sparse file; of a device, where the file `like` has data."""
    return host.do(f'{PAYLOAD}/datahash.py {shlex.quote(path)} {like}').strip()


def domain(host, name, path):
    host.do(f'{PAYLOAD}/domain.sh {name} {path}')


def forget_domain(host, name):
    host.type(f'virsh destroy {name}; virsh undefine {name} --managed-save --snapshots-metadata')


def restart_daemon(host):
    """The storage daemon of this host anew, after `systemctl daemon-reload`."""
    host.do(f'systemctl daemon-reload && systemctl restart {host.daemon}', timeout=400)
    host.do('virsh -q list >/dev/null')


def pools_are_well(host):
    listed = host.do('virsh pool-list --all')
    never_says(listed, 'unknown', 'error')
    for pool in ('default', 'vg1', 'fs1'):
        matches(listed, rf'\n {pool} +active')
    return listed


def clears_and_undoes(host, volume, path, mode='all', more=''):
    """Damaged, checked, repaired, checked, taken back byte for byte, and repaired again."""
    before = checksum(host, path)
    ended(repair(host, volume, 'check', more), 2)
    same('the image after a check', checksum(host, path), before)
    said = repair(host, volume, mode, more)
    ended(said, 0)
    says(said, 'is repaired')
    host.do(f'qemu-img check -q -f qcow2 {path}')
    said = repair(host, volume, 'undo', more)
    ended(said, 0)
    same('the image after an undo', checksum(host, path), before)
    ended(repair(host, volume, mode, more), 0)


def create_from(host, report, source):
    """A repair whose report becomes the volume `report` of the pool "default"."""
    host.do(f"printf \"<volume><name>{report}</name><capacity>0</capacity><target><format type='raw'/></target></volume>\" >/tmp/new.xml; "
            f'virsh vol-create-from default /tmp/new.xml {source}')
