#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""image.py: makes the disk of a complete Debian host, by debootstrap and apt, from the apt sources of this machine.

The root file system is kept in build/host/<release>/root with the list of its packages in it, and made in a directory beside
it that is renamed when it is whole. Where the list has grown, the packages are added to a copy. tests/host/run.py calls this.
"""
import argparse
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = Path(os.environ.get('VOL_REPAIR_HOSTS', ROOT / 'build' / 'host'))
RELEASES = {'12': 'bookworm', '13': 'trixie'}
NEEDED_GIB = {'root': 9, 'run': 5}  # room to make a root and its image; room for the disks of one run
DISK_GIB = 12
PACKAGES = '''
linux-image-amd64 initramfs-tools systemd-sysv dbus udev kmod apparmor apparmor-utils auditd
libvirt-daemon-system libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86 qemu-utils lvm2 dmsetup
nfs-kernel-server nfs-common python3-libvirt openssh-server sudo man-db bash-completion procps iproute2 netbase acl
parted e2fsprogs polkitd dnsmasq-base dmidecode libxml2-utils logrotate cron rsyslog file zstd ca-certificates
libjson-glib-1.0-0 libseccomp2 libcap-ng0 libreadline8 libxml2 debconf libsystemd0 passwd
'''.split()
# Debian 13 packages the storage drivers by themselves, and renamed libraries for 64 bit times.
PACKAGES_OF = {
    '12': [],
    '13': '''libvirt-daemon-driver-storage libvirt-daemon-driver-storage-disk libvirt-daemon-driver-storage-logical
          libvirt-daemon-driver-storage-iscsi libvirt-daemon-driver-storage-scsi libvirt-daemon-driver-storage-mpath
          libvirt-daemon-common systemd-resolved'''.split(),
}


class CannotMake(Exception):
    """Why there is no image."""


class NoRoom(CannotMake):
    """The disk has no room for it, which is no fault of the tree: the suite is skipped."""


def archive_sources():
    """[(URI, suite, options)] of each Debian archive in this machine's apt sources, in both of their formats."""
    found = []
    for path in [Path('/etc/apt/sources.list'), *sorted(Path('/etc/apt/sources.list.d').glob('*'))]:
        if path.is_file() and path.suffix == '.sources':
            found += deb822_sources(path.read_text(encoding='utf-8'))
        elif path.is_file() and path.suffix == '.list':
            found += one_line_sources(path.read_text(encoding='utf-8'))
    return [entry for entry in found if any(name in entry[1] for name in ('bookworm', 'trixie', 'sid', 'stable', 'testing'))]


def deb822_sources(text):
    found = []
    for stanza in text.split('\n\n'):
        lines = [line for line in stanza.splitlines() if line.strip() and not line.startswith('#')]
        fields = dict(line.split(':', 1) for line in lines if ':' in line and not line[0].isspace())
        fields = {name.lower(): value.strip() for name, value in fields.items()}
        if 'deb' not in fields.get('types', '').split() or fields.get('enabled', 'yes') == 'no':
            continue
        if 'main' in fields.get('components', '').split():
            found += [(uri, suite, fields.get('signed-by', '')) for uri in fields['uris'].split() for suite in fields['suites'].split()]
    return found


def one_line_sources(text):
    found = []
    for line in text.splitlines():
        words = line.split('#')[0].split()
        if not words or words[0] != 'deb':
            continue
        signed = ''
        while words[1].startswith('[') or '=' in words[1]:
            option = words.pop(1).strip('[]')
            signed = option.partition('=')[2] if option.startswith('signed-by=') else signed
        if 'main' in words[3:]:
            found.append((words[1], words[2], signed))
    return found


def sources_for(codename):
    """(URI of the archive, the lines of a sources.list for codename): this machine's archives with the name put in."""
    lines, archive = [], ''
    for uri, suite, _ in archive_sources():
        kind = suite.partition('-')[2]
        if kind not in ('', 'updates', 'security'):
            continue
        archive = archive or (uri if kind == '' else '')
        line = f'deb {uri} {codename}{"-" + kind if kind else ""} main'
        lines += [] if line in lines else [line]
    if not archive:
        raise CannotMake(f'no apt source for Debian {codename}: /etc/apt names no archive of Debian with the component main')
    return archive, lines


def keyring():
    """What debootstrap checks the archive's signature with."""
    named = [signed for _, _, signed in archive_sources() if signed.startswith('/')]
    return (named or ['/usr/share/keyrings/debian-archive-keyring.gpg'])[0]


def wanted(debian):
    return sorted(set(PACKAGES + PACKAGES_OF[debian]))


def stamp(debian):
    """What a root is known by; a change of the settings below makes the disk anew, and of the list the root."""
    return '\n'.join(wanted(debian)) + '\n'


def say(text):
    print(f'host: {text}', flush=True)


def run_logged(command, log, **more):
    with open(log, 'ab') as output:
        output.write(('$ ' + shlex.join(map(str, command)) + '\n').encode())
        output.flush()
        return subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False,
                              **more).returncode


def last_line(log):
    lines = [line for line in log.read_text(encoding='utf-8', errors='replace').splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith('E:') or 'rror' in line]
    return (errors or lines or ['it said nothing'])[-1][:200]


def need_room(directory, kind):
    directory.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(directory).free
    if free < NEEDED_GIB[kind] << 30:
        raise NoRoom(f'{NEEDED_GIB[kind]} GiB are needed in {directory}, and {free / (1 << 30):.1f} GiB are free')


def need_tools():
    if os.geteuid() != 0:
        raise CannotMake('only root can make the image of a host (debootstrap needs chroot and mount)')
    for program, package in (('debootstrap', 'debootstrap'), ('mke2fs', 'e2fsprogs')):
        if not shutil.which(program) and not shutil.which(f'/usr/sbin/{program}'):
            raise CannotMake(f'{program} is not installed (apt-get install {package}; ./run host does it)')


# In a mount name space of its own, so that nothing stays mounted however it ends; services are not started in a chroot.
IN_CHROOT = '''
set -eu
mount -t proc proc "$1/proc"; mount -t sysfs sys "$1/sys"; mount --bind /dev "$1/dev"; mount -t tmpfs tmp "$1/tmp"
printf '#!/bin/sh\\nexit 101\\n' >"$1/usr/sbin/policy-rc.d"; chmod 755 "$1/usr/sbin/policy-rc.d"
code=0
chroot "$1" /bin/sh -c "$2" || code=$?
rm -f "$1/usr/sbin/policy-rc.d"
exit $code
'''


def in_chroot(root, script, log):
    return run_logged(['unshare', '--mount', '--propagation', 'private', '--pid', '--fork', '--kill-child', 'sh', '-c', IN_CHROOT, 'sh',
                       root, script], log)


def bootstrap(codename, root, log):
    archive, _ = sources_for(codename)
    say(f'debootstrap of {codename} (about 10 minutes)')
    code = run_logged(['debootstrap', '--variant=minbase', f'--keyring={keyring()}', codename, root, archive], log)
    if code != 0:
        raise CannotMake(f'no apt source for Debian {codename}, or debootstrap failed: {last_line(log)} (all of it: {log})')


def install_packages(debian, root, log):
    codename = RELEASES[debian]
    (root / 'etc/apt/sources.list').write_text('\n'.join(sources_for(codename)[1]) + '\n', encoding='utf-8')
    # The archives' settings of this machine (a proxy, dates of a snapshot) hold for the making only.
    settings = subprocess.run(['apt-config', 'dump', 'Acquire'], capture_output=True, text=True, check=True).stdout
    (root / 'etc/apt/apt.conf.d/99made').write_text(settings, encoding='utf-8')
    shutil.copyfile('/etc/resolv.conf', root / 'etc/resolv.conf')
    # The initial RAM disk of one machine, not of all: seconds instead of minutes to make.
    for name, text in (('etc/initramfs-tools/conf.d/host', 'MODULES=list\n'),
                       ('usr/share/initramfs-tools/modules.d/host', 'virtio_pci\nvirtio_blk\next4\n')):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding='utf-8')
    say(f'apt-get install of {len(wanted(debian))} packages (about 15 minutes)')
    names = shlex.join(wanted(debian))
    script = f'''export DEBIAN_FRONTEND=noninteractive LC_ALL=C; set -e
        apt-get update -q
        echo 'man-db man-db/auto-update boolean false' | debconf-set-selections
        apt-get install -q -y --no-install-recommends -o Dpkg::Options::=--force-unsafe-io {names}
        mkdir -p /root/debs; cd /root/debs; rm -f *.deb; chown _apt .
        apt-get download $(dpkg-query -W -f '${{db:Status-Status}} ${{Package}}\\n' 'libvirt*' | awk '$1 == "installed" {{ print $2 }}')
        apt-get clean'''
    if in_chroot(root, script, log) != 0:
        raise CannotMake(f'apt-get in the root of Debian {codename} failed: {last_line(log)} (all of it: {log})')
    (root / 'etc/apt/apt.conf.d/99made').unlink()
    (root / 'etc/resolv.conf').unlink()
    # No address of an archive stays: nothing inside reaches one, and apt-get then looks at what is installed.
    (root / 'etc/apt/sources.list').write_text('', encoding='utf-8')
    shutil.rmtree(root / 'var/lib/apt/lists', ignore_errors=True)
    (root / 'var/lib/apt/lists/partial').mkdir(parents=True)


def make_root(debian):
    """The root file system of a release; it is made from nothing only where a package was taken off the list."""
    place = CACHE / RELEASES[debian]
    root, partial, log = place / 'root', place / 'root.partial', place / 'make.log'
    known = root / 'etc/vol-repair-host'
    if known.exists() and known.read_text(encoding='utf-8') == stamp(debian):
        return root
    need_tools()
    need_room(place, 'root')
    log.write_bytes(b'')
    shutil.rmtree(partial, ignore_errors=True)
    if known.exists() and set(known.read_text(encoding='utf-8').split()) <= set(wanted(debian)):
        say('the list of packages has grown: adding to a copy of the root')
        run_logged(['cp', '-a', root, partial], log)
    else:
        bootstrap(RELEASES[debian], partial, log)
    install_packages(debian, partial, log)
    (partial / 'etc/vol-repair-host').write_text(stamp(debian), encoding='utf-8')
    if root.exists():
        root.rename(place / 'root.old')
    partial.rename(root)
    shutil.rmtree(place / 'root.old', ignore_errors=True)
    return root


# What the host is called, how it is reached, and who is there: alice may use libvirt, bob may not, carol may use sudo.
CONFIGURE = r'''
set -e
echo host >/etc/hostname
printf '127.0.0.1 localhost host\n' >/etc/hosts
echo '/dev/vda / ext4 errors=remount-ro 0 1' >/etc/fstab
mkdir -p /var/log/journal /root/.ssh
rm -f /etc/systemd/network/*
cat >/etc/systemd/system/wired.service <<'UNIT'
[Unit]
Description=The address that ssh is forwarded to
Before=ssh.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'for i in $(seq 300); do for n in $(ls /sys/class/net | grep ^e); do ip link set $n up && ip addr add 10.0.2.15/24 dev $n && exit 0; done; sleep 1; done; exit 1'
[Install]
WantedBy=multi-user.target
UNIT
systemctl -q disable systemd-networkd
systemctl -q enable wired ssh
systemctl -q mask systemd-networkd-wait-online apt-daily.timer apt-daily-upgrade.timer man-db.timer e2scrub_all.timer
for user in alice bob carol; do id $user >/dev/null 2>&1 || useradd -m -s /bin/bash $user; done
usermod -aG libvirt alice
printf 'carol ALL=(ALL) NOPASSWD: ALL\n' >/etc/sudoers.d/carol
sed -i 's/^#*DefaultTimeoutStartSec=.*/DefaultTimeoutStartSec=300s/' /etc/systemd/system.conf
for home in /root /home/alice /home/bob /home/carol; do
    mkdir -p $home/.ssh; cp /etc/host-key.pub $home/.ssh/authorized_keys; chown -R --reference=$home $home/.ssh; chmod 700 $home/.ssh
done
'''


def make_image(debian):
    """The directory with base.img, kernel, initrd and the key that lets us in; all of it of one root."""
    place = CACHE / RELEASES[debian]
    root = make_root(debian)
    name, known = place / 'base.img', place / 'image.stamp'
    now = hashlib.sha256((stamp(debian) + CONFIGURE).encode()).hexdigest()
    if name.exists() and known.exists() and known.read_text(encoding='utf-8') == now:
        return place
    need_tools()
    need_room(place, 'run')
    known.unlink(missing_ok=True)
    say('making the disk')
    log = place / 'make.log'
    if not (place / 'key').exists():
        subprocess.run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-C', '', '-f', place / 'key'], check=True)
    shutil.copyfile(place / 'key.pub', root / 'etc/host-key.pub')
    if in_chroot(root, CONFIGURE, log) != 0:
        raise CannotMake(f'the root of Debian {debian} cannot be set up: {last_line(log)} (all of it: {log})')
    for boot, target in (('vmlinuz-*', 'vmlinuz'), ('initrd.img-*', 'initrd.img')):
        shutil.copyfile(sorted((root / 'boot').glob(boot))[-1], place / target)
    partial = place / 'base.img.partial'
    partial.unlink(missing_ok=True)
    with open(partial, 'wb') as disk:
        disk.truncate(DISK_GIB << 30)
    if run_logged(['/usr/sbin/mke2fs', '-q', '-F', '-t', 'ext4', '-d', root, partial], log) != 0:
        raise CannotMake(f'the disk cannot be made: {last_line(log)}')
    partial.rename(name)
    known.write_text(now, encoding='utf-8')
    return place


def make_large():
    """A small file system with an image whose repair takes long: 16 GiB with all of its metadata, COPIED cleared everywhere."""
    target, files, partial = CACHE / 'large.img', CACHE / 'large.files', CACHE / 'large.img.partial'
    if target.exists():
        return target
    say('making an image whose repair takes long')
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir(parents=True)
    name = str(files / 'large.qcow2')
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k,preallocation=metadata', name, '16G'], check=True)
    subprocess.run([sys.executable, str(Path(__file__).parent / 'payload' / 'damage.py'), name, 'copied'], check=True)
    with open(partial, 'wb') as disk:
        disk.truncate(20 << 30)
    subprocess.run(['/usr/sbin/mke2fs', '-q', '-F', '-t', 'ext4', '-O', '^has_journal', '-d', str(files), str(partial)], check=True)
    shutil.rmtree(files)
    partial.rename(target)
    return target


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--debian', choices=sorted(RELEASES), default='12')
    args = parser.parse_args()
    try:
        say(f'image: {make_image(args.debian)}/base.img')
    except CannotMake as error:
        sys.exit(f'host: {error}')


if __name__ == '__main__':
    main()
