#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# A private libvirtd with the built extension, for tests, for the demo and for trying things out.
"""
From Python:

    with Lab(build_dir) as lab:
        lab.virsh('vol-list', 'default')          stock virsh; a CompletedProcess, text, no exception on failure
        lab.run(['virsh', 'vol-repair', ...])     any command, with lab.env
        lab.uri                                   connection URI, good for any client on this machine
        lab.pool_dir                              directory of the pool 'default' (type dir, started)

From a shell (options before the command; the status is the command's):

    tests/libvirt/lab.py [--build DIR] [--keep] shell -- COMMAND [ARGS...]

The command sees LIBVIRT_DEFAULT_URI and VIRSH_DEFAULT_CONNECT_URI, VOL_REPAIR_LAB (the lab's own directory),
VOL_REPAIR_POOL_DIR, and a PATH that begins with the built virsh, virt-vol-repair and vol-repair. Without a
command an interactive shell starts. The build directory is taken from --build, or from $BUILD_DIR, or is 'build'.

As root the daemon is a system daemon in a mount and a network namespace of its own, so that /run, /etc/libvirt and
/var/lib hold nothing but the lab's files; commands run in that mount namespace too, and see the
same undo journals. As another user it is a session daemon with directories of its own. At the end, whatever happens,
the daemon and all it has started are stopped, and the lab's directory is removed (kept with --keep).
"""
import argparse
import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import patience  # noqa: E402
import state  # noqa: E402

STUB = 'libvirt_storage_backend_fs.so'
REAL_CODE = 'libvol-repair-backend.so'
SETTINGS = {'helper': None, 'accel': 'auto', 'timeout': '60'}
PROGRAMS = {'vol-repair': 'plugin/cli/vol-repair', 'virsh': 'virsh-ext/bin/virsh',
            'virt-vol-repair': 'virsh-ext/virt-vol-repair'}

LIBVIRTD_CONF = '''unix_sock_dir = "{sock}"
auth_unix_ro = "none"
auth_unix_rw = "none"
log_level = 3
log_outputs = "3:file:{log}"
'''
QEMU_CONF = '''security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
remember_owner = 0
'''


class LabError(Exception):
    """The lab could not be set up; the text says why."""


def wait_until(condition, seconds, step=0.02):
    """Polls; returns the condition's first true value, or its last false one."""
    end = time.monotonic() + patience.seconds(seconds)
    while True:
        value = condition()
        if value or time.monotonic() > end:
            return value
        time.sleep(step)


def in_namespaces(pid, namespaces):
    """Whether the process is in one of the mount namespaces: open files, so that no number is used again meanwhile."""
    try:
        mine = os.stat(f'/proc/{pid}/ns/mnt')
    except OSError:
        return False
    return any(os.path.samestat(mine, os.fstat(n.fileno())) for n in namespaces)


class Lab:
    """Attributes: dir, pool_dir, conf (vol-repair.conf), log_file, uri, env, daemon (Popen or None)."""

    def __init__(self, build_dir, settings=None, daemon_env=None, keep=False, daemon_name=None):
        """settings: vol-repair.conf, over the defaults. daemon_env: added to its environment. daemon_name: what it is run as."""
        self.daemon_name = daemon_name
        self.build_dir = Path(build_dir).resolve()
        self.system = os.geteuid() == 0
        self.keep = keep
        self.daemon = None
        self.namespaces = []
        self.daemon_env = daemon_env or {}
        self.dir = Path(tempfile.mkdtemp(prefix='vol-repair-lab-'))
        try:
            self._lay_out(settings or {})
        except BaseException:
            shutil.rmtree(self.dir)
            raise

    # ---- files ----

    def _lay_out(self, settings):
        for name in ('sock', 'run', 'etc', 'state', 'cache', 'log', 'home', 'pool', 'bin', 'lib/storage-backend'):
            (self.dir / name).mkdir(parents=True)
        self.dir.chmod(0o755)
        self.pool_dir = self.dir / 'pool'
        self.log_file = self.dir / 'log' / 'libvirtd.log'
        self.stub = self.dir / 'lib' / 'storage-backend' / STUB
        self.real_code = self.dir / 'lib' / REAL_CODE
        shutil.copy2(self.build_dir / 'plugin' / 'backend' / STUB, self.stub)
        shutil.copy2(self.build_dir / 'plugin' / 'backend' / REAL_CODE, self.real_code)
        for name, built in PROGRAMS.items():
            if (self.build_dir / built).exists():
                (self.dir / 'bin' / name).symlink_to(self.build_dir / built)
        self.socket_dir = self.dir / 'sock'
        (self.dir / 'libvirtd.conf').write_text(LIBVIRTD_CONF.format(sock=self.socket_dir, log=self.log_file))
        self._write_qemu_conf()
        self.conf = self.dir / 'vol-repair.conf'
        self.configure(**settings)
        mode = 'system' if self.system else 'session'
        self.uri = f'qemu+unix:///{mode}?socket={self.socket_dir}/libvirt-sock'
        self.env = dict(os.environ, LIBVIRT_DEFAULT_URI=self.uri, VIRSH_DEFAULT_CONNECT_URI=self.uri,
                        VOL_REPAIR_LAB=str(self.dir), VOL_REPAIR_POOL_DIR=str(self.pool_dir),
                        PATH=f'{self.dir}/bin:/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL='C.UTF-8')
        self.env.pop('LIBVIRT_STORAGE_BACKEND_DIR', None)

    def _write_qemu_conf(self):
        directory = self.dir / 'etc' if self.system else self.dir / 'home' / 'libvirt'
        directory.mkdir(exist_ok=True)
        text = QEMU_CONF + ('user = "root"\ngroup = "root"\n' if self.system else '')
        (directory / 'qemu.conf').write_text(text)

    def configure(self, **settings):
        """Writes vol-repair.conf anew; None leaves a key out."""
        values = {**SETTINGS, 'helper': str(self.build_dir / 'plugin' / 'cli' / 'vol-repair'), **settings}
        lines = [f'{key} = {value}\n' for key, value in values.items() if value is not None]
        self.conf.write_text(''.join(lines))

    def _mounts(self):
        """Shell lines that put the lab's directories in the place of the host's."""
        base, journals = state.place(self.build_dir)
        (self.dir / 'state' / journals.relative_to(base)).mkdir(parents=True, exist_ok=True)
        places = [(self.dir / 'state', base), (self.dir / 'run', '/run'), (self.dir / 'etc', '/etc/libvirt'),
                  (self.dir / 'cache', '/var/cache/libvirt'), (self.dir / 'log', '/var/log/libvirt')]
        if str(base) != '/var/lib':
            (self.dir / 'libvirt').mkdir(exist_ok=True)
            places.append((self.dir / 'libvirt', '/var/lib/libvirt'))
        return [f'mount --bind {shlex.quote(str(src))} {shlex.quote(str(dst))}' for src, dst in places]

    @property
    def undo_dir(self):
        """Where the daemon's jobs keep their journals, as seen from outside."""
        if not self.system:
            return self.dir / 'home' / 'vol-repair' / 'undo'
        return next(iter((self.dir / 'state').glob('**/vol-repair/undo')))

    @property
    def reports_dir(self):
        runtime = state.option(self.build_dir, 'runstatedir')
        if not self.system:
            return self.dir / 'run' / 'vol-repair' / 'reports'
        return self.dir / runtime.relative_to('/') / 'vol-repair' / 'reports'

    # ---- the daemon ----

    def _daemon_command(self):
        libvirtd = shutil.which('libvirtd', path='/usr/sbin:/usr/bin:/sbin')
        if not libvirtd:
            raise LabError('libvirtd is not installed')
        if self.daemon_name:
            (self.dir / self.daemon_name).symlink_to(libvirtd)
            libvirtd = str(self.dir / self.daemon_name)
        run = [libvirtd, '-f', str(self.dir / 'libvirtd.conf'), '-p', str(self.dir / 'libvirtd.pid')]
        # The daemon must not outlive us, however we end.
        tied = ['setpriv', '--pdeathsig', 'KILL']
        if not self.system:
            return tied + run
        script = '\n'.join(['set -e', *self._mounts(), 'exec "$@"'])
        return tied + ['unshare', '--mount', '--net', '--propagation', 'private', '--',
                       'setpriv', '--pdeathsig', 'KILL', 'sh', '-c', script, 'sh'] + run

    def _daemon_environment(self):
        env = {'PATH': '/usr/sbin:/usr/bin:/sbin:/bin', 'HOME': str(self.dir / 'home'), 'LC_ALL': 'C.UTF-8',
               'LIBVIRT_STORAGE_BACKEND_DIR': str(self.stub.parent), 'VOL_REPAIR_CONF': str(self.conf)}
        if not self.system:
            env.update(XDG_RUNTIME_DIR=str(self.dir / 'run'), XDG_CONFIG_HOME=str(self.dir / 'home'),
                       XDG_CACHE_HOME=str(self.dir / 'cache'), XDG_STATE_HOME=str(self.dir / 'home'))
        return {**env, **self.daemon_env}

    def start(self):
        """Starts the daemon and waits until it answers."""
        with open(self.dir / 'log' / 'stderr', 'ab') as stderr:
            self.daemon = subprocess.Popen(self._daemon_command(), env=self._daemon_environment(),
                                           stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr)
        if not wait_until(self._answers, 30):
            raise LabError('libvirtd does not answer:\n' + self.log())
        if self.system:
            self._hold_namespace()

    def _hold_namespace(self):
        # What an earlier daemon has left is in a namespace of its own, which is kept as well.
        namespace = open(f'/proc/{self.daemon.pid}/ns/mnt', 'rb')
        self.namespaces.append(namespace)
        if in_namespaces('self', [namespace]):
            self.namespaces.clear()
            raise LabError('libvirtd is not in a mount namespace of its own')

    def _answers(self):
        if self.daemon.poll() is not None:
            raise LabError(f'libvirtd ended with status {self.daemon.returncode}:\n' + self.log())
        with socket.socket(socket.AF_UNIX) as sock:
            if sock.connect_ex(str(self.socket_dir / 'libvirt-sock')) != 0:
                return False
        return self.virsh('pool-list').returncode == 0

    def stop(self, sig=signal.SIGTERM):
        """Ends the daemon; its virtual machines and repairs live on, as they would on a host."""
        if self.daemon and self.daemon.poll() is None:
            self.daemon.send_signal(sig)
            try:
                self.daemon.wait(40)
            except subprocess.TimeoutExpired:
                self.daemon.kill()
                self.daemon.wait()
        self.daemon = None

    def restart(self, sig=signal.SIGTERM):
        self.stop(sig)
        self.start()

    def log(self):
        """All the daemon has said."""
        files = (self.log_file, self.dir / 'log' / 'stderr')
        return ''.join(f.read_text(errors='replace') for f in files if f.exists())

    def _leftovers(self):
        """Processes of the lab that are not the daemon: by namespace as root, else by the pid files of libvirt."""
        if self.system:
            pids = [int(p) for p in os.listdir('/proc') if p.isdigit()]
            return [p for p in pids if in_namespaces(p, self.namespaces)]
        pids = []
        for file in (self.dir / 'run').glob('libvirt/qemu/run/*.pid'):
            pid = file.read_text().strip()
            command = Path(f'/proc/{pid}/cmdline')
            if pid.isdigit() and command.exists() and str(self.dir).encode() in command.read_bytes():
                pids.append(int(pid))
        return pids

    def _end_leftovers(self):
        for sig, wait in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
            for pid in self._leftovers():
                try:
                    os.kill(pid, sig)
                except ProcessLookupError:
                    pass
            if wait_until(lambda: not self._leftovers(), wait):
                return

    # ---- use ----

    def __enter__(self):
        try:
            self.start()
            for command in (['pool-define-as', 'default', 'dir', '--target', str(self.pool_dir)],
                            ['pool-autostart', 'default'], ['pool-start', 'default']):
                done = self.virsh(*command)
                if done.returncode != 0:
                    raise LabError(f'{command[0]}: {done.stderr}{self.log()}')
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        # A signal may end this in the middle (sys.exit in its handler); the rest is done all the same.
        with contextlib.ExitStack() as stack:
            if not self.keep:
                stack.callback(shutil.rmtree, self.dir, ignore_errors=True)
            for namespace in self.namespaces:
                stack.callback(namespace.close)
            stack.callback(self._end_leftovers)
            stack.callback(self.stop, signal.SIGKILL)
            self.stop()
        self.namespaces.clear()

    def command(self, argv, cwd=None):
        """The argument list that runs argv within the lab."""
        if not self.system or not self.daemon:
            return list(argv)
        return ['nsenter', f'--target={self.daemon.pid}', '--mount', f'--wd={cwd or os.getcwd()}', '--', *argv]

    def run(self, argv, **kwargs):
        """subprocess.run() of argv within the lab: text, output captured unless asked otherwise."""
        pipe = subprocess.PIPE
        kwargs = {'text': True, 'stdout': pipe, 'stderr': pipe, 'env': self.env, 'timeout': patience.seconds(300), **kwargs}
        return subprocess.run(self.command(argv), check=False, **kwargs)

    def virsh(self, *args, **kwargs):
        """Stock virsh."""
        return self.run(['/usr/bin/virsh', *args], **kwargs)


def main():
    parser = argparse.ArgumentParser(
        description='Runs a command, or a shell, with a private libvirtd and the built extension.')
    parser.add_argument('--build', default=os.environ.get('BUILD_DIR', 'build'), help='build directory')
    parser.add_argument('--keep', action='store_true', help="leave the lab's directory in place")
    parser.add_argument('what', choices=['shell'])
    parser.add_argument('command', nargs=argparse.REMAINDER)
    args = parser.parse_args()
    command = args.command[1:] if args.command[:1] == ['--'] else args.command
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    try:
        with Lab(args.build, keep=args.keep) as lab:
            argv = lab.command(command or [os.environ.get('SHELL', '/bin/sh')])
            if command:
                return subprocess.run(argv, env=lab.env, check=False).returncode
            print(f'libvirtd is at {lab.uri}; the pool "default" is {lab.pool_dir}. End the shell to stop it.')
            return subprocess.run(argv, env=lab.env, check=False).returncode
    except (LabError, OSError) as e:
        print(f'lab: {e}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == '__main__':
    sys.exit(main())
