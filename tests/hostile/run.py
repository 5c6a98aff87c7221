#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs every attack of the hostile guest, damaged guest images, and the sandbox's deny tests."""
import argparse
import errno
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from patience import seconds  # noqa: E402

CRASH, HANG, PROTOCOL, PANIC, IMAGE, MEMORY = 1, 2, 3, 4, 5, 7
READ, JOURNAL, WRITE, OVERLAY, ABORTED = 8, 9, 10, 11, 12
CHECK, LEAKS, ALL = '1', '2', '3'
SIZE = (3 << 20) + 100  # of the image: its last sector is partial
DOORBELL = 'a port that is not the doorbell (exit 2)'
TRIPLE = 'triple fault (exit 8)'
BUFFER = "a buffer outside the guest's own memory"
LENGTH, OFFSET = 'a length outside the limits', 'an image offset outside the limits'
RECORDS, PROGRESS = 'records of a length outside the limits', 'a progress that makes no sense'
SIZE_LIMIT, NO_SIZE = 'a new size outside the limits', 'a new size in mode check or after the commit'
SUMMARY, AHEAD, FULL = ('a summary of another length', 'waits for more than is outstanding',
                        'more requests than the ring holds')

# Every attack: what it must end with (kind, text), and how it is run. The address of a crash is left out.
FAILS = {
    **dict.fromkeys('''ud2 divide_error page0_read tables_read directory_read gdt_read tss_write boot_write text_write
        rodata_write ring_execute data_execute heap_execute stack_execute heap_beyond stack_overflow gap_read
        between_ring_and_image mmio_read high_half non_canonical hlt cli port_other port_low port_high port_straddle
        syscall sysenter int80 int3 lgdt lidt wrmsr mov_cr3 far_call return_from_main'''.split(), (CRASH, TRIPLE)),
    **dict.fromkeys(['port_byte', 'port_word', 'port_in'], (CRASH, DOORBELL)),
    'endless_loop': (HANG, 'no request for too long', '-t1'),
    'ring_nothing_forever': (HANG, 'no request for too long', '-t1'),
    'read_forever': (ABORTED, '', '-t1', '-a3'),
    'op_zero': (PROTOCOL, 'an unknown request'),
    'op_unknown': (PROTOCOL, 'an unknown request'),
    'reserved_set': (PROTOCOL, 'a reserved field is not 0'),
    **dict.fromkeys(['read_zero', 'read_long', 'read_huge', 'next_data_len'], (PROTOCOL, LENGTH)),
    **dict.fromkeys(['offset_over', 'offset_end_over', 'offset_wrap', 'next_data_offset'], (PROTOCOL, OFFSET)),
    **dict.fromkeys('''buf_null buf_tables buf_boot buf_ring buf_text buf_rodata buf_gap buf_stack_below
        buf_stack_into_heap buf_data_end buf_heap_end buf_heap_after buf_wrap buf_stack_wrap records_buf summary_buf
        panic_buf next_data_buf'''.split(), (PROTOCOL, BUFFER)),
    'write_check': (PROTOCOL, 'a write in mode check'),
    'write_buf_text': (PROTOCOL, BUFFER, '-m', ALL),
    'write_behind': (PROTOCOL, 'a write behind the end of the image', '-m', ALL),
    'write_behind_far': (PROTOCOL, 'a write behind the end of the image', '-m', LEAKS),
    'write_zero': (PROTOCOL, LENGTH, '-m', ALL),
    'write_epoch': (PROTOCOL, 'an unknown epoch', '-m', LEAKS),
    'write_earlier_epoch': (PROTOCOL, 'a write into a sector that a later epoch has written', '-m', ALL),
    'write_after_commit': (PROTOCOL, 'a write after the commit', '-m', ALL),
    'size_check': (PROTOCOL, NO_SIZE),
    'size_shrink': (PROTOCOL, SIZE_LIMIT, '-m', ALL),
    'size_large': (PROTOCOL, SIZE_LIMIT, '-m', ALL),
    'size_wrap': (PROTOCOL, SIZE_LIMIT, '-m', ALL),
    'size_device': (PROTOCOL, 'a new size of a block device', '-m', ALL, '-d'),
    'size_after_commit': (PROTOCOL, NO_SIZE, '-m', ALL),
    'commit_check': (PROTOCOL, 'a commit in mode check'),
    'commit_twice': (PROTOCOL, 'a second commit', '-m', ALL),
    'records_flood': (PROTOCOL, 'a flood of records'),
    **dict.fromkeys(['records_none', 'records_uneven', 'records_many', 'records_huge'], (PROTOCOL, RECORDS)),
    **dict.fromkeys(['progress_walk', 'progress_pass', 'progress_pass_zero', 'progress_done'], (PROTOCOL, PROGRESS)),
    'summary_short': (PROTOCOL, SUMMARY),
    'summary_long': (PROTOCOL, SUMMARY),
    **dict.fromkeys(['wait_idle', 'wait_more', 'wait_far'], (PROTOCOL, AHEAD)),
    'tail_far': (PROTOCOL, FULL),
    'tail_back': (PROTOCOL, FULL),
    'panic_words': (PANIC, 'last words'),
    'panic_controls': (PANIC, '?[31mred??? end'),
    'panic_most': (PANIC, 'w' * 239),
    'panic_long': (PROTOCOL, 'last words that do not end'),
}

# What finishes: whether it has committed, and how it is run.
LEGAL = {
    **dict.fromkeys('''heap_exact_end stack_exact data_exact offset_last read_behind_end change_after_post full_ring
        indices_wrong_in_ring record_unknown port_string wait_opposite'''.split(), (0,)),
    'claims_commit': (0, '-m', ALL),
    'size_grow': (1, '-m', ALL, '-u'),
    'epochs': (1, '-m', ALL, '-u'),
    'commit_nothing': (1, '-m', LEAKS, '-u'),
}
FOREIGN, READY = 2, 5  # enum vmm_undo_state
# They change no sector below the end: a length alone is no proof that a journal is this image's, so nothing is undone.
NO_SECTOR = ('size_grow', 'commit_nothing')


class Failure(Exception):
    """What was expected and did not come."""


class Runner:
    """Counts, and prints a line for each test."""

    def __init__(self, build, only, but):
        self.hostile_run = os.path.join(build, 'tests/hostile/hostile-run')
        self.sandbox_deny = os.path.join(build, 'tests/hostile/sandbox-deny')
        self.process_attacks = os.path.join(build, 'tests/hostile/process-attacks')
        self.guest = os.path.join(build, 'tests/hostile/hostile-guest.elf')
        self.real_guest = os.path.join(build, 'guest/vol-repair-guest.elf')
        self.only, self.but = only, but
        self.passed = self.failed = self.skipped = self.kvm = 0
        self.directory = tempfile.TemporaryDirectory(prefix='vr-hostile-')
        self.image = os.path.join(self.directory.name, 'image')
        self.bytes = random.Random(1).randbytes(SIZE)
        self.no_kvm = '' if os.access('/dev/kvm', os.R_OK | os.W_OK) else 'no /dev/kvm here that can be opened'

    def wanted(self, name):
        return (not self.only or any(word in name for word in self.only)) and not any(word in name for word in self.but)

    def test(self, name, function, *arguments):
        if not self.wanted(name):
            return
        if self.no_kvm:
            self.skipped += 1
            print(f'SKIP {name}: {self.no_kvm}')
            return
        self.kvm += 1
        try:
            function(*arguments)
        except (Failure, subprocess.TimeoutExpired) as error:
            self.failed += 1
            print(f'FAILED {name}: {error}', flush=True)
            return
        self.passed += 1
        print(f'ok {name}', flush=True)

    def start(self, case, options, guest=None):
        """Lines that hostile-run prints for a fresh image."""
        with open(self.image, 'wb') as file:
            file.write(self.bytes)
        done = subprocess.run([self.hostile_run, *options, guest or self.guest, case, self.image], timeout=seconds(100),
                              stdin=subprocess.DEVNULL, capture_output=True, check=False)
        need(done.returncode == 0, f'hostile-run: {done.returncode} {done.stderr.decode()}')
        # Whatever the guest said arrives as printable ASCII.
        need(re.fullmatch(rb'[ -~\n]*', done.stdout), f'not printable: {done.stdout}')
        return done.stdout.decode().splitlines()

    def image_is(self, expected, what='the image changed'):
        with open(self.image, 'rb') as file:
            need(file.read() == expected, what)


def need(condition, words):
    if not condition:
        raise Failure(words)


def one(lines, word):
    """The only line that begins with that word."""
    found = [line for line in lines if line.split(' ')[0] == word]
    need(len(found) == 1, f'{len(found)} lines of {word} in {lines}')
    return found[0]


def gone(lines):
    pid = int(one(lines, 'pid').split()[1])
    need(not os.path.exists(f'/proc/{pid}'), f'process {pid} is still there')


def ended(lines, status):
    need(one(lines, 'exit') == f'exit {status}', f'ended otherwise: {lines}')
    need(not any(line.startswith('bad frame') for line in lines), f'a bad frame: {lines}')
    stats = [i for i, line in enumerate(lines) if line.startswith('stats ')]
    word = [i for i, line in enumerate(lines) if line.startswith(('fail ', 'summary '))]
    need(len(stats) == len(word) == 1 and word[0] < stats[0], f'not one last word and then the stats: {lines}')
    gone(lines)


def failure(run, case, kind, text, *options):
    lines = run.start(case, options)
    ended(lines, 1)
    _, found_kind, _, found = (one(lines, 'fail') + ' ').split(' ', 3)
    found = found[:-1]
    whole = re.sub(r' at (0|0x[0-9a-f]+)$', '', found) if kind == CRASH else found
    need(int(found_kind) == kind and whole == text, f'kind {found_kind}, "{found}" instead of kind {kind}, "{text}"')
    run.image_is(run.bytes)


def legal(run, case, committed, *options):
    lines = run.start(case, options)
    ended(lines, 0)
    need(one(lines, 'summary') == f'summary 0 committed={committed} mark=0x4b4f', f'another summary: {lines}')
    states = [line.split()[1:3] for line in lines if line.startswith('commit ')]
    need(states == ([['0', '0'], ['1', '0']] if committed else []), f'another commit: {lines}')
    if case == 'record_unknown':
        need('records 0xdead' in lines and 'records in all 1' in lines, f'other records: {lines}')
    if committed:
        undone = FOREIGN if case in NO_SECTOR else READY
        need(one(lines, 'undo') == f'undo 0 state {undone} finished 1', f'undone otherwise: {lines}')
    if case != 'size_grow':
        run.image_is(run.bytes)


def committed_bytes(run, case, expected):
    """The same without the undo: the bytes on the disk."""
    ended(run.start(case, ['-m', ALL]), 0)
    run.image_is(expected, 'other bytes than the guest has written')


def epochs_bytes(data):
    return b'\x33' * 512 + data[512:4096] + b'\x22' * 512 + data[4608:]


def hang_up(run):
    """Nobody reads the frames: the child has to notice and go, whatever its guest does."""
    lines = run.start('records_flood', ['-h'])
    need(one(lines, 'exit') == 'exit 1', f'ended otherwise: {lines}')
    gone(lines)
    run.image_is(run.bytes)


def broken(run, what, kind, error, text, states):
    """A descriptor that does not do what it has to: said so, and the image stays as it was."""
    lines = run.start('epochs', ['-m', ALL, '-b', what])
    ended(lines, 1)
    need(one(lines, 'fail') == f'fail {kind} {error} {text}', f'otherwise: {lines}')
    need([line.split()[1] for line in lines if line.startswith('commit ')] == states, f'another commit: {lines}')
    run.image_is(run.bytes)


def small_memory(run):
    for memory in ('0', '4096', str((16 << 20) - 1)):
        lines = run.start('heap_exact_end', ['-M', memory])
        ended(lines, 1)
        need(one(lines, 'fail') == f'fail {MEMORY} 0 at least 16 MiB are needed', f'otherwise: {lines}')
    ended(run.start('heap_exact_end', ['-M', str(16 << 20)]), 0)


def huge_memory(run):
    for memory in ('0x2000000000', '0x7fffffffffffffff', '0xffffffffffffffff'):
        lines = run.start('heap_exact_end', ['-M', memory])
        ended(lines, 1)
        need(one(lines, 'fail').startswith(f'fail {MEMORY} '), f'otherwise: {lines}')


# ---- guest images ------------------------------------------------------------------------------------------

EHDR, PHDR = struct.Struct('<16sHHIQQQIHHHHHH'), struct.Struct('<IIQQQQQQ')
TYPE, FLAGS, FILE_AT, ADDRESS, _, FILE_LEN, MEMORY_LEN, _ = range(8)
TEXT, RODATA, DATA, NOTE = range(4)


def edit(elf, index, **fields):
    """The ELF image with other values in one program header."""
    offset = EHDR.unpack_from(elf)[5] + index * PHDR.size
    values = list(PHDR.unpack_from(elf, offset))
    for name, value in fields.items():
        values[globals()[name.upper()]] = value
    return elf[:offset] + PHDR.pack(*values) + elf[offset + PHDR.size:]


def poke(elf, at, data):
    return elf[:at] + data + elf[at + len(data):]


def damaged_images(elf):
    """(name, image, what is said of it)."""
    note = PHDR.unpack_from(elf, EHDR.unpack_from(elf)[5] + NOTE * PHDR.size)[FILE_AT]
    rodata = PHDR.unpack_from(elf, EHDR.unpack_from(elf)[5] + RODATA * PHDR.size)
    yield 'empty', b'', 'it is too short'
    yield 'cut in its header', elf[:63], 'it is too short'
    yield 'cut in its program headers', elf[:100], 'its program headers are damaged'
    yield 'cut in its text', elf[:5000], 'a segment lies outside the file'
    yield 'no ELF', b'\x7fELG' + elf[4:], 'not an x86_64 executable'
    yield 'of another machine', poke(elf, 18, b'\xb7'), 'not an x86_64 executable'
    yield '32 bits', poke(elf, 4, b'\x01'), 'not an x86_64 executable'
    yield 'program headers far away', poke(elf, 32, b'\xff' * 8), 'its program headers are damaged'
    yield 'no program headers', poke(elf, 56, b'\0\0'), 'its program headers are damaged'
    yield 'writable text', edit(elf, TEXT, flags=7), 'a segment is writable and executable'
    yield 'executable data', edit(elf, DATA, flags=7), 'a segment is writable and executable'
    yield 'overlap', edit(elf, DATA, address=rodata[ADDRESS]), 'its segments overlap'
    yield 'low', edit(elf, DATA, address=0x100000), 'a segment lies outside its place'
    yield 'high', edit(elf, DATA, address=0x5ff000, memory_len=0x2000), 'a segment lies outside its place'
    yield 'wrap-around', edit(elf, DATA, memory_len=(1 << 64) - 0x1000), 'a segment lies outside its place'
    yield 'uneven', edit(elf, DATA, address=0x300010), 'a segment lies outside its place'
    yield 'behind the file', edit(elf, DATA, file_at=(1 << 64) - 4096), 'a segment lies outside the file'
    yield 'more file than memory', edit(elf, DATA, file_len=0x100000), 'a segment lies outside the file'
    yield 'entry in data', poke(elf, 24, struct.pack('<Q', rodata[ADDRESS])), 'its entry is not code'
    yield 'entry nowhere', poke(elf, 24, b'\0' * 8), 'its entry is not code'
    yield 'text is not executable', edit(elf, TEXT, flags=4), 'its entry is not code'
    yield 'another ABI', poke(elf, note + 16, bytes([elf[note + 16] + 1])), 'it speaks another ABI version'
    yield "another's note", poke(elf, note + 12, b'XX'), 'its ABI note is damaged'
    yield 'note behind the file', edit(elf, NOTE, file_at=len(elf)), 'its ABI note is damaged'
    yield 'no note', edit(elf, NOTE, type=0), 'it has no ABI note'


def damaged_image(run, image, text):
    path = os.path.join(run.directory.name, 'guest.elf')
    with open(path, 'wb') as file:
        file.write(image)
    lines = run.start('heap_exact_end', [], path)
    ended(lines, 1)
    need(one(lines, 'fail') == f'fail {IMAGE} 0 {text}', f'otherwise: {lines}')
    run.image_is(run.bytes)


# ---- what a VMM child has ----------------------------------------------------------------------------------

def status_of(pid):
    with open(f'/proc/{pid}/status', encoding='ascii') as file:
        return dict(line.rstrip('\n').split(':\t', 1) for line in file if ':\t' in line)


def possessions(run, mode):
    """Descriptors, rights and filter of a child whose guest is running."""
    with open(run.image, 'wb') as file:
        file.write(run.bytes)
    command = [run.hostile_run, '-t', str(round(3 + seconds(1))), '-m', mode, run.guest, 'endless_loop', run.image]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        pid = int(process.stdout.readline().split()[1])
        deadline = time.monotonic() + 2 + seconds(1)
        while status_of(pid)['Seccomp'] != '2':
            need(time.monotonic() < deadline, 'no filter after 3 seconds, or more on a slow machine')
            time.sleep(0.02)
        need_possessions(run, pid, mode)
    finally:
        rest = process.communicate()[0]
    need(f'fail {HANG} ' in rest and 'exit 1' in rest, f'ended otherwise: {rest}')


def need_memory(pid):
    """No environment, nothing that can be written and executed, and of files only the program and its libraries."""
    with open(f'/proc/{pid}/environ', 'rb') as file:
        need(not file.read().strip(b'\0'), 'it has an environment')
    with open(f'/proc/{pid}/maps', encoding='utf-8') as file:
        maps = [line.split(maxsplit=5) for line in file]
    need(not [m for m in maps if 'w' in m[1] and 'x' in m[1]], 'memory can be written and executed')
    files = {m[5].strip() for m in maps if len(m) == 6}
    odd = [f for f in files if not re.search(r'^\[|hostile-run$|\.so[.0-9]*$|^anon_inode:kvm-vcpu|^/dev/zero', f)]
    need(not odd, f'it maps {odd}')


def need_possessions(run, pid, mode):
    status = status_of(pid)
    for name in ('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'):
        # Who is not root has no say on the bounding set.
        need(int(status[name], 16) == 0 or (name == 'CapBnd' and os.geteuid() != 0), f'{name} {status[name]}')
    need('0' not in status['Uid'].split() + status['Gid'].split() or os.geteuid() != 0, f'it runs as {status["Uid"]}')
    need(status['Groups'].strip() == '' or os.geteuid() != 0, f'it is in the groups {status["Groups"]}')
    need_memory(pid)
    need(status['NoNewPrivs'] == '1' and status['Seccomp'] == '2', f'{status}')
    with open(f'/proc/{pid}/limits', encoding='ascii') as file:
        need(re.search(r'^Max core file size +0 +0 ', file.read(), re.M), 'core dumps are allowed')
    descriptors = f'/proc/{pid}/fd'
    found = sorted(re.sub(r'\[\d+\]| \(deleted\)', '', os.readlink(os.path.join(descriptors, fd)))
                   for fd in os.listdir(descriptors))
    expected = [run.image, '/dev/kvm', 'anon_inode:kvm-vm', 'anon_inode:kvm-vcpu:0', 'pipe:', 'pipe:']
    if mode != CHECK:
        expected += ['/memfd:overlay', '/memfd:journal']
    need(found == sorted(expected), f'it holds {found}')
    for fd in os.listdir(descriptors):
        if os.readlink(os.path.join(descriptors, fd)) == run.image:
            with open(f'/proc/{pid}/fdinfo/{fd}', encoding='ascii') as file:
                flags = int(re.search(r'^flags:\s+(\d+)', file.read(), re.M)[1], 8)
            need(flags & 3 == (os.O_RDONLY if mode == CHECK else os.O_RDWR), f'the image is open with {flags:o}')


# ---- programs that print lines of their own, which are counted here; they need no KVM ---------------------

def program(run, path):
    """True where all of it was skipped."""
    try:
        done = subprocess.run([path], timeout=seconds(250), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except subprocess.TimeoutExpired:
        run.failed += 1
        print(f'FAILED {os.path.basename(path)}: goes on after 250 s')
        return False
    lines = done.stdout.splitlines()
    verdicts = [line for line in lines if line.startswith(('ok ', 'FAILED ', 'SKIP '))]
    good = sum(line.startswith('ok ') for line in verdicts)
    bad = sum(line.startswith('FAILED ') for line in verdicts)
    run.passed += good
    run.failed += bad
    run.skipped += len(verdicts) - good - bad
    print('\n'.join(verdicts), flush=True)
    skipped = done.returncode == 77 and len(verdicts) == 1 and not good + bad
    if not skipped and (lines[-1:] != [f'{good} passed, {bad} failed'] or done.returncode != (bad != 0)):
        run.failed += 1
        print(f'FAILED {os.path.basename(path)}: ended with {done.returncode}: {done.stderr}')
    return skipped


def all_attacks(run):
    names = subprocess.run([run.hostile_run, '--list'], capture_output=True, text=True, check=True).stdout.split()
    if set(names) != set(FAILS) | set(LEGAL) or len(names) != len(FAILS) + len(LEGAL):
        sys.exit(f'run.py and cases.h differ: {sorted(set(names) ^ (set(FAILS) | set(LEGAL)))}')
    for name in names:
        if name in FAILS:
            run.test(name, failure, run, name, *FAILS[name])
        else:
            run.test(name, legal, run, name, *LEGAL[name])
    run.test('epochs: bytes on the disk', committed_bytes, run, 'epochs', epochs_bytes(run.bytes))
    run.test('size_grow: bytes on the disk', committed_bytes, run, 'size_grow',
             run.bytes + b'\0' * (65536 - 512) + b'\x77' * 512)
    run.test('frames that nobody reads', hang_up, run)
    run.test('image cannot be written', broken, run, 'image', WRITE, errno.EBADF, '512 bytes at offset 0', ['0', '2'])
    run.test('journal cannot be written', broken, run, 'journal', JOURNAL, errno.EBADF, '', [])
    run.test('overlay cannot be written', broken, run, 'overlay', OVERLAY, errno.EBADF, '', [])
    run.test('image changes its size', broken, run, 'size', READ, errno.ESTALE,
             'the image changed its size during the run', [])
    run.test('too small a memory budget', small_memory, run)
    run.test('too large a memory budget', huge_memory, run)
    with open(run.guest, 'rb') as file:
        elf = file.read()
    for name, image, text in damaged_images(elf):
        run.test(f'guest image: {name}', damaged_image, run, image, text)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--build', required=True, help='build directory')
    parser.add_argument('--but', action='append', default=[], metavar='WORD', help='no test whose name contains this')
    parser.add_argument('--kvm-only', action='store_true', help='nothing that needs no KVM')
    parser.add_argument('names', nargs='*', help='only tests whose name contains one of these')
    options = parser.parse_args()
    run = Runner(options.build, options.names, options.but)
    with run.directory:
        all_attacks(run)
        sanitized = False
        if run.wanted('sandbox') and not options.kvm_only:
            sanitized = program(run, run.sandbox_deny)
        if run.wanted('process') and not options.kvm_only:
            program(run, run.process_attacks)
        for mode in (CHECK, ALL):
            name = f'sandbox: what a VMM child has in mode {mode}'
            if sanitized:
                run.skipped += 1
                print(f'SKIP {name}: built with a sanitizer, where filters are left out')
            else:
                run.test(name, possessions, run, mode)
    print(f'{run.kvm} ran under KVM')
    print(f'{run.passed} passed, {run.failed} failed, {run.skipped} skipped')
    return run.failed != 0


if __name__ == '__main__':
    sys.exit(main())
