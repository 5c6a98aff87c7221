# SPDX-License-Identifier: LGPL-2.1-or-later
"""kernel.py: Debian's stock kernel and busybox for the emulated PCs: fetched as packages, unpacked below build/, not installed."""
import lzma
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = Path(os.environ.get('VR_MACHINE_CACHE') or ROOT / 'build' / 'machine')
# What init wants of the kernel. crc32c_generic is asked for by name, not as a dependency. Built in, a module is no file.
MODULES = ('crc32c_generic', 'virtio_pci', 'virtio_blk', 'virtio_console', 'ext4', 'overlay', '9pnet_virtio', '9p',
           'kvm-amd', 'kvm-intel')


class MachineError(Exception):
    """Why there is no emulated PC: one sentence."""


def output_of(*command, cwd=None):
    """What a command prints; a MachineError with its last words where it fails."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
                              env={**os.environ, 'LC_ALL': 'C'})
    except FileNotFoundError:
        raise MachineError(f'{command[0]} is missing here') from None
    if done.returncode != 0:
        words = ' '.join(done.stderr.split('\n')[-4:]).strip()
        raise MachineError(f'{command[0]} {command[1]} failed: {words}')
    return done.stdout


def current_package():
    """The kernel that linux-image-amd64 stands for on this machine; None where apt knows of none."""
    try:
        found = re.search(r'Depends: (linux-image-\d\S*)', output_of('apt-cache', 'depends', 'linux-image-amd64'))
    except MachineError:
        return None
    return found and found[1]


def download(package, directory):
    """The path of a package's file, fetched from this machine's own apt source."""
    sandbox = ['-o', 'APT::Sandbox::User=root'] if os.geteuid() == 0 else []
    try:
        output_of('apt-get', 'download', '-q', *sandbox, package, cwd=directory)
    except MachineError as error:
        raise MachineError(f'no apt source here has {package} ({error}); does `apt-get update` help?') from None
    return next(directory.glob(package + '_*.deb'))


def module_files(tree):
    """{name: path} of each module of an unpacked kernel package, with '-' for '_'."""
    return {re.sub(r'\.ko.*', '', path.name).replace('_', '-'): path for path in tree.rglob('*.ko*')}


def module_bytes(path):
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == '.xz' else data


def copy_modules(tree, directory):
    """Copies MODULES and what they depend on; the file `order` names them so that each one can be loaded."""
    files, order = module_files(tree), []

    def take(name):
        name = name.replace('_', '-')
        if name not in files or name in order:
            return
        data = module_bytes(files[name])
        for needed in re.search(rb'\0depends=([^\0]*)', data)[1].decode().split(','):
            take(needed)
        order.append(name)
        (directory / name).write_bytes(data)

    for name in MODULES:
        take(name)
    (directory / 'order').write_text('\n'.join(order) + '\n')


def unpack(kernel, busybox, directory):
    """Fills a directory: vmlinuz, busybox, modules/."""
    with tempfile.TemporaryDirectory(dir=directory) as tree:
        tree = Path(tree)
        for package in (kernel, busybox):
            output_of('dpkg-deb', '-x', str(package), str(tree))
        images = list((tree / 'boot').glob('vmlinuz-*'))
        if not images:
            raise MachineError(f'{kernel.name} has no kernel in it')
        shutil.move(images[0], directory / 'vmlinuz')
        shutil.move(next(path for path in tree.rglob('busybox') if path.is_file() and path.parent.name == 'bin'),
                    directory / 'busybox')
        (directory / 'modules').mkdir()
        copy_modules(tree, directory / 'modules')


def get(package_file=None):
    """The directory that unpack() fills, made where it is not there; a second run at the same time does no harm."""
    package = Path(package_file).name.split('_')[0] if package_file else current_package()
    made = CACHE / package if package else max(CACHE.glob('linux-image-*'), default=None, key=lambda p: p.stat().st_mtime)
    if made is None:
        raise MachineError('no apt source here has linux-image-amd64; does `apt-get update` help?')
    if made.exists():
        return made
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix='new-') as work:
        new = Path(work) / 'new'
        new.mkdir()
        kernel = Path(package_file).resolve() if package_file else download(package, Path(work))
        unpack(kernel, download('busybox-static', Path(work)), new)
        try:
            new.rename(made)
        except OSError:
            if not made.exists():  # else another run was first
                raise
    return made


# ---- the initial file system ------------------------------------------------------------------------------


def cpio_entry(number, name, mode, data=b''):
    """One file, directory or link of the format that the kernel's documentation calls newc."""
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b'070701' + b''.join(b'%08X' % field for field in fields) + name.encode() + b'\0'
    return head + b'\0' * (-len(head) % 4) + data + b'\0' * (-len(data) % 4)


def cpio(files):
    """An archive of {path: bytes}; all files are executable, directories are made as needed."""
    made, parts = set(), []
    for name, data in files.items():
        for parent in list(Path(name).parents)[-2::-1]:
            if parent not in made:
                made.add(parent)
                parts.append(cpio_entry(len(parts) + 1, str(parent), 0o40755))
        parts.append(cpio_entry(len(parts) + 1, name, 0o100755, data))
    return b''.join(parts) + cpio_entry(0, 'TRAILER!!!', 0)


def base_files(made, kvm_module):
    """What every initial file system has: busybox, and the modules in the order in which they are loaded."""
    names = (made / 'modules' / 'order').read_text().split()
    if kvm_module not in names:
        raise MachineError(f'the kernel {made.name} has no module {kvm_module}: it cannot run a guest under KVM')
    other = {'kvm-amd': 'kvm-intel', 'kvm-intel': 'kvm-amd'}[kvm_module]
    files = {'bin/busybox': (made / 'busybox').read_bytes()}
    for name in names:
        if name != other:
            files[f'modules/{name}'] = (made / 'modules' / name).read_bytes()
    files['modules/order'] = '\n'.join(name for name in names if name != other).encode() + b'\n'
    return files
