# SPDX-License-Identifier: LGPL-2.1-or-later
"""machine.py: an emulated arm64 machine with Debian's stock kernel, for what qemu-user cannot do: system call filters."""
import subprocess
import sys
import tempfile
from pathlib import Path

from sysroot import BASE, ROOT, SYSROOT, TOOLS, SysrootError

sys.path.insert(0, str(ROOT / 'tests' / 'machine'))
import kernel  # noqa: E402

HERE = Path(__file__).resolve().parent


def initial_files(directory):
    (directory / 'modules').mkdir()
    kernel.copy_modules(SYSROOT, directory / 'modules')
    names = (directory / 'modules' / 'order').read_text().split()
    files = {f'modules/{name}': (directory / 'modules' / name).read_bytes() for name in names}
    return {**files, 'modules/order': ('\n'.join(names) + '\n').encode(), 'bin/busybox': (SYSROOT / 'bin' / 'busybox').read_bytes(),
            'init': (HERE / 'init').read_bytes()}


def qemu(run):
    return ['setpriv', '--pdeathsig', 'KILL', TOOLS / 'usr' / 'bin' / 'qemu-system-aarch64', '-nodefaults', '-no-user-config',
            '-display', 'none', '-no-reboot', '-M', 'virt', '-cpu', 'cortex-a72', '-accel', 'tcg,thread=multi', '-smp', '2',
            '-m', '1536', '-kernel', next((SYSROOT / 'boot').glob('vmlinuz-*')), '-initrd', run / 'initrd',
            '-append', f'console=ttyAMA0 quiet panic=-1 mitigations=off nokaslr tree={ROOT}', '-serial', f'file:{run / "console"}',
            '-device', 'virtio-serial-pci', '-chardev', f'file,id=out,path={run / "out"}', '-device', 'virtconsole,chardev=out',
            '-virtfs', f'local,path={SYSROOT},mount_tag=root,security_model=none,readonly=on,multidevs=remap',
            '-virtfs', f'local,path={ROOT},mount_tag=tree,security_model=none,readonly=on,multidevs=remap']


def run(words, seconds):
    """(exit status, output) of a command in this tree, as root in the machine; a SysrootError where it did not come to an end."""
    (BASE / 'command').write_text(f'export PATH=/usr/sbin:/usr/bin LC_ALL=C PYTHONUTF8=1 VR_PATIENCE=20 TMPDIR=/tmp\n{words}\n')
    with tempfile.TemporaryDirectory(prefix='vr-arm64-', dir='/var/tmp') as directory:
        directory = Path(directory)
        (directory / 'initrd').write_bytes(kernel.cpio(initial_files(directory)))
        for name in ('out', 'console'):
            (directory / name).touch()
        try:
            done = subprocess.run(qemu(directory), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds,
                                  check=False)
        except subprocess.TimeoutExpired:
            raise SysrootError(f'the machine was not done within {seconds} s; its last words: {last_words(directory)}') from None
        text = (directory / 'out').read_text(errors='replace').replace('\r', '')
        *lines, last = text.rstrip().split('\n')
        if not last.startswith('status ') or not last[7:].isdigit():
            raise SysrootError(f'the machine failed: {last or last_words(directory) or done.stderr}')
        return int(last[7:]), '\n'.join(lines)


def last_words(directory):
    return ' / '.join((directory / name).read_text(errors='replace')[-300:].strip() for name in ('console', 'out'))
