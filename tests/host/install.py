# SPDX-License-Identifier: LGPL-2.1-or-later
"""install.py: how vol-repair comes to a host and leaves it: meson's default prefix, the packages, their purge; n04, n05, n06, n12."""
import re

from lab import (IMAGES, JOURNALS, PAYLOAD, STORAGE, Skip, checksum, ended, make, matches, never_says, pools_are_well, repair,
                 restart_daemon, same, says)

CAPABILITIES = f'{PAYLOAD}/client.py "<vol-repair request=\'capabilities\'/>"'
# Everything that tells stock libvirt from one that was touched.
STOCK = '''
dpkg -S $(command -v virsh); file -L $(command -v virsh) | cut -c 1-200; virsh --version
systemctl show libvirtd virtstoraged -p DropInPaths -p Environment
ls -A /etc/systemd/system/libvirtd.service.d /lib/systemd/system/libvirtd.service.d /etc/systemd/system/virtstoraged.service.d 2>&1
virsh pool-list --all; cat /etc/apparmor.d/local/usr.sbin.libvirtd
find / -xdev -name '*vol-repair*' -not -path '/root/*' -not -path '/home/*' -not -path '/var/log/*' -not -path '/var/lib/vol-repair*' -not -path '/etc/vol-repair-host'
'''


def storage_of_the_host(host):
    host.do(STORAGE, timeout=400)
    pools_are_well(host)
    host.stock = host.do(STOCK)


def n04_meson_install_with_the_default_prefix(host):
    """/usr/local, AppArmor enforcing: it works, or one line says what to run, and after that it works."""
    host.send([host.local_tree], '/root')
    host.do(f'tar -C / --no-same-owner -xf /root/{host.local_tree.name}; ldconfig; '
            'cp /etc/apparmor.d/local/usr.sbin.libvirtd /root/local.before')
    restart_daemon(host)
    make(host, f'{IMAGES}/n4.qcow2', 'zero')
    program = '/usr/local/bin/virt-vol-repair'
    result = host.type(f'{program} default n4.qcow2 --mode=all')
    if result.code != 0:
        says(host.do(CAPABILITIES), "usable='no'")
        hint = re.search(r"echo '[^']+ PUx,' >>/etc/\S+ && apparmor_parser -r /etc/\S+", result + host.post_install)
        assert hint, f'nothing says what to run: {result}'
        host.do(hint.group())
        restart_daemon(host)
        ended(host.type(f'{program} default n4.qcow2 --mode=all'), 0)
    says(host.do(CAPABILITIES), "usable='yes'")


def n04_removed_again(host):
    host.do(f"tar -tf /root/{host.local_tree.name} | sed 's#^\\.##' | grep -v '/$' >/root/local.list; "
            "grep service.d /root/local.list | xargs -r rm -f; systemctl daemon-reload; "
            f'systemctl restart {host.daemon}; xargs -r rm -f </root/local.list; ldconfig; '
            'cp /root/local.before /etc/apparmor.d/local/usr.sbin.libvirtd; apparmor_parser -r /etc/apparmor.d/usr.sbin.libvirtd', timeout=400)
    host.do('virsh pool-destroy vol-repair; find / -xdev -depth -type d -name "*vol-repair*" -not -path "/root/*" -exec rm -r {} + ; '
            'find /usr/local/lib/systemd -depth -type d -empty -delete; systemctl daemon-reload; true')
    same('what tells stock libvirt', host.do(STOCK), host.stock)


def packages_are_installed(host):
    host.install()
    pools_are_well(host)


def n05_virsh_vol_repair_as_typed(host):
    """By root, through sudo, and by a user of group libvirt; what README's first lines show."""
    make(host, f'{IMAGES}/disk.qcow2', 'zero', 'copied')
    before = checksum(host, f'{IMAGES}/disk.qcow2')
    for user, virsh in (('root', 'virsh'), ('carol', 'sudo virsh'), ('alice', 'virsh -c qemu:///system')):
        for mode, code in (('check', 2), ('all', 0), ('undo', 0)):
            said = host.type(f'bash -lc "{virsh} vol-repair default disk.qcow2 --mode={mode}"', user=user)
            ended(said, code)
        same(f'the image after the undo of {user}', checksum(host, f'{IMAGES}/disk.qcow2'), before)
    says(host.do('virsh help vol-repair'), '--mode')


def virsh_in_path(host):
    """A tree without packages diverts no virsh: from here on the front end is found all the same, so that the rest can be tried."""
    if not host.packages:
        host.do('ln -s /usr/lib/x86_64-linux-gnu/vol-repair/bin/virsh /usr/local/bin/virsh')


def n05_logical_volume_as_typed(host):
    host.do(f'lvcreate -q -y -L 128M -n typed vg1; udevadm settle; {PAYLOAD}/make.sh /dev/vg1/typed 64M zero; virsh -q pool-refresh vg1')
    said = host.type('virsh vol-repair vg1 typed --mode=all --format=qcow2')
    ended(said, 0)
    host.do('qemu-img check -q -f qcow2 /dev/vg1/typed; lvremove -q -y vg1/typed; virsh -q pool-refresh vg1')


def n06_files_go_before_the_drop_in(host):
    """The backend and its directory are deleted and the daemon starts again: every pool is there, as with stock libvirt."""
    host.do('mkdir /root/away && cd /usr/lib/*/vol-repair && mv storage-backend libvol-repair-backend.so /root/away/')
    try:
        restart_daemon(host)
        pools_are_well(host)
        host.do('virsh -q vol-create-as default n6.raw 1M && virsh -q vol-delete n6.raw default')
    finally:
        host.do('cd /usr/lib/*/vol-repair && mv /root/away/* . && rmdir /root/away')
        restart_daemon(host)
    make(host, f'{IMAGES}/n6.qcow2', 'zero')
    ended(repair(host, 'default n6.qcow2', 'all'), 0)


def n12_purge_leaves_stock_libvirt(host):
    if not host.packages:
        raise Skip('no packages were given')
    names = ' '.join(host.package_names)
    said = host.do(f'DEBIAN_FRONTEND=noninteractive apt-get purge -q -y {names}', timeout=600)
    says(host.type('virsh vol-repair default disk.qcow2'), "unknown command: 'vol-repair'")
    never_says(pools_are_well(host), ' vol-repair ')
    same('what tells stock libvirt', host.do(STOCK), host.stock)
    assert host.type('ls /run/vol-repair').code != 0, 'reports stay'
    if host.type(f'ls {JOURNALS}').code == 0:
        says(said, '/var/lib/vol-repair')  # each is the only copy of bytes of somebody's image: kept, and said
    host.do('virsh -q vol-create-as default last.raw 1M && virsh -q vol-delete last.raw default')


FIRST = [storage_of_the_host, n04_meson_install_with_the_default_prefix, n04_removed_again, packages_are_installed,
         n05_virsh_vol_repair_as_typed, virsh_in_path, n05_logical_volume_as_typed]
LAST = [n06_files_go_before_the_drop_in, n12_purge_leaves_stock_libvirt]
