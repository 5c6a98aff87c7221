# SPDX-License-Identifier: LGPL-2.1-or-later
"""vm.py: the emulated host: boots the disk of image.py in QEMU's TCG (with SVM), types commands through ssh, cuts its power."""
import os
import re
import shlex
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

MEMORY_MIB = 4096
DISK_GIB = 24  # a hole; an LV of 17 GiB is on it
BOOT_SECONDS = 900  # 55 to 90 s on an idle machine
APPEND = 'root=/dev/vda rw console=ttyS0 mitigations=off security=apparmor apparmor=1 audit_backlog_limit=8192 panic=-1 quiet'
# A busy machine starves daemons for minutes, which then were killed; the same made Linux 6.1 hang with two processors.
APPEND += ' systemd.service_watchdogs=0 tsc=reliable'


class HostGone(Exception):
    """The machine is not there any more: what comes after cannot be tried."""


class Output(str):
    """What a command printed, on both streams; .code is its exit status."""
    code = 0


class Host:
    """One machine; `place` has base.img, vmlinuz, initrd.img and key, `large` becomes /dev/vdd, `work` is ours alone."""

    def __init__(self, place, large, work, log):
        self.place, self.large, self.work, self.log = Path(place), Path(large), Path(work), log
        self.qemu, self.port, self.boots = None, 0, 0
        self.lock = threading.Lock()

    def make_disks(self):
        """The system's disk over the image, and two empty ones: /dev/vdb for LVM, /dev/vdc for partitions."""
        subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', str(self.place / 'base.img'),
                        str(self.work / 'vda.qcow2')], check=True)
        for name in ('vdb', 'vdc'):
            with open(self.work / f'{name}.img', 'wb') as disk:
                disk.truncate(DISK_GIB << 30)

    def command_line(self):
        words = ['qemu-system-x86_64', '-accel', 'tcg,thread=multi', '-cpu', 'EPYC,+svm,+npt', '-smp', '1', '-m', str(MEMORY_MIB),
                 '-display', 'none', '-no-reboot', '-nodefaults', '-kernel', self.place / 'vmlinuz', '-initrd', self.place / 'initrd.img',
                 '-append', APPEND, '-drive', f'file={self.work}/vda.qcow2,if=virtio,format=qcow2,cache=writeback']
        for name in ('vdb', 'vdc'):
            words += ['-drive', f'file={self.work}/{name}.img,if=virtio,format=raw,cache=writeback']
        words += ['-drive', f'file={self.large},if=virtio,format=raw,readonly=on']
        return [str(word) for word in words] + [
            '-netdev', 'user,id=n,restrict=on,hostfwd=tcp:127.0.0.1:0-:22', '-device', 'virtio-net-pci,netdev=n',
            '-device', 'virtio-rng-pci', '-serial', f'file:{self.work}/serial-{self.boots}.log',
            '-monitor', f'unix:{self.work}/monitor,server=on,wait=off']

    def boot(self):
        """Starts the machine and waits until it lets us in; the seconds that took."""
        self.boots += 1
        start = time.monotonic()
        with open(self.work / 'qemu.log', 'ab') as errors:
            self.qemu = subprocess.Popen(self.command_line(), stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
        self.port = self.forwarded_port()
        while self.type('test -e /run/systemd/system', timeout=60).code != 0:
            if self.qemu.poll() is not None or time.monotonic() - start > BOOT_SECONDS:
                raise HostGone('the host did not come up: ' + self.last_words())
            time.sleep(2)
        return time.monotonic() - start

    def forwarded_port(self):
        """The port that QEMU took for ssh: it asks the kernel for a free one, and its monitor tells which."""
        for _ in range(100):
            try:
                with socket.socket(socket.AF_UNIX) as monitor:
                    monitor.connect(str(self.work / 'monitor'))
                    monitor.settimeout(10)
                    monitor.sendall(b'info usernet\n')
                    text = b''
                    while not (found := re.search(rb'TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)', text)):
                        text += monitor.recv(4096) or b'\0'
                    return int(found.group(1))
            except OSError:
                if self.qemu.poll() is not None:
                    break
                time.sleep(0.2)
        raise HostGone('QEMU does not start: ' + self.last_words())

    def last_words(self):
        texts = [(self.work / name) for name in ('qemu.log', f'serial-{self.boots}.log')]
        lines = [line for path in texts if path.exists() for line in path.read_text(errors='replace').splitlines() if line.strip()]
        return (lines or ['it said nothing'])[-1][:200]

    def ssh(self, user):
        return ['ssh', '-q', '-F', 'none', '-i', str(self.place / 'key'), '-p', str(self.port), '-o', 'StrictHostKeyChecking=no',
                '-o', 'UserKnownHostsFile=/dev/null', '-o', 'BatchMode=yes', '-o', 'ConnectTimeout=30', '-o', 'ControlMaster=auto',
                '-o', f'ControlPath={self.work}/ssh-{self.boots}-%r', '-o', 'ControlPersist=yes', f'{user}@127.0.0.1']

    def type(self, command, user='root', timeout=300, stdin=None):
        """What a user's shell on the host prints for a command; keeps it in the log as it was typed."""
        source = subprocess.DEVNULL if stdin is None else None
        try:
            run = subprocess.run([*self.ssh(user), command], stdin=source, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                 timeout=timeout, check=False)
            text, code = run.stdout.decode(errors='replace'), run.returncode
        except subprocess.TimeoutExpired as late:
            text, code = (late.stdout or b'').decode(errors='replace') + f'\n(still running after {timeout} s)', 124
        output = Output(text)
        output.code = code
        with self.lock:
            self.log.write(f'[{time.strftime("%T")}] {user}@host{self.boots}$ {command}\n{text}' + (f'[exit {code}]\n' if code else ''))
            self.log.flush()
        return output

    def do(self, command, user='root', timeout=300, stdin=None):
        """As type(), for what a test needs: an exit status other than 0 is an error."""
        output = self.type(command, user, timeout, stdin)
        assert output.code == 0, f'`{command}` ended with {output.code}: {" ".join(output.split())[-300:]}'
        return output

    def start(self, command, user='root'):
        """A command that goes on meanwhile; its lines come through .stdout."""
        with self.lock:
            self.log.write(f'[{time.strftime("%T")}] {user}@host{self.boots}$ {command} &\n')
        return subprocess.Popen([*self.ssh(user), command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, errors='replace')

    def send(self, paths, target):
        """Copies files of ours into a directory of the host."""
        tar = subprocess.run(['tar', '-c', *[word for path in map(Path, paths) for word in ('-C', str(path.parent), path.name)]],
                             stdout=subprocess.PIPE, check=True)
        self.do(f'mkdir -p {shlex.quote(target)} && tar -x --no-same-owner -C {shlex.quote(target)}', stdin=tar.stdout)

    def cut_power(self):
        """kill -9 of this very QEMU: what the host had not synced is lost."""
        os.kill(self.qemu.pid, signal.SIGKILL)
        self.qemu.wait()
        with self.lock:
            self.log.write(f'[{time.strftime("%T")}] power cut\n')
        self.end_ssh()

    def end_ssh(self):
        for path in self.work.glob(f'ssh-{self.boots}-*'):
            user = path.name.rsplit('-', 1)[1]
            subprocess.run([*self.ssh(user)[:-1], '-O', 'exit', f'{user}@127.0.0.1'], stdin=subprocess.DEVNULL, capture_output=True,
                           check=False)

    def stop(self):
        if self.qemu and self.qemu.poll() is None:
            self.end_ssh()
            self.qemu.kill()
            self.qemu.wait()
