# SPDX-License-Identifier: LGPL-2.1-or-later
"""sysroot.py: a small Debian for arm64 and the emulators of it, unpacked below build/aarch64; nothing is installed.

apt is asked with directories of its own, so that this machine's list of architectures and packages stays as it is.
"""
import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BASE = ROOT / 'build' / 'aarch64'
SYSROOT, TOOLS = BASE / 'sysroot', BASE / 'tools'
LIBRARIES = ['libc6-dev', 'libgcc-12-dev', 'libglib2.0-dev', 'libjson-glib-dev', 'libvirt-dev', 'libxml2-dev', 'libseccomp-dev',
             'libcap-ng-dev', 'libsystemd-dev', 'libcmocka-dev']
MACHINE = ['linux-image-arm64', 'busybox-static', 'bash', 'coreutils', 'python3-minimal', 'libpython3-stdlib', 'python3-jsonschema']
EMULATORS = ['qemu-user-static', 'qemu-system-arm']


class SysrootError(Exception):
    """Why there is no arm64 here: one sentence."""


def command(*words, cwd=None):
    try:
        done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
                              env={**os.environ, 'LC_ALL': 'C', 'DEBIAN_FRONTEND': 'noninteractive'})
    except FileNotFoundError:
        raise SysrootError(f'{words[0]} is missing here') from None
    if done.returncode != 0:
        raise SysrootError(f'{" ".join(words[:2])} failed: {" ".join(done.stderr.split(chr(10))[-4:]).strip()}')
    return done.stdout


def apt(*words):
    """apt-get for arm64, on a machine where no package is installed: it takes all that a package depends on as well."""
    state, cache = BASE / 'apt' / 'state', BASE / 'apt' / 'cache'
    for directory in (state / 'lists' / 'partial', cache / 'archives' / 'partial'):
        directory.mkdir(parents=True, exist_ok=True)
    (state / 'status').touch()
    settings = {'APT::Architecture': 'arm64', 'APT::Architectures::': 'arm64', 'Dir::State': state,
                'Dir::State::status': state / 'status', 'Dir::Cache': cache, 'APT::Install-Recommends': '0'}
    if os.geteuid() == 0:
        settings['APT::Sandbox::User'] = 'root'
    return command('apt-get', '-q', '-y', *(f'-o{key}={value}' for key, value in settings.items()), *words)


def unpack(packages, directory):
    """One /usr for all, as Debian has it; links that begin at the root begin at this one."""
    directory.mkdir(parents=True)
    for name in ('bin', 'sbin', 'lib'):
        (directory / 'usr' / name).mkdir(parents=True)
        (directory / name).symlink_to(f'usr/{name}')
    for package in packages:
        with subprocess.Popen(['dpkg-deb', '--fsys-tarfile', package], stdout=subprocess.PIPE) as source:
            command_from(source, 'tar', '-x', '--keep-directory-symlink', '--no-same-owner', '-C', str(directory))
    for path in directory.rglob('*'):
        if path.is_symlink() and os.readlink(path).startswith('/'):
            target = directory / os.readlink(path).lstrip('/')
            path.unlink()
            path.symlink_to(os.path.relpath(target, path.parent.resolve()))


def command_from(source, *words):
    if subprocess.run(words, stdin=source.stdout, check=False).returncode != 0 or source.wait() != 0:
        raise SysrootError('a package could not be unpacked')


def get():
    """Fills BASE where it is not filled; a run that was cut begins anew."""
    if not SYSROOT.exists():
        apt('update')
        apt('install', '--download-only', *LIBRARIES, *MACHINE)
        new = BASE / 'sysroot.new'
        shutil.rmtree(new, ignore_errors=True)
        unpack(sorted(map(str, (BASE / 'apt' / 'cache' / 'archives').glob('*.deb'))), new)
        new.rename(SYSROOT)
    if not TOOLS.exists():
        fetched = BASE / 'emulators'
        fetched.mkdir(exist_ok=True)
        sandbox = ['-oAPT::Sandbox::User=root'] if os.geteuid() == 0 else []
        command('apt-get', '-q', *sandbox, 'download', *EMULATORS, cwd=fetched)
        new = BASE / 'tools.new'
        shutil.rmtree(new, ignore_errors=True)
        unpack(sorted(map(str, fetched.glob('*.deb'))), new)
        new.rename(TOOLS)
