# SPDX-License-Identifier: LGPL-2.1-or-later
# Block devices for tests: loop devices, and a lab whose daemon sees them as LVs of a volume group, behind udev's links.
import contextlib
import os
import shlex
import stat
import subprocess
from pathlib import Path

from common import Skip
from lab import Lab

MODULE = Path('/usr/lib/x86_64-linux-gnu/libvirt/storage-backend/libvirt_storage_backend_logical.so')
HERE = Path(__file__).resolve().parent
LVM = ('pvs', 'vgscan', 'lvs', 'vgs', 'vgchange', 'lvchange', 'lvremove', 'lvcreate')


@contextlib.contextmanager
def loop_device(file, size):
    """The path of a loop device of `size` bytes over a new sparse file."""
    with open(file, 'wb') as f:
        f.truncate(size)
    made = subprocess.run(['losetup', '-f', '--show', file], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise Skip(f'no loop device: {made.stderr.strip()[:80]}')
    device = made.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(['losetup', '-d', device], check=True)


class GroupLab(Lab):
    """With a pool 'vg1' of type logical, whose volumes are the given devices: {'lv1': '/dev/loop0'}."""

    def __init__(self, *args, volumes, spare=None, other_module=False, **kwargs):
        """other_module: the logical backend is one that we do not know, with another function for uploads."""
        if os.geteuid() != 0:
            raise Skip('only root has block devices and a name space for them')
        self.volumes = volumes
        self.spare = spare
        self.other_module = other_module
        super().__init__(*args, **kwargs)

    def _mounts(self):
        """A /dev of the lab's own, and the stand-ins beside the host's programs."""
        tools = self.dir / 'sbin'
        dev = self.dir / 'dev'
        for path in (tools, dev):
            path.mkdir(exist_ok=True)
        for name in LVM:
            if not (tools / name).exists():
                (tools / name).symlink_to(HERE / 'stand-in-lvm.py')
        quoted = shlex.quote(str(dev))
        return [*super()._mounts(), *self._module(), f'mount -t tmpfs -o mode=755 tmpfs {quoted}',
                f'mkdir {quoted}/pts {quoted}/shm {quoted}/vg1',
                f'cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/ptmx {quoted}',
                *self._nodes(quoted), f'mount --bind /dev/pts {quoted}/pts', f'mount --bind /dev/shm {quoted}/shm',
                f'mount --bind {quoted} /dev',
                f'mount -t overlay -o ro,lowerdir={shlex.quote(str(tools))}:/usr/sbin overlay /usr/sbin']

    def _module(self):
        if not self.other_module:
            return []
        other = self.dir / MODULE.name
        names = (b'virStorageBackendVolUploadLocal\0', b'virStorageBackendVolResizeLocal\0')
        assert MODULE.read_bytes().count(names[0]) == 1
        other.write_bytes(MODULE.read_bytes().replace(*names))
        return [f'mount --bind {shlex.quote(str(other))} {shlex.quote(str(MODULE))}']

    def _nodes(self, dev):
        """Shell lines: as the kernel and udev would have them."""
        lines = []
        for number, (name, device) in enumerate(self.volumes.items()):
            rdev = os.stat(device).st_rdev
            lines += [f'mknod {dev}/dm-{number} b {os.major(rdev)} {os.minor(rdev)}',
                      f'ln -s ../dm-{number} {dev}/vg1/{name}']
        if self.spare:
            rdev = os.stat(self.spare).st_rdev
            lines += [f'mknod {dev}/spare b {os.major(rdev)} {os.minor(rdev)}']
        return lines

    def __enter__(self):
        super().__enter__()
        try:
            for command in (['pool-define-as', 'vg1', 'logical', '--source-name', 'vg1', '--target', '/dev/vg1'],
                            ['pool-start', 'vg1']):
                done = self.virsh(*command)
                assert done.returncode == 0, f'{command[0]}: {done.stderr}{self.log()}'
        except BaseException:
            self.close()
            raise
        return self

    def virsh_ours(self, *args):
        """The built virsh, as typed."""
        return self.run(['virsh', *args])


@contextlib.contextmanager
def group_lab(t, helper=None, spare=False, size=32 << 20, **kwargs):
    """A GroupLab with one LV, lv1; yields (lab, path of its device on the host)."""
    settings = {'accel': 'process'}
    if helper:
        settings['helper'] = str(t.script(helper))
    with contextlib.ExitStack() as stack:
        device = stack.enter_context(loop_device(t.tmp / 'lv1.img', size))
        other = stack.enter_context(loop_device(t.tmp / 'spare.img', size)) if spare else None
        lab = stack.enter_context(GroupLab(t.build, settings=settings, volumes={'lv1': device}, spare=other, **kwargs))
        assert stat.S_ISBLK(os.stat(device).st_mode)
        yield lab, device
