#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""run.py: what an installation lays down and what packages do with it; with --full it builds them all, too.

Installs into a directory of its own. The scripts of the front package run with a dpkg database of their own, too.
"""
import argparse
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEBIAN = ROOT / 'packaging' / 'debian'
STUB, REAL_CODE = 'libvirt_storage_backend_fs.so', 'libvol-repair-backend.so'


class Skip(Exception):
    """The text says why."""


class Installation:
    """Attributes: dest (the staging directory), prefix, libdir, bindir: of the target, without dest."""

    def __init__(self, build, tmp):
        self.build, self.tmp, self.dest = build, tmp, tmp / 'dest'
        options = {o['name']: o['value'] for o in json.loads((build / 'meson-info' / 'intro-buildoptions.json').read_text())}
        self.prefix = Path(options['prefix'])
        self.libdir, self.bindir = self.prefix / options['libdir'], self.prefix / options['bindir']
        self.backends = self.libdir / 'vol-repair' / 'storage-backend'
        self.units = Path(options['systemdunitdir'] or self.prefix / 'lib' / 'systemd' / 'system')
        subprocess.run(['meson', 'install', '-C', str(build), '--no-rebuild', '--destdir', str(self.dest)], check=True,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def at(self, path):
        """Where a path of the target is staged."""
        return self.dest / Path(path).relative_to('/')

    def files(self):
        return sorted('/' + str(p.relative_to(self.dest)) for p in self.dest.glob('**/*') if p.is_symlink() or not p.is_dir())


def run(*words, status=0, **more):
    done = subprocess.run([str(w) for w in words], text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=120, check=False, **more)
    assert done.returncode == status, (words, done)
    return done.stdout


# ---- what is installed ----

def variable_for(inst, service):
    """LIBVIRT_STORAGE_BACKEND_DIR in the environment of a service as systemd makes it: None where it has none."""
    drop_in = inst.at(inst.units / f'{service}.service.d' / '50-vol-repair.conf').read_text()
    lines = [line for line in drop_in.splitlines() if line and line[0] != '#']
    assert lines[0] == '[Service]' and len(lines) == 2, lines
    optional, path = re.fullmatch(r'EnvironmentFile=(-?)(/.*)', lines[1]).groups()
    if not inst.at(path).exists():
        assert optional, 'a service whose file is missing does not start'
        return None
    return dict(line.split('=', 1) for line in inst.at(path).read_text().splitlines() if line[0] != '#')['LIBVIRT_STORAGE_BACKEND_DIR']


def the_variable_goes_with_the_files(inst):
    """Whatever goes first, files or drop-in: a daemon that starts without the files is stock."""
    for service in ('libvirtd', 'virtstoraged'):
        assert variable_for(inst, service) == str(inst.backends)
    assert inst.at(inst.backends / STUB).exists()
    kept = inst.tmp / 'kept'
    inst.at(inst.backends).rename(kept)
    try:
        assert [variable_for(inst, s) for s in ('libvirtd', 'virtstoraged')] == [None, None]
    finally:
        kept.rename(inst.at(inst.backends))
    # dpkg removes a directory's files from the last name to the first, and unpacks the other way.
    assert max(os.listdir(inst.at(inst.backends))) == 'vol-repair.env'


def try_backend_tells(inst):
    """With the files as they are; without the real code; with a stub that keeps libvirt's daemon from starting."""
    if not Path('/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_storage.so').exists():
        raise Skip("libvirt's storage driver is not installed")
    program = inst.at(inst.libdir / 'vol-repair' / 'try-backend')
    lib = inst.tmp / 'lib'
    (lib / 'storage-backend').mkdir(parents=True)
    stub = Path(shutil.copy(inst.at(inst.backends / STUB), lib / 'storage-backend'))
    env = dict(os.environ, VOL_REPAIR_CONF='/nonexistent')
    real = Path(shutil.copy(inst.at(inst.libdir / 'vol-repair' / REAL_CODE), lib))
    assert 'repair is on' in run(program, stub, env=env)
    real.write_bytes(real.read_bytes()[:4096])
    assert 'repair is off with this libvirt, whose pools work as ever' in run(program, stub, env=env, status=1)
    stub.write_bytes(b'')
    assert 'the backend cannot be loaded' in run(program, stub, env=env, status=2)


def installed_programs_run(inst):
    library = dict(os.environ, LD_LIBRARY_PATH=str(inst.at(inst.libdir)))
    for program in ('vol-repair', 'virt-vol-repair'):
        assert run(inst.at(inst.bindir / program), '--version', env=library).startswith(program + ' ')
    front = inst.at(inst.libdir / 'vol-repair' / 'bin' / 'virsh')
    assert os.readlink(front) == str(inst.bindir / 'virt-vol-repair')


def no_hook_of_the_tests_is_installed(inst):
    """What cuts a commit short is in vol-repair-test alone."""
    program, hook = inst.at(inst.bindir / 'vol-repair'), b'--test-'
    assert hook not in program.read_bytes() and b'test-crash' not in program.read_bytes()
    assert '--test' not in run(program, '--help')
    assert 'unrecognized option' in run(program, '--test-crash-after=1', '/nonexistent', status=1)
    assert not [path for path in inst.files() if 'vol-repair-test' in path]
    assert hook in (inst.build / 'plugin' / 'cli' / 'vol-repair-test').read_bytes()


def the_apparmor_profile_is_one(inst):
    """It is for the program where that is installed, under a name that libvirtd's profile may send signals to."""
    file = inst.at(inst.prefix / 'etc/apparmor.d/vol-repair')
    assert f'profile libvirt-vol-repair {inst.bindir}/vol-repair ' in file.read_text()
    if not shutil.which('apparmor_parser'):
        raise Skip('apparmor is not installed')
    run('apparmor_parser', '--skip-kernel-load', '--skip-cache', file)


def hints_after_an_installation(inst):
    """For a prefix that AppArmor's profile of libvirtd does not know there is a line to run; for /usr there is none."""
    script, profile = ROOT / 'plugin/backend/post-install.sh', Path('/etc/apparmor.d/usr.sbin.libvirtd')
    text = {}
    for prefix in ('/usr/local', '/opt/vr', '/usr'):
        words = [f'{prefix}/bin', f'{prefix}/lib/vol-repair', f'{prefix}/lib/systemd/system']
        # It writes to what its parent has for standard output.
        text[prefix] = run('sh', '-c', 'sh "$@"; exit $?', 'sh', script, *words)
        assert f'PATH={prefix}/lib/vol-repair/bin:$PATH' in text[prefix] and 'systemctl daemon-reload' in text[prefix], text
        needs = profile.exists() and prefix != '/usr'
        assert (f"echo '{prefix}/bin/vol-repair PUx,' >>/etc/apparmor.d/local/usr.sbin.libvirtd" in text[prefix]) == needs, text
    assert '/etc/systemd/system' in text['/opt/vr'] and '/etc/systemd/system' not in text['/usr']
    quiet = run('sh', '-c', 'sh "$@"; exit $?', 'sh', script, '/a', '/b', '/c', env=dict(os.environ, DESTDIR='/d'))
    assert quiet == '', quiet


COMPLETE = '''. "$1"; shift; COMP_WORDS=(vol-repair "$@"); COMP_CWORD=$#; _vol_repair; printf '%s\\n' "${COMPREPLY[@]}"'''


def completion_of_the_program(inst):
    source = inst.at(inst.prefix / 'share/bash-completion/completions/vol-repair')
    env = dict(os.environ, PATH=f"{inst.at(inst.bindir)}:{os.environ['PATH']}")

    def offered(*words):
        return run('bash', '-c', COMPLETE, 'bash', source, *words, env=env).split()
    options = set(re.findall(r'--[a-z][a-z-]+', run(inst.at(inst.bindir / 'vol-repair'), '--help')))
    assert len(options) > 10 and set(offered('--')) == options
    assert offered('--mode', '=', 'l') == ['leaks'] and offered('--mode', 'a') == ['all'] and offered('--accel', '=') == ['auto', 'kvm', 'process']
    assert offered('$(touch x)') == [], 'files are left to bash'


# ---- the packages ----

def as_packaged(inst, path):
    """Where a package with --prefix=/usr has what is staged at path."""
    path = re.sub(f'^{inst.prefix}/etc/', '/etc/', path)
    path = re.sub(f'^{inst.prefix}/', '/usr/', path)
    return path[1:]


def all_are_taken(inst, patterns, but=None):
    """Both tools refuse a file that no package takes, and a pattern that takes none: minutes into a build."""
    unused = set(patterns)
    for path in inst.files():
        name = as_packaged(inst, path)
        taken = {p for p in patterns if fnmatch.fnmatch(name, p) or fnmatch.fnmatch(name, p + '/*')}
        assert taken or (but and fnmatch.fnmatch(name, but)), f'no package takes {name}'
        unused -= taken
    assert not unused, f'nothing is installed for {unused}'


def every_file_has_its_debian_package(inst):
    all_are_taken(inst, {line for f in DEBIAN.glob('*.install') for line in f.read_text().split()}, 'usr/lib/*/vol-repair/bin/virsh')


def every_file_has_its_rpm(inst):
    macros = {'%{_prefix}': 'usr', '%{_bindir}': 'usr/bin', '%{_libdir}': 'usr/lib/*', '%{_datadir}': 'usr/share',
              '%{_mandir}': 'usr/share/man', '%{_includedir}': 'usr/include', '%config(noreplace) /': '', '%dir ': None, '%license ': None}
    patterns = set()
    for section in (ROOT / 'packaging/rpm/vol-repair.spec').read_text().split('\n%files')[1:]:
        for line in section.splitlines()[1:]:
            macro = next((m for m in macros if line.startswith(m)), '')
            if macro and macros[macro] is not None:
                patterns.add(line.replace(macro, macros[macro]))
            assert macro or not line, line
    all_are_taken(inst, patterns)


def versions_agree(_):
    version = re.search(r"^  version: '(.*)'", (ROOT / 'meson.build').read_text(), re.M)[1]
    assert re.match(r'vol-repair \((.*)\) ', (DEBIAN / 'changelog').read_text())[1] == version
    assert re.search(r'^Version: (.*)$', (ROOT / 'packaging/rpm/vol-repair.spec').read_text(), re.M)[1] == version


def scripts_are_shell(_):
    scripts = [p for kind in ('preinst', 'postinst', 'prerm', 'postrm') for p in DEBIAN.glob(f'*.{kind}')]
    assert len(scripts) >= 5
    for path in [*scripts, ROOT / 'plugin/backend/post-install.sh']:
        run('sh', '-n', path)
        if path.parent == DEBIAN:
            assert path.read_text().rstrip().endswith('#DEBHELPER#'), path
            run('sh', path, 'no-such-word', status=1)
    run('bash', '-n', ROOT / 'packaging/build.sh')


class Host:
    """A dpkg database and a file system of their own, with two versions of libvirt-clients and the front package."""

    def __init__(self, tmp):
        self.root, self.tmp = tmp / 'root', tmp
        for name in ('var/lib/dpkg/info', 'var/lib/dpkg/updates', 'usr/bin'):
            (self.root / name).mkdir(parents=True)
        (self.root / 'var/lib/dpkg/status').touch()
        self.stock = {n: self.package('libvirt-clients', n, f'#!/bin/sh\necho "stock {n}: $*"\n') for n in ('1', '2')}
        self.front = {n: self.package('vol-repair-virsh', n, None) for n in ('1', '2')}

    def package(self, name, version, virsh):
        top = self.tmp / f'{name}-{version}'
        (top / 'usr/bin').mkdir(parents=True)
        (top / 'DEBIAN').mkdir()
        (top / 'DEBIAN/control').write_text(f'Package: {name}\nVersion: {version}\nArchitecture: all\n'
                                            'Maintainer: nobody <n@example.org>\nDescription: test\n')
        if virsh:
            (top / 'usr/bin/virsh').write_text(virsh)
            (top / 'usr/bin/virsh').chmod(0o755)
        else:
            (top / 'usr/bin/virsh').symlink_to('virt-vol-repair')
            for script in ('preinst', 'postrm'):
                shutil.copy(DEBIAN / f'{name}.{script}', top / 'DEBIAN' / script)
                (top / 'DEBIAN' / script).chmod(0o755)
        deb = self.tmp / f'{name}_{version}.deb'
        run('dpkg-deb', '--root-owner-group', '-b', top, deb)
        return deb

    def dpkg(self, *words):
        env = dict(os.environ, PATH=os.environ['PATH'] + ':/usr/sbin:/sbin')
        return run('dpkg', f'--root={self.root}', '--force-script-chrootless', '--force-not-root', '--log=/dev/null', *words, env=env)

    def is_stock(self, version):
        names = sorted(p.name for p in (self.root / 'usr/bin').iterdir())
        return names == ['virsh'] and f'stock {version}' in (self.root / 'usr/bin/virsh').read_text()

    def is_diverted(self, version):
        bin_dir = self.root / 'usr/bin'
        return os.readlink(bin_dir / 'virsh') == 'virt-vol-repair' and f'stock {version}' in (bin_dir / 'virsh.libvirt').read_text()


def virsh_is_given_back(inst):
    """Installing, upgrading either package, removing in either order."""
    if not shutil.which('dpkg'):
        raise Skip('there is no dpkg')
    host = Host(inst.tmp)
    host.dpkg('-i', host.stock['1'])
    host.dpkg('-i', host.front['1'])
    assert host.is_diverted('1')
    host.dpkg('-i', host.stock['2'])
    assert host.is_diverted('2'), 'an upgrade of libvirt-clients'
    host.dpkg('-i', host.front['2'])
    assert host.is_diverted('2'), 'an upgrade of the front'
    host.dpkg('--purge', 'vol-repair-virsh')
    assert host.is_stock('2')
    host.dpkg('-i', host.front['1'])
    host.dpkg('--purge', 'libvirt-clients')
    host.dpkg('-i', host.stock['1'])
    assert host.is_diverted('1'), 'libvirt-clients that comes after the front'
    host.dpkg('--remove', 'vol-repair-virsh')
    host.dpkg('--purge', 'vol-repair-virsh')
    assert host.is_stock('1')


# ---- --full ----

def build_packages(*words, timeout=3000):
    log = subprocess.run([ROOT / 'run', 'package', *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False)
    assert log.returncode == 0, log.stdout[-4000:]
    return log.stdout


def debian_packages_are_built(_):
    said = build_packages()
    assert 'lintian has nothing to say' in said
    names = {p.name.split('_')[0] for p in (ROOT / 'build/packages').glob('**/*.deb')}
    assert names == set(re.findall(r'^Package: (.*)$', (DEBIAN / 'control').read_text(), re.M)), names


def rpms_are_built(_):
    build_packages('--rpm')
    assert len(list((ROOT / 'build/packages').glob('*.rpm'))) == 5


FULL = [debian_packages_are_built, rpms_are_built]
TESTS = [the_variable_goes_with_the_files, try_backend_tells, installed_programs_run, no_hook_of_the_tests_is_installed,
         the_apparmor_profile_is_one, hints_after_an_installation, completion_of_the_program, every_file_has_its_debian_package,
         every_file_has_its_rpm, versions_agree, scripts_are_shell, virsh_is_given_back]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--build', default='build/release', help='build directory')
    parser.add_argument('--full', action='store_true', help='build the packages as well')
    args = parser.parse_args()
    counts = {'passed': 0, 'failed': 0, 'skipped': 0}
    with tempfile.TemporaryDirectory(prefix='vol-repair-package-') as tmp:
        inst = Installation((ROOT / args.build).resolve(), Path(tmp))
        for test in TESTS + FULL * args.full:
            result, details = 'passed', ''
            try:
                test(inst)
            except Skip as reason:
                result, details = 'skipped', f'SKIP {test.__name__}: {reason}'
            except (AssertionError, OSError, subprocess.SubprocessError, LookupError, TypeError) as error:
                result, details = 'failed', f'FAIL {test.__name__}: {error!r}'
            counts[result] += 1
            if details:
                print(details)
    print('{passed} passed, {failed} failed, {skipped} skipped'.format(**counts))
    return 1 if counts['failed'] else 0


if __name__ == '__main__':
    sys.exit(main())
