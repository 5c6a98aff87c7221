#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""journals.py: an undo journal is found again whatever became of the image's name, never used for another image, and bounded.

journals.py --build BUILD [FILTER]. Each test is a function below; its name says what it holds. The directory of journals is a
private one.
"""
import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import jsonschema

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / 'tests'))
import state  # noqa: E402
from patience import seconds  # noqa: E402

SCHEMA = json.loads((ROOT / 'docs' / 'report.schema.json').read_text())
RECIPE = """image size=64M
write 0 1M pattern=1
poke refcount[6] = 0
poke refcount[9] = 7
poke refcount[2000] = 1
poke l1[0].l2[3].copied = 0
"""
CUT = '--test-crash-after=1'
INTERRUPTED = 'was interrupted while it wrote'
ROLLED_BACK = 'was interrupted; it was rolled back first'


class Skip(Exception):
    """The test cannot run here; the text says why."""


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


class Lab:
    """A damaged image, vol-repair over it, and a directory of journals of our own."""

    def __init__(self, build, directory):
        self.tool = str(Path(build).resolve() / 'plugin' / 'cli' / 'vol-repair')
        self.dir = Path(directory)
        self.image = self.dir / 'disk.qcow2'
        self.make(self.image)
        self.before = digest(self.image)
        self.loops = []
        self._lay_out(Path(build))

    def make(self, path, recipe=RECIPE):
        (self.dir / 'recipe').write_text(recipe)
        subprocess.run([sys.executable, ROOT / 'testdata' / 'mkqcow2.py', self.dir / 'recipe', path], check=True)

    def _lay_out(self, build):
        self.prefix, env, self.journals = state.private(build, self.dir / 'state')
        self.env, self.base = dict(os.environ, **env), state.place(build)[0]
        (self.dir / 'state').mkdir(mode=0o700)

    def run(self, mode, image=None, *more):
        tool = self.tool + '-test' * (CUT in more)  # the program that is installed cannot be told to die
        command = [*self.prefix, tool, '--accel=process', f'--mode={mode}', '-f', 'qcow2', *more, str(image or self.image)]
        return subprocess.run(command, capture_output=True, text=True, env=self.env, timeout=seconds(60))

    def report(self, mode, image=None, *more):
        self.run(mode, image, f'--report={self.dir}/report', *more)
        report = json.loads((self.dir / 'report').read_text())
        jsonschema.validate(report, SCHEMA)
        return report

    def names(self):
        return sorted(os.listdir(self.journals)) if self.journals.is_dir() else []

    def only(self):
        names = self.names()
        if len(names) != 1:
            raise AssertionError(f'not one journal: {names}')
        return self.journals / names[0]

    def cut(self, image=None):
        if self.run('all', image, CUT).returncode >= 0 and not self.prefix:
            raise AssertionError('the repair was not cut')
        if digest(image or self.image) == self.before:
            raise AssertionError('nothing was written')

    def attach(self, image, number=None):
        """A loop device over the image."""
        where = [f'/dev/loop{number}'] if number is not None else ['-f', '--show']
        made = subprocess.run(['losetup', *where, str(image)], capture_output=True, text=True)
        if made.returncode != 0:
            raise Skip(f'no loop device: {made.stderr.strip()[:80]}')
        self.loops.append(made.stdout.strip() or where[0])
        return self.loops[-1]

    def detach(self, device):
        subprocess.run(['losetup', '-d', device], check=True)
        self.loops.remove(device)

    def close(self):
        for device in list(self.loops):
            self.detach(device)


def expect(done, status, words):
    if done.returncode != status or not re.search(words, done.stderr + done.stdout):
        raise AssertionError(f'exit {done.returncode}, not {status} with "{words}": {done.stderr[-400:]}')


def expect_image(lab, before=True, image=None):
    if (digest(image or lab.image) == lab.before) != before:
        raise AssertionError('the image is not what it was' if before else 'the image was not changed')


# ---- names that change ----

def renumber(lab, device):
    """What a boot may do to /dev/dm-N and /dev/loopN: another disk has the number now. Returns the image's, and the other's."""
    lab.detach(device)
    other = lab.dir / 'other.qcow2'
    if not other.exists():
        lab.make(other, RECIPE.replace('pattern=1', 'pattern=2').replace('64M', '60M'))
    taken = lab.attach(other)
    return lab.attach(lab.image), taken


def device_of_another_number_is_undone(lab):
    device = lab.attach(lab.image)
    expect(lab.run('all', device), 0, 'bytes of metadata were changed')
    device, other = renumber(lab, device)
    expect(lab.run('undo', other), 1, 'No such file')
    expect(lab.run('all', other), 0, 'bytes of metadata were changed')
    if len(lab.names()) != 2 or any(name.endswith('.1') for name in lab.names()):
        raise AssertionError(f'one pushed the other aside: {lab.names()}')
    expect(lab.run('undo', device), 0, 'byte for byte')
    lab.detach(device)
    expect_image(lab)


def device_of_another_number_that_was_cut(lab):
    device = lab.attach(lab.image)
    lab.run('all', device, CUT)
    device, other = renumber(lab, device)
    expect_image(lab, False)
    if INTERRUPTED in lab.run('check', other).stderr:
        raise AssertionError('the other is said to be interrupted')
    expect(lab.run('check', device), 2, INTERRUPTED)
    expect(lab.run('all', device), 0, ROLLED_BACK)
    expect(lab.run('undo', device), 0, 'byte for byte')
    lab.detach(device)
    expect_image(lab)


def file_that_was_renamed(lab):
    moved = lab.dir / 'moved.qcow2'
    lab.run('all')
    lab.image.rename(moved)
    expect(lab.run('undo', moved), 0, 'byte for byte')
    expect_image(lab, image=moved)
    lab.run('all', moved, CUT)
    moved.rename(lab.image)
    expect(lab.run('check'), 2, INTERRUPTED)
    expect(lab.run('all'), 0, ROLLED_BACK)
    expect(lab.run('undo'), 0, 'byte for byte')
    expect_image(lab)


def file_in_the_place_of_another(lab):
    """Out of a backup, say: the path is the same, the inode is not, and the content decides."""
    lab.cut()
    copy = lab.dir / 'copy'
    shutil.copyfile(lab.image, copy)
    copy.rename(lab.image)
    expect(lab.run('check'), 2, INTERRUPTED)
    expect(lab.run('all'), 0, ROLLED_BACK)
    expect(lab.run('undo'), 0, 'byte for byte')
    expect_image(lab)


def copy_of_what_was_cut(lab):
    """Nothing is written to it unasked: whoever asks with the journal's name gets it rolled back, and the first one after it."""
    lab.cut()
    journal, copy = lab.only(), lab.dir / 'copy.qcow2'
    shutil.copyfile(lab.image, copy)
    half = digest(copy)
    expect(lab.run('check', copy), 2, INTERRUPTED)
    expect(lab.run('all', copy), 1, f'--mode=undo --undo=\'[^ ]*{re.escape(journal.name)}\' rolls it back')
    expect(lab.run('leaks', copy, f'--undo={journal_path(lab, journal)}'), 1, 'rolls it back')
    if digest(copy) != half or not journal.exists():
        raise AssertionError('something was written')
    expect(lab.run('undo', copy, f'--undo={journal_path(lab, journal)}'), 0, 'byte for byte')
    expect_image(lab, image=copy)
    expect(lab.run('all'), 0, ROLLED_BACK)
    expect(lab.run('undo'), 0, 'byte for byte')
    expect_image(lab)


def journal_path(lab, journal):
    """As the program sees it: within its own mounts."""
    return lab.base / journal.relative_to(lab.dir / 'state') if lab.prefix else journal


def repair_beside_one_of_the_same_size(lab):
    """Another image's repair has its journal open: that is no reason to refuse, and nothing was cut."""
    other = lab.dir / 'other.qcow2'
    lab.make(other)
    lab.cut(other)
    with open(lab.only(), 'r+b') as journal:
        fcntl.fcntl(journal, fcntl.F_OFD_SETLK, struct.pack('hhqqi4x', fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        report = lab.report('all')
    if report['verdict'] != 'repaired' or 'interrupted-repair' in report:
        raise AssertionError(f'{report["verdict"]}: {report.get("error")}')


def cut_beside_a_sound_one(lab, other):
    """other becomes what the image would be, were it sound but for one place; then the image's repair is cut."""
    lab.make(lab.image)
    old = lab.image.read_bytes()
    lab.run('all')
    new = lab.image.read_bytes()
    *_, last = (at for at in range(512, len(old), 512) if old[at:at + 512] != new[at:at + 512])
    expect(lab.run('undo'), 0, 'byte for byte')
    lab.cut()
    other.write_bytes(new[:last] + old[last:last + 512] + new[last + 512:])
    return new


def image_of_the_same_template(lab):
    """The cut journal fits it, and is not its own; nor is it where this image takes the other's place, out of a backup."""
    other = lab.dir / 'other.qcow2'
    for place in (other, lab.image):
        new = cut_beside_a_sound_one(lab, other)
        shutil.copyfile(other, lab.dir / 'backup')
        (lab.dir / 'backup').rename(place)
        if INTERRUPTED in lab.run('check', place).stderr:
            raise AssertionError('it is said to be interrupted')
        expect(lab.run('all', place), 0, 'bytes of metadata were changed')
        if place.read_bytes() != new:
            raise AssertionError('not what a repair of it leaves')


def moved_to_another_inode_after_a_repair(lab):
    lab.run('all')
    there = lab.dir / 'elsewhere.qcow2'
    shutil.copy2(lab.image, there)
    lab.image.unlink()
    expect(lab.run('undo', there), 1, 'fits what it holds: --undo=FILE takes it')
    expect(lab.run('undo', there, f'--undo={journal_path(lab, lab.only())}'), 0, 'byte for byte')
    expect_image(lab, image=there)


def volume_of_the_same_name(lab):
    """It was removed, and another made: the first one's journal is not the second's."""
    lab.run('all')
    lab.image.unlink()
    lab.make(lab.image, RECIPE.replace('pattern=1', 'pattern=3').replace('refcount[9] = 7', 'refcount[8] = 3'))
    fresh = digest(lab.image)
    expect(lab.run('undo'), 1, 'another image|earlier image of this name|not what the repair')
    if digest(lab.image) != fresh:
        raise AssertionError('the second was changed')


def a_name_of_ones_own_is_found_too(lab):
    """As callers of libvirt name journals: what is cut there is told by a check that does not know the name."""
    lab.run('check')
    lab.journals.mkdir(parents=True, mode=0o700, exist_ok=True)
    named = journal_path(lab, lab.journals / 'mine.before-upgrade')
    lab.run('all', None, CUT, f'--undo={named}')
    expect(lab.run('check'), 2, INTERRUPTED)
    expect(lab.run('all'), 0, ROLLED_BACK)
    expect(lab.run('undo'), 0, 'byte for byte')
    expect_image(lab)


# ---- journals of version 1, under their names ----

def make_old(lab):
    """The journal as earlier versions wrote and named it."""
    journal = lab.only()
    bytes_ = bytearray(journal.read_bytes())
    struct.pack_into('<I', bytes_, 8, 1)
    struct.pack_into('<I', bytes_, 12, 0)
    struct.pack_into('<I', bytes_, 12, crc32c(bytes_[:296]))
    path = str(lab.image.resolve())
    old = lab.journals / f'{lab.image.name}-{hashlib.sha256(path.encode()).hexdigest()[:16]}.undo'
    old.write_bytes(bytes_[:296] + bytes_[456:])
    old.chmod(0o600)
    journal.unlink()
    return old


def old_journal_is_undone(lab):
    lab.run('all')
    make_old(lab)
    expect(lab.run('undo'), 0, 'byte for byte')
    expect_image(lab)


def old_journal_of_a_repair_that_was_cut(lab):
    lab.cut()
    old = make_old(lab)
    expect(lab.run('check'), 2, INTERRUPTED)
    expect(lab.run('all'), 0, ROLLED_BACK)
    if old.exists():
        raise AssertionError('the old journal is still there')
    expect(lab.run('undo'), 0, 'byte for byte')
    expect_image(lab)


# ---- what the report says ----

def interrupted_repair_is_in_the_report(lab):
    """A check of what is half written says so, and nothing of what a repair would do; a rollback is a change."""
    lab.cut()
    journal = str(journal_path(lab, lab.only()))
    report = lab.report('check')
    told = report['interrupted-repair']
    if (told['state'], told['journal'], 'image' in told, 'would-do' in report) != ('pending', journal, False, False):
        raise AssertionError(f'{told}, {report.keys()}')
    done = lab.run('check')
    expect(done, 2, r'State:    a repair or an undo was interrupted while it wrote')
    expect(done, 2, r'State:    the image is marked corrupt: QEMU does not open it')
    expect(done, 2, r'Next:     --mode=undo rolls the interrupted repair back; --mode=all does that first')
    report = lab.report('all')
    if report['interrupted-repair']['state'] != 'rolled-back' or report['verdict'] != 'repaired':
        raise AssertionError(report)
    if 'interrupted-repair' in lab.report('check'):
        raise AssertionError('it is told of what is settled')


def rollback_alone_is_a_change(lab):
    """Mode leaks, with nothing to do but to roll back: what was put back is said, and nothing else was written."""
    lab.make(lab.image, 'image size=64M\nwrite 0 256K pattern=1\nzero 0 64K keep=yes\npoke l1[0].l2[0].offset += 512\n'
             'poke header.incompatible |= 2\n')
    lab.before = digest(lab.image)
    for _ in range(2):
        lab.cut()
        report = lab.report('leaks')
        expect_image(lab)
        if (report['image-changed'], report['repair']['bytes-changed'], 'undo' in report) != (True, 0, False):
            raise AssertionError(report)
    lab.cut()
    done = lab.run('leaks')
    expect(done, done.returncode, 'Done:     what the interrupted repair had overwritten was put back; nothing else was written')


def nothing_is_all_right_that_qemu_does_not_open(lab):
    """The corrupt bit alone: no error is counted, as by qemu-img, and the words say what it means."""
    lab.make(lab.image, 'image size=64M\nwrite 0 1M pattern=1\npoke header.incompatible |= 2\n')
    tried = subprocess.run(['qemu-io', '-f', 'qcow2', '-c', 'quit', lab.image], capture_output=True, text=True)
    if tried.returncode == 0:
        raise AssertionError('QEMU opens it')
    for mode in ('check', 'leaks'):
        report = lab.report(mode)
        if (report['verdict'], report['exit-code']) != ('blocked', 0):
            raise AssertionError(report)
        done = lab.run(mode)
        expect(done, 0, 'State:    the image is marked corrupt: QEMU does not open it for writing')
        expect(done, 0, 'Next:     --mode=all mends')
    if lab.report('all')['verdict'] != 'repaired' or lab.report('check')['verdict'] != 'clean':
        raise AssertionError('the bit stays')


def sound_and_interrupted(lab):
    """A repair that was cut where its half is sound: not clean all the same."""
    lab.make(lab.image, 'image size=64M\nwrite 0 1M pattern=1\npoke refcount[9] = 7\npoke header.incompatible |= 1\n')
    lab.before = digest(lab.image)
    lab.run('leaks', None, CUT)
    subprocess.run(['qemu-img', 'check', '-q', lab.image], check=True)
    report = lab.report('check')
    if (report['verdict'], report['exit-code'], report['interrupted-repair']['state']) != ('blocked', 0, 'pending'):
        raise AssertionError(report)
    expect(lab.run('undo'), 0, 'byte for byte')
    expect_image(lab)


# ---- what a journal must not do ----

def spent_journal_stays_spent(lab):
    """After a whole undo, some of it comes about again by other means, and the guest writes: none of that is taken back."""
    lab.run('all')
    fixed = lab.image.read_bytes()
    expect(lab.run('undo'), 0, 'byte for byte')
    expect(lab.run('undo'), 0, 'already')
    first = next(at for at in range(0, len(fixed), 512) if fixed[at:at + 512] != lab.image.read_bytes()[at:at + 512])
    with open(lab.image, 'r+b') as image:
        image.seek(first)
        image.write(fixed[first:first + 512])
    later = digest(lab.image)
    expect(lab.run('undo'), 1, 'was undone already')
    if digest(lab.image) != later or INTERRUPTED in lab.run('check').stderr:
        raise AssertionError('the journal lives')
    if 'interrupted' in lab.run('leaks').stderr:
        raise AssertionError('the journal was rolled back')


def directory_that_others_can_write_to(lab):
    lab.cut()
    half = digest(lab.image)
    lab.journals.chmod(0o770)
    for mode in ('all', 'undo'):
        expect(lab.run(mode), 1, 'others can write to it')
    lab.journals.chmod(0o700)
    lab.only().chmod(0o620)
    for mode in ('all', 'undo'):
        expect(lab.run(mode, None, f'--undo={journal_path(lab, lab.only())}'), 1, 'others can write to it')
    if digest(lab.image) != half:
        raise AssertionError('something was written')


def directories_above_that_others_can_write_to(lab):
    """Who can rename what is below them needs no right to the journals themselves."""
    lab.cut()
    half = digest(lab.image)
    above = lab.journals.parent
    for mode, owner in ((0o775, 0), (0o755, 65534)):
        above.chmod(mode)
        if os.geteuid() == 0:
            os.chown(above, owner, 0)
        for job in ('all', 'undo'):
            expect(lab.run(job), 1, 'one above it')
        lab.run('check')
    if digest(lab.image) != half:
        raise AssertionError('something was written')


# ---- bounds ----

def damage(lab, image=None, cluster=9):
    """A leak more: the refcount of a cluster in use is too high."""
    with open(image or lab.image, 'r+b') as file:
        file.seek(48)
        table = struct.unpack('>Q', file.read(8))[0]
        file.seek(table)
        block = struct.unpack('>Q', file.read(8))[0]
        file.seek(block + 2 * cluster)
        file.write(struct.pack('>H', 5))


def repaired(lab, image=None, *more):
    done = lab.run('all', image, *more)
    expect(done, 0, 'bytes of metadata were changed')
    return done


def journals_of_an_image_are_bounded(lab):
    for i in range(11):
        damage(lab, cluster=9 + i % 3)
        lab.before = digest(lab.image)
        repaired(lab)
    if len(lab.names()) != 8:
        raise AssertionError(f'{len(lab.names())} journals: {lab.names()}')
    expect(lab.run('undo'), 0, 'byte for byte')
    expect_image(lab)
    damage(lab)
    repaired(lab, None, '--undo-max-count=2')
    if len(lab.names()) != 2:
        raise AssertionError(lab.names())


def journals_of_names_of_ones_own_are_bounded(lab):
    """Repair and undo for ever, each under a name of its own, as a caller of libvirt may."""
    lab.run('check')
    repaired(lab)
    prefix = lab.only().name[:17]
    for i in range(12):
        named = f'--undo={journal_path(lab, lab.journals / f"{prefix}disk.fill{i}")}'
        damage(lab)
        repaired(lab, None, named)
        expect(lab.run('undo', None, named), 0, 'byte for byte')
    if len(lab.names()) > 9:
        raise AssertionError(lab.names())


def journals_elsewhere_are_bounded_by_name(lab):
    other = lab.dir / 'journal.undo.mine'
    other.write_text('mine')
    (lab.dir / 'journalist').write_text('hers')
    for i in range(5):
        damage(lab, cluster=9 + i % 3)
        repaired(lab, None, f'--undo={lab.dir}/journal', '--undo-max-count=3')
    names = sorted(path.name for path in lab.dir.iterdir() if path.name.startswith('journal'))
    if names != ['journal', 'journal.3', 'journal.4', 'journal.undo.mine', 'journalist']:
        raise AssertionError(names)


def others(lab, count):
    images = [lab.dir / f'image{i}.qcow2' for i in range(count)]
    for image in images:
        lab.make(image)
    return images


def needed_journals_are_not_given_up(lab):
    """The newest of each image stays: who has no room for his is told before anything is written."""
    images = others(lab, 3)
    for image in images[:2]:
        repaired(lab, image, '--undo-max-total=2')
    before = digest(images[2])
    expect(lab.run('all', images[2], '--undo-max-total=2'), 1, 'There is no room for another undo journal.*2 of 2 .--undo-max-total')
    size = sum((lab.journals / name).stat().st_size for name in lab.names())
    expect(lab.run('all', images[2], f'--undo-max-bytes={size}'), 1, 'There is no room for another undo journal')
    expect(lab.run('all', images[2], f'--undo-max-bytes={size + 700}'), 1,
           'would take more than undo-max-bytes leaves.*the image was not changed')
    if digest(images[2]) != before or len(lab.names()) != 2:
        raise AssertionError(f'something was written: {lab.names()}')
    expect(lab.run('undo', images[0]), 0, 'byte for byte')
    repaired(lab, images[2], '--undo-max-total=2')
    if len(lab.names()) != 2:
        raise AssertionError(f'the spent one is still there: {lab.names()}')
    expect(lab.run('undo', images[1]), 0, 'byte for byte')


def interrupted_journal_is_never_given_up(lab):
    lab.cut()
    journal = lab.only()
    os.utime(journal, (1, 1))
    images = others(lab, 2)
    expect(lab.run('all', images[0], '--undo-max-total=1'), 1, 'There is no room for another undo journal')
    for image in images:
        repaired(lab, image, '--undo-max-count=1', '--undo-max-age=1', '--undo-max-total=3')
    if not journal.exists():
        raise AssertionError('it is gone')
    expect(lab.run('all'), 0, ROLLED_BACK)


def old_journals_go(lab):
    images = others(lab, 2)
    repaired(lab, images[0])
    old = lab.only()
    os.utime(old, (1, 1))
    repaired(lab, images[1], '--undo-max-age=0')
    if not old.exists():
        raise AssertionError('it went')
    damage(lab, images[1])
    repaired(lab, images[1])
    if old.exists():
        raise AssertionError('it is still there')


TESTS = [value for value in list(globals().values()) if callable(value) and getattr(value, '__code__', None)
         and value.__code__.co_varnames[:1] == ('lab',) and value.__code__.co_argcount == 1 and value not in (make_old,)]
NEED_ROOT = {device_of_another_number_is_undone, device_of_another_number_that_was_cut}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--build', required=True)
    parser.add_argument('filter', nargs='?', default='')
    args = parser.parse_args()
    passed = failed = skipped = 0
    for test in TESTS:
        if args.filter not in test.__name__:
            continue
        if test in NEED_ROOT and os.geteuid() != 0:
            skipped += 1
            print(f'SKIP {test.__name__}: needs root')
            continue
        with tempfile.TemporaryDirectory(prefix='vol-repair-journals.', dir='/var/tmp') as directory:
            lab = Lab(args.build, directory)
            try:
                test(lab)
                passed += 1
                print(f'passed  {test.__name__}')
            except Skip as reason:
                skipped += 1
                print(f'SKIP {test.__name__}: {reason}')
            except (AssertionError, subprocess.SubprocessError, OSError) as problem:
                failed += 1
                print(f'FAIL {test.__name__}: {problem}')
            finally:
                lab.close()
    print(f'{passed} passed, {failed} failed, {skipped} skipped')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
