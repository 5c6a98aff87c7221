#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""machine.py: runs a command in an emulated PC with Debian's stock kernel and a working /dev/kvm. Called by `./run machine`.

--cpu=amd (the default): QEMU emulates SVM. The command runs as root in the current directory; it sees this machine's
files, and what it changes is gone at the end. Its standard input is empty, unless it has a terminal: without a COMMAND
it is a shell. The exit status is that of the command, 124 where the time was over, 125 where there was no PC.

--cpu=intel: bochs emulates VMX. That PC does not see this machine's files and takes no COMMAND: it runs
tests/machine/intel-tests (a check and repairs in each mode of kvm_intel, then the hostile guests), which takes minutes.
"""
import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import intel
import kernel
from kernel import MachineError

HERE = Path(__file__).resolve().parent
TIMED_OUT, NO_PC = 124, 125
QEMU = 'qemu-system-x86_64'
KERNEL_ARGUMENTS = 'console=ttyS0 quiet panic=-1 mitigations=off nokaslr random.trust_cpu=on'


def command_script(command):
    """A script that runs the command here, with this environment: the same bytes, whatever they are."""
    environment = [name + b'=' + value for name, value in os.environb.items()]
    words = [b'env', b'-i', *environment, *map(os.fsencode, command)]
    quoted = b' '.join(os.fsencode(shlex.quote(os.fsdecode(word))) for word in words)
    return b'cd ' + os.fsencode(shlex.quote(os.getcwd())) + b' || exit 125\nexec ' + quoted + b'\n'


def terminal_script():
    """A shell that knows the size of the terminal outside."""
    size = shutil.get_terminal_size()
    return f'stty sane rows {size.lines} columns {size.columns}\n'.encode() + command_script([os.environ.get('SHELL', '/bin/bash')])


def make_disk(path, size):
    """An empty ext4 file system in a sparse file: real, so that O_DIRECT, fallocate and leases are as on a disk."""
    with open(path, 'wb') as file:
        file.truncate(size)
    kernel.output_of('mke2fs', '-q', '-F', '-t', 'ext4', '-O', '^has_journal', '-E', 'lazy_itable_init=1,nodiscard', str(path))


def qemu_command(args, run, made, terminal):
    ports = []
    for number, name in enumerate(('stdout', 'stderr', 'status'), 1):
        ports += ['-chardev', f'file,id={name},path={run / name}',
                  '-device', f'virtserialport,chardev={name},name={name},nr={number}']
    if terminal:
        ports += ['-chardev', 'stdio,id=terminal,signal=off', '-device', 'virtconsole,chardev=terminal,nr=0']
    append = f'{KERNEL_ARGUMENTS} run={run}' + ' terminal=1' * terminal
    return ['setpriv', '--pdeathsig', 'KILL', QEMU, '-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot',
            '-accel', 'tcg,thread=multi', '-cpu', 'EPYC,+svm,+npt', '-smp', str(args.cpus), '-m', args.memory,
            '-kernel', str(made / 'vmlinuz'), '-initrd', str(run / 'initrd'), '-append', append,
            '-serial', f'file:{run / "console"}',
            '-device', 'virtio-serial-pci,ioeventfd=off', *ports,
            '-drive', f'if=virtio,format=raw,cache=unsafe,file={run / "disk"}',
            '-virtfs', 'local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap']


def fetch(args):
    """The kernel's directory, and the files of the initial file system."""
    if not shutil.which(QEMU):
        raise MachineError(f'{QEMU} is missing here: ./run deps')
    made = kernel.get(args.kernel)
    return made, kernel.base_files(made, 'kvm-amd')


def prepare(args, run, terminal):
    """Everything that QEMU is given. Returns its command."""
    made, files = fetch(args)
    files['init'] = (HERE / 'init').read_bytes()
    (run / 'initrd').write_bytes(kernel.cpio(files))
    (run / 'command').write_bytes(terminal_script() if terminal else command_script(args.command))
    make_disk(run / 'disk', args.disk << 30)
    for name in ('stdout', 'stderr', 'status', 'console'):
        (run / name).touch()
    return qemu_command(args, run, made, terminal)


class Relay:
    """Hands on what was added to the files that QEMU writes. Files, so that QEMU never waits and nothing is lost."""

    def __init__(self, run):
        self.pairs = [(open(run / 'stdout', 'rb'), sys.stdout.buffer), (open(run / 'stderr', 'rb'), sys.stderr.buffer)]

    def pump(self):
        for source, target in self.pairs:
            if data := source.read():
                target.write(data)
                target.flush()


def wait(child, run, seconds):
    """Streams the output until the PC is off. TimeoutError where the time is over."""
    relay, end = Relay(run), time.monotonic() + seconds
    while child.poll() is None:
        relay.pump()
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.05)
    relay.pump()


def verdict(run):
    """The command's exit status, by the PC's last word."""
    word = (run / 'status').read_text(errors='replace').strip()
    if word.isdigit():
        return int(word)
    lines = (run / 'console').read_text(errors='replace').replace('\r', '').splitlines()
    lines += (run / 'qemu').read_text(errors='replace').splitlines()
    print('\n'.join('  | ' + line for line in lines[-15:]), file=sys.stderr)
    raise MachineError(f'the emulated PC failed: {word or "it ended before the command did; its last lines are above"}')


def run_amd(args):
    terminal = not args.command
    with tempfile.TemporaryDirectory(prefix='vr-machine-', dir='/var/tmp') as run:
        run = Path(run)
        command = prepare(args, run, terminal)
        with open(run / 'qemu', 'wb') as log:
            child = subprocess.Popen(command, stdin=None if terminal else subprocess.DEVNULL, stdout=None if terminal else log,
                                     stderr=log)
        try:
            wait(child, run, args.timeout)
        finally:
            child.kill()
            child.wait()
            if args.console:
                shutil.copy(run / 'console', args.console)
        return verdict(run)


def parse():
    parser = argparse.ArgumentParser(prog='./run machine', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--cpu', choices=('amd', 'intel'), default='amd', help='whose virtualisation is emulated (amd)')
    parser.add_argument('--timeout', type=float, default=3600, metavar='SECONDS', help='end it after that time (3600)')
    parser.add_argument('--memory', default='2G', help='of the PC (2G)')
    parser.add_argument('--disk', type=int, default=8, metavar='GIB', help='how much may be written to files (8)')
    parser.add_argument('--cpus', type=int, default=1, help='processors of the PC (1)')
    parser.add_argument('--kernel', metavar='DEB', help="another package of a kernel than apt's linux-image-amd64")
    parser.add_argument('--fetch', action='store_true', help='only see to it that the kernel is here')
    parser.add_argument('--build', default='build/release', help='build directory, for --cpu=intel (build/release)')
    parser.add_argument('--console', metavar='FILE', help='keep what the PC said on its serial console')
    parser.add_argument('command', nargs=argparse.REMAINDER, metavar='COMMAND...', help='a shell, if there is none and a terminal')
    args = parser.parse_args()
    if args.command[:1] == ['--']:
        del args.command[0]
    if args.cpu == 'intel':
        if args.command:
            parser.error('the Intel PC runs tests/machine/intel-tests, and no other COMMAND')
    elif not args.command and not args.fetch and not (sys.stdin.isatty() and sys.stdout.isatty()):
        parser.error('no COMMAND, and no terminal for a shell; for example: ./run machine -- dmesg')
    return args


def main():
    args = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if args.fetch:
            fetch(args)
            return 0
        return intel.run_intel(args) if args.cpu == 'intel' else run_amd(args)
    except TimeoutError:
        print(f'machine: not done within {args.timeout:g} seconds', file=sys.stderr)
        return TIMED_OUT
    except MachineError as error:
        print(f'machine: {error}', file=sys.stderr)
        return NO_PC
    except BrokenPipeError:  # nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == '__main__':
    sys.exit(main())
