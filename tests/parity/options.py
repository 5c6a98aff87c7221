# SPDX-License-Identifier: LGPL-2.1-or-later
"""options.py: command lines that qemu-img and vol-repair must answer alike: exit code, standard output and error."""
import subprocess

from patience import seconds

QEMU_OPEN = 'driver=qcow2,file.filename=a.q'
# Each is also given to qemu-img check; names are of the files that make_files() makes.
SAME = [
    'a.q', '-f qcow2 a.q', '-f raw a.q', '-f raw r.raw', 'r.raw', '-f qcow2 r.raw', 'empty', '-f qcow2 empty', 'one', '-f qcow2 one',
    'dir', '-f qcow2 dir', 'none', '-f qcow2 none', '-f nofmt a.q', 'child.q', '-r all child.q', 'data.q', '-r leaks data.q',
    f'--image-opts {QEMU_OPEN},file.driver=file', f'--image-opts {QEMU_OPEN}', f'--image-opts {QEMU_OPEN},file.locking=off',
    '--image-opts file.filename=a.q', '--image-opts filename=a.q', '--image-opts driver=raw,file.filename=a.q',
    '--image-opts driver=qcow2,file.filename=data.q,data-file.driver=file,data-file.filename=data.raw',
    'nameless.q', '-r all nameless.q',
    '--image-opts driver=qcow2,file.filename=nameless.q,data-file.driver=file,data-file.filename=data.raw',
    '--image-opts driver=qcow2,file.filename=none', '--image-opts a.q', '--image-opts driver=qcow2',
    '--image-opts driver=nodrv,file.filename=a.q', f'--image-opts {QEMU_OPEN},bogus=1', f'--image-opts {QEMU_OPEN},lazy-refcounts=on',
    f'--image-opts {QEMU_OPEN},read-only=on', f'-r all --image-opts {QEMU_OPEN},read-only=on',
    f'--image-opts {QEMU_OPEN},read-only=bogus', f'--image-opts {QEMU_OPEN},cache.direct=on',
    f'--image-opts {QEMU_OPEN},overlap-check=all', f'--image-opts {QEMU_OPEN},file.aio=threads',
    f'-f qcow2 --image-opts {QEMU_OPEN}', '-q a.q', '-U a.q', '-U -r all a.q', '-T none a.q', '-T bogus a.q',
    '-T writeback -r all a.q', '-r bogus a.q', '-r a.q', '', 'a.q data.q', '--bogus a.q', '--output=human a.q', '--output=xml a.q',
    '-r leaks -q a.q', '--repair=all a.q', '--repair leaks a.q', '--force-share a.q', '--format=qcow2 a.q',
    '--object secret,id=s,data=x a.q', '--object bogus,id=s a.q', '--object secret,data=x a.q', 'file:a.q', './a.q', '-- a.q',
    '-f qcow2 -- a.q',
]
# What is wrong with these, later versions of qemu-img say in other words.
USAGE = {'-r bogus a.q', '-r a.q', '', 'a.q data.q', '--bogus a.q', '--output=xml a.q'}
# Meant to differ: what we say first, and why.
OTHERS = {
    '-f vmdk a.q': ('This image format does not support checks', 'only qcow2 is opened, so a damaged VMDK is no other error'),
    'orphan.q': ('', 'a check needs no backing file, so a missing one is no error'),
    'lost.q': ('', 'a check needs no data file, so a missing one is no error'),
    'nbd://localhost/x': ('Could not open \'nbd://localhost/x\': Unknown protocol', 'only files and devices of this host'),
    'json:{}': ('Could not open \'json:{}\': Unknown protocol', 'option strings are what --image-opts takes'),
    f'--image-opts {QEMU_OPEN},file.driver=nbd': ('Could not open', 'only files and devices of this host'),
}


def make_files(directory):
    def create(*words):
        subprocess.run(['qemu-img', 'create', '-q', '-f', *words], cwd=directory, check=True)
    create('qcow2', 'a.q', '1M')
    create('raw', 'r.raw', '1M')
    create('qcow2', '-b', 'a.q', '-F', 'qcow2', 'child.q')
    create('qcow2', '-u', '-b', '/nonexistent', '-F', 'raw', 'orphan.q', '1M')
    create('qcow2', '-o', 'data_file=data.raw', 'data.q', '1M')
    create('qcow2', '-o', 'data_file=lost.raw', 'lost.q', '1M')
    # The name of the data file in an extension that nobody knows.
    (directory / 'nameless.q').write_bytes((directory / 'data.q').read_bytes().replace(b'\x44\x41\x54\x41', b'NOBO', 1))
    (directory / 'lost.raw').unlink()
    (directory / 'empty').touch()
    (directory / 'one').write_text('x')
    (directory / 'dir').mkdir()


def answer(program, words, directory):
    run = subprocess.run([*program, *words.split()], cwd=directory, capture_output=True, text=True, timeout=seconds(60), check=False)
    return run.returncode, run.stdout, run.stderr.replace('vol-repair:', 'qemu-img:').replace('vol-repair --help', 'qemu-img --help')


def compare(program, directory, version):
    """[(command line, difference or '', why it was not compared or '')]"""
    make_files(directory)
    results = []
    for words in SAME:
        if words in USAGE and not version.startswith('7.2'):
            results.append((words, '', f'qemu-img is {version} here, which says it in other words than 7.2'))
            continue
        ours, theirs = answer(program, words, directory), answer(['qemu-img', 'check'], words, directory)
        results.append((words, '' if ours == theirs else f'qemu-img: {theirs}, ours: {ours}', ''))
    for words, (said, why) in OTHERS.items():
        ours, theirs = answer(program, words, directory), answer(['qemu-img', 'check'], words, directory)
        fault = 'is meant to differ, and does not' if ours == theirs else ''
        if not ours[2].startswith(f'qemu-img: {said}' if said else ''):
            fault = f'{why}; ours: {ours}'
        results.append((words, fault, ''))
    return results
