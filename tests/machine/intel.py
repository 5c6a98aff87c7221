# SPDX-License-Identifier: LGPL-2.1-or-later
"""intel.py: the emulated Intel PC: Debian's bochs emulates VMX, so its stock kernel has a working kvm_intel.

Many times slower than the other one, and without a way to see this machine's files: what runs in it, the fixed set of
intel-tests, is in its initial file system, on an ISO image.
"""
import gzip
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import kernel
from kernel import MachineError, ROOT

HERE = Path(__file__).resolve().parent
PACKAGES = 'bochs bochs-term bochsbios vgabios isolinux syslinux-common xorriso'
ISOLINUX, LDLINUX = '/usr/lib/ISOLINUX/isolinux.bin', '/usr/lib/syslinux/modules/bios/ldlinux.c32'
BIOS, VGA_BIOS = '/usr/share/bochs/BIOS-bochs-latest', '/usr/share/bochs/VGABIOS-lgpl-latest'
KERNEL_ARGUMENTS = ('console=ttyS0,115200 mitigations=off nokaslr quiet panic=-1 clocksource=tsc tsc=reliable no_timer_check '
                    'nowatchdog random.trust_cpu=on')
BUILT = ('tests/hostile/hostile-run', 'tests/hostile/hostile-guest.elf', 'guest/vol-repair-guest.elf')
RECIPES = ('leaked-cluster', 'refcount-zero')
BEGIN, STATUS = 'intel: begin', re.compile(r'^intel: status (\d+)$')

ISOLINUX_CFG = f'DEFAULT l\nPROMPT 0\nTIMEOUT 1\nLABEL l\n KERNEL /vmlinuz\n INITRD /initrd\n APPEND {KERNEL_ARGUMENTS}\n'
BOCHSRC = '''megs: 512
romimage: file={bios}
vgaromimage: file={vga}
cpu: model=corei7_skylake_x, count=1, ips=100000000, reset_on_triple_fault=0
cpuid: x86_64=1
clock: sync=none, time0=local
display_library: term
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path={run}/iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev={run}/serial
log: {run}/log
panic: action=fatal
error: action=ignore
info: action=ignore
debug: action=ignore
pci: enabled=1, chipset=i440fx
sound: waveoutdrv=dummy
speaker: enabled=0
mouse: enabled=0
'''
# Prints where the modules lie that the hostile suite imports.
MODULES_OF = '''import runpy, sys
sys.argv = [sys.argv[1], '--help']
try:
    runpy.run_path(sys.argv[0], run_name='__main__')
except SystemExit:
    pass
import encodings.ascii, encodings.latin_1
for module in list(sys.modules.values()):
    if getattr(module, '__file__', None):
        print('module:', module.__file__, getattr(module, '__cached__', None) or '', sep='\\t')
'''


def need_tools():
    there = [shutil.which('bochs-bin') or shutil.which('bochs'), shutil.which('xorriso'),
             *(Path(path).exists() for path in (ISOLINUX, LDLINUX, BIOS, VGA_BIOS))]
    if not all(there):
        raise MachineError(f'the Intel PC needs packages that are missing here: apt-get install --no-install-recommends {PACKAGES}')


def libraries(*programs):
    """{path: bytes} of the shared libraries of these programs, and of the loader."""
    found = set()
    for program in programs:
        found.update(re.findall(r'(?:=> )?(/\S+) \(0x', kernel.output_of('ldd', str(program))))
    return {path.lstrip('/'): Path(path).read_bytes() for path in found}


def python_files():
    """Python, as far as the hostile suite needs it; compiled modules stand where their source would."""
    python = Path('/usr/bin/python3').resolve()
    printed = kernel.output_of(str(python), '-S', '-c', MODULES_OF, str(ROOT / 'tests/hostile/run.py'))
    files, shared = {'usr/bin/python3': python.read_bytes()}, [python]
    for line in printed.splitlines():
        if not line.startswith('module:\t/usr/lib/'):
            continue
        _, path, cached = line.split('\t')
        if path.endswith('.py') and cached and Path(cached).exists():
            files[path.lstrip('/') + 'c'] = Path(cached).read_bytes()
        else:
            files[path.lstrip('/')] = Path(path).read_bytes()
        if path.endswith('.so'):
            shared.append(Path(path))
    return {**files, **libraries(*shared)}


def images(run):
    """Two images with damage from the cases, and one without."""
    made = {}
    kernel.output_of('qemu-img', 'create', '-q', '-f', 'qcow2', str(run / 'good'), '1G')
    made['images/good.qcow2'] = (run / 'good').read_bytes()
    for name in RECIPES:
        kernel.output_of('/usr/bin/python3', str(ROOT / 'testdata/mkqcow2.py'), str(ROOT / 'tests/cases' / name / 'recipe'),
                         str(run / name))
        made[f'images/{name}.qcow2'] = (run / name).read_bytes()
    return made


def stripped(program, run):
    """Without what only debuggers read: each byte is emulated once more."""
    kernel.output_of('strip', '-o', str(run / 'stripped'), str(program))
    return (run / 'stripped').read_bytes()


def initial_files(build, made, run):
    files = kernel.base_files(made, 'kvm-intel')
    keep = ('irqbypass', 'kvm', 'kvm-intel')
    files = {name: data for name, data in files.items() if not name.startswith('modules/') or name.split('/')[1] in keep}
    files['modules/order'] = '\n'.join(keep).encode() + b'\n'
    vol_repair = build / 'plugin/cli/vol-repair'
    files.update({'bin/vol-repair': stripped(vol_repair, run), **libraries(vol_repair, build / BUILT[0]), **python_files(),
                  **images(run)})
    for name in BUILT:
        files[f'build/{name}'] = (build / name).read_bytes()
    files['build/' + BUILT[0]] = stripped(build / BUILT[0], run)
    for name in ('hostile/run.py', 'patience.py'):
        files[f'tests/{name}'] = (ROOT / 'tests' / name).read_bytes()
    files['init'] = (HERE / 'intel-init').read_bytes()
    files['intel-tests'] = (HERE / 'intel-tests').read_bytes()
    return files


def make_iso(build, run):
    made = kernel.get()
    tree = run / 'tree'
    (tree / 'isolinux').mkdir(parents=True)
    (tree / 'initrd').write_bytes(gzip.compress(kernel.cpio(initial_files(build, made, run)), 6))
    shutil.copy(made / 'vmlinuz', tree / 'vmlinuz')
    for path in (ISOLINUX, LDLINUX):
        shutil.copy(path, tree / 'isolinux')
    (tree / 'isolinux' / 'isolinux.cfg').write_text(ISOLINUX_CFG)
    kernel.output_of('xorriso', '-as', 'mkisofs', '-quiet', '-o', str(run / 'iso'), '-b', 'isolinux/isolinux.bin',
                     '-c', 'isolinux/boot.cat', '-no-emul-boot', '-boot-load-size', '4', '-boot-info-table', str(tree))


def bochs_command(run):
    """Its screen is of the terminal kind, and is given a terminal that nobody looks at."""
    (run / 'bochsrc').write_text(BOCHSRC.format(run=run, bios=BIOS, vga=VGA_BIOS))
    (run / 'debugger').write_text('c\n')
    bochs = shutil.which('bochs-bin') or shutil.which('bochs')
    inner = f'exec setpriv --pdeathsig KILL {bochs} -q -f {run}/bochsrc -rc {run}/debugger'
    return ['setpriv', '--pdeathsig', 'KILL', 'script', '-q', '-e', '-c', inner, str(run / 'screen')]


def follow(child, run, seconds):
    """Prints what the PC says between its first line and its last one; returns the status in that, None where it ended early."""
    end, begun = time.monotonic() + seconds, False
    rest = ''
    with open(run / 'serial', encoding='utf-8', errors='replace') as serial:
        while True:
            ended = child.poll() is not None
            *lines, rest = (rest + serial.read().replace('\r', '')).split('\n')
            for line in lines:
                if status := STATUS.match(line):
                    return int(status[1])
                if begun:
                    print(line, flush=True)
                begun = begun or line == BEGIN
            if ended:
                return None
            if time.monotonic() > end:
                raise TimeoutError
            time.sleep(0.2)


def run_intel(args):
    """The exit status of intel-tests."""
    need_tools()
    with tempfile.TemporaryDirectory(prefix='vr-machine-', dir='/var/tmp') as run:
        run = Path(run)
        make_iso(ROOT / args.build, run)
        (run / 'serial').touch()
        child = subprocess.Popen(bochs_command(run), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL, env={**os.environ, 'TERM': 'vt100'}, start_new_session=True)
        try:
            status = follow(child, run, args.timeout)
        finally:
            child.kill()
            child.wait()
            if args.console:
                shutil.copy(run / 'serial', args.console)
        if status is None:
            print((run / 'serial').read_text(errors='replace')[-1000:], file=sys.stderr)
            raise MachineError('the emulated Intel PC ended before its tests did; its last lines are above')
        return status
