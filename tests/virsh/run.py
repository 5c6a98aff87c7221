#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# The front end named virsh is the real virsh for all that is not vol-repair: same output, errors, exit status.
"""run.py [--build DIR] [WORD...]: the cases whose name contains one of the words; all of them without."""
import argparse
import os
import pty
import random
import re
import select
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from patience import seconds  # noqa: E402

TEST = ['-c', 'test:///default']

# Command lines of virsh; both programs must do the same with each. Times are masked.
SAME = [
    TEST + ['list', '--all'],
    TEST + ['-q', 'list'],
    TEST + ['-t', 'list'],
    TEST + ['-t', '-q', 'list'],
    ['-qc', 'test:///default', 'list'],
    ['-qctest:///default', 'pool-list'],
    ['--conn=test:///default', 'vol-list', 'default-pool'],
    ['--connect', 'test:///default', '--quiet', 'pool-list'],
    TEST + ['--readonly', 'list'],
    TEST + ['-r', 'destroy', 'test'],
    TEST + ['--', 'list'],
    TEST + ['-k', '0', '-K', '3', 'list'],
    TEST + ['-k', 'soon', 'list'],
    TEST + ['-d', '0', 'list'],
    TEST + ['-e', '^]', 'list'],
    TEST + ['list --all; pool-list'],
    TEST + ['list --all\npool-list --details'],
    TEST + ["echo 'a;b' \"c  d\" e\\ f"],
    TEST + ['echo --shell "it\'s"'],
    TEST + ['echo a # b; echo c'],
    TEST + ['echo "a'],
    TEST + ['echo a\\'],
    TEST + ['list; no-such-command'],
    TEST + ['no-such-command; list'],
    TEST + ['dominfo nobody; list'],
    TEST + ['list; dominfo nobody'],
    TEST + ['echo', ';', 'list'],
    TEST + ['no-such-command'],
    TEST + ['no-such-command', 'x'],
    TEST + ['list', '--no-such-option'],
    TEST + ['dominfo', 'nobody'],
    TEST + ['vol-info'],
    TEST + ['vol-info', '--pool', 'default-pool', 'none'],
    TEST + ['list', '--help'],
    TEST + ['help', 'list'],
    TEST + ['help', 'pool'],
    TEST + ['help', 'no-such-command'],
    TEST + ['help', 'list', 'extra'],
    TEST + ['dumpxml', 'test'],
    TEST + ['uri'],
    TEST + ['quit'],
    TEST + ['list; quit; pool-list'],
    TEST + ['cd /; pwd'],
    TEST + ['connect test:///default; uri'],
    TEST + ['complete', '--', 'pool-l'],
    TEST + ['-q', 'complete', '--', 'vol-info', '--'],
    TEST + ['complete', '--', 'vol-info', '--pool', ''],
    TEST + [''],
    TEST + [';'],
    ['--version'],
    ['--version=long'],
    ['--version=short'],
    ['-v'],
    ['-V'],
    ['--help'],
    ['-h'],
    ['--no-such-option'],
    ['-x', 'list'],
    ['-c'],
    ['-c', 'no-such-driver:///', 'list'],
    ['-c', '', 'echo', 'x'],
    ['-l', '/dev/null', 'echo', 'x'],
]

INPUTS = ['list\nquit\n', 'no-such-command\nlist\n', 'vol-repair a b\n', '']


class Front:
    """The front end, the stock virsh, and an environment in which the first is found before the second."""

    def __init__(self, build, stock, tmp):
        self.ours = str(build / 'virsh-ext' / 'bin' / 'virsh')
        self.library = str(build / 'plugin' / 'client')
        self.stock = stock
        self.tmp = tmp
        self.env = {**os.environ, 'PATH': f'{Path(self.ours).parent}:{os.environ["PATH"]}', 'LC_ALL': 'C.UTF-8',
                    'HOME': str(tmp), 'XDG_CACHE_HOME': str(tmp), 'LIBVIRT_DEFAULT_URI': 'test:///default'}
        self.env.pop('VOL_REPAIR_VIRSH_SEEN', None)

    def run(self, program, args, text='', env=None):
        done = subprocess.run(['virsh', *args], executable=program, env=env or self.env, input=text, text=True,
                              timeout=seconds(60), stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        mask = re.compile(r'Time: [0-9.]+ ms')
        return done.returncode, mask.sub('Time', done.stdout), mask.sub('Time', done.stderr)

    def ours_is(self, args, status, out=None, err=None, env=None):
        """The front end's outcome; patterns must be found in what it prints, and None means nothing is printed."""
        got = self.run(self.ours, args, env=env)
        assert got[0] == status, got
        for pattern, text in ((out, got[1]), (err, got[2])):
            assert re.search(pattern, text) if pattern else not text.strip(), got
        return got[1]


# ---- the same as virsh ----

def same(args, text=''):
    def case(front):
        stock, ours = front.run(front.stock, args, text), front.run(front.ours, args, text)
        assert stock == ours, f'virsh: {stock}\nours: {ours}'
    return case


def talk(master, process, lines):
    """Types a line whenever there is a prompt; all that appears on the terminal."""
    data, seen = b'', 0
    while True:
        if select.select([master], [], [], 0.2)[0]:
            try:
                data += os.read(master, 65536)
            except OSError:
                return data
            if lines and data[seen:].rstrip().endswith(b'#'):
                seen = len(data)
                os.write(master, lines.pop(0))
        elif process.poll() is not None:
            return data


def interactive(front):
    """On a terminal, without a command: the real virsh reads the commands."""
    texts = []
    for program in (front.stock, front.ours):
        master, slave = pty.openpty()
        process = subprocess.Popen(['virsh', '-q', '-c', 'test:///default'], executable=program,
                                   env=dict(front.env, TERM='dumb'), stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        texts.append((talk(master, process, [b'echo one\n', b'quit\n']), process.wait(10)))
        os.close(master)
    assert texts[0][1] == texts[1][1] == 0 and b'one' in texts[1][0], texts
    words = [re.sub(rb'\s+', b' ', text) for text, _ in texts]
    assert words[0] == words[1], texts


# ---- the one command more ----

def help_lists_it(front):
    stock, ours = front.run(front.stock, TEST + ['help']), front.run(front.ours, TEST + ['help'])
    assert ours[1].startswith(stock[1]) and stock[0] == ours[0] == 0
    more = ours[1][len(stock[1]):]
    assert re.search(r"Volume Repair \(help keyword 'repair'\):\n +vol-repair ", more), more


def help_of_it(front):
    texts = [front.ours_is(args, 0, out='SYNOPSIS\n    vol-repair ') for args in
             (['help', 'vol-repair'], ['vol-repair', '--help'], ['vol-repair', 'a', '--help', 'b'],
              ['help vol-repair'], ['help', '--command', 'vol-repair'], ['help --command=vol-repair'])]
    assert len(set(texts)) == 1, texts
    for option in ('--mode', '--json', '--undo', '--max-messages', '--no-progress'):
        assert option in texts[0], option


def errors_are_like_virsh(front):
    front.ours_is(['vol-repair'], 1, err=r"^error: command 'vol-repair' requires <vol> option\n$")
    front.ours_is(['vol-repair', 'a', 'b', '--bogus'], 1,
                  err=r"^error: command 'vol-repair' doesn't support option --bogus\n$")
    front.ours_is(TEST + ['vol-repair', 'nowhere', 'b'], 1,
                  err=r"^error: failed to get pool 'nowhere'\nerror: .*not found")
    front.ours_is(TEST + ['vol-repair', '/no/such'], 1,
                  err=r"^error: failed to get vol '/no/such', specifying --pool might")
    front.ours_is(['-c', 'no-such-driver:///', 'vol-repair', 'a', 'b'], 1,
                  err='^error: failed to connect to the hypervisor\nerror: ')


def driver_that_cannot_repair(front):
    node = front.tmp / 'node.xml'
    node.write_text("<node><pool type='dir'><name>p</name><target><path>/p</path></target><volume><name>v</name>"
                    "<capacity>1</capacity><target><path>/p/v</path><format type='qcow2'/></target>"
                    "</volume></pool></node>")
    front.ours_is(['-c', f'test://{node}', 'vol-repair', 'p', 'v'], 1,
                  err='^error: Failed to check vol v\nerror: .*\n$')


def read_only(front):
    for args in (['-r', 'vol-repair', 'a', 'b'], ['--readonly', 'vol-repair a b']):
        front.ours_is(TEST + args, 1, err='^error: .*read-only connection')


def empty_line_and_time(front):
    assert front.ours_is(['help', 'repair'], 0, out='vol-repair').endswith('\n\n\n')
    assert not front.ours_is(['-q', 'help', 'repair'], 0, out='vol-repair').endswith('\n\n\n')
    front.ours_is(['-q', '-t', 'help', 'repair'], 0, out=r'\n\n\(Time\)\n\n$')


def mixed_string(front):
    out = front.ours_is(TEST + ['echo one; help vol-repair; echo two ; echo three'], 0, out='vol-repair')
    assert re.sub(r'(?s)  NAME.*\n\n\n', '-', out).split() == ['one', '-two', 'three'] or \
        out.index('one') < out.index('SYNOPSIS') < out.index('two') < out.index('three'), out


def strings_are_split_as_by_virsh(front):
    """Any text before a command of ours has the same effect as before one of virsh's own."""
    pieces = ['a', ' ', '  b', "'", '"', '\\', '\\\n', '#', ' #', '\t', "'c d'", '"e f"', '"g\'h"', '\\;', ';', '\n',
              ';echo ', '\necho ', '--', ' -- ', "''", '""', '=', '$x', '*']
    help_text = front.run(front.ours, TEST + ['help', 'vol-repair'])[1]
    chance = random.Random(20)
    for _ in range(60):
        text = 'echo ' + ''.join(chance.choice(pieces) for _ in range(chance.randint(1, 9)))
        expected = front.run(front.stock, TEST + [f'{text}\necho MARK'])
        if 'unknown command' in expected[2]:
            continue
        status, out, err = front.run(front.ours, TEST + [f'{text}\nhelp vol-repair'])
        got = status, out.replace(help_text, 'MARK\n').replace('help vol-repair', 'echo MARK'), err
        assert got == expected, f'{text!r}: virsh: {expected}\nours: {got}'


def last_status_counts(front):
    front.ours_is(TEST + ['vol-repair default-pool none; echo x'], 0, out='x', err='failed to get vol')
    front.ours_is(TEST + ['echo x; vol-repair default-pool none'], 1, out='x', err='failed to get vol')


def nothing_runs_unless_all_is_understood(front):
    front.ours_is(TEST + ['echo x; vol-repair a b --bogus'], 1, err="doesn't support option --bogus")
    front.ours_is(TEST + ['echo x; vol-repair a b; no-such'], 1, err="^error: unknown command: 'no-such'\n$")
    for word in ('connect test:///default', 'cd /', 'quit', 'exit'):
        front.ours_is(TEST + [f'{word}; vol-repair a b'], 1, err='cannot be in one command string')


def word_that_is_a_semicolon_is_data(front):
    front.ours_is(TEST + ['vol-repair', 'a', ';', 'b'], 1, err="unexpected data 'b'")


def name_is_quoted_as_in_virsh(front):
    front.ours_is(TEST + ["vol-repair default-pool 'a; b'"], 1, err="failed to get vol 'a; b'")


def completion(front):
    stock = front.run(front.stock, TEST + ['complete', '--', 'vol-r'])[1].split()
    ours = front.run(front.ours, TEST + ['complete', '--', 'vol-r'])[1].split()
    assert sorted(ours) == sorted(stock + ['vol-repair']), ours
    for words, expected in ((['--mode', ''], ['check', 'leaks', 'all', 'undo']), (['--mode=u'], ['--mode=undo']),
                            (['--m'], ['--mode', '--memory', '--max-messages']), ([''], ['default-pool']),
                            (['--mode', 'all', '--mo'], []), (['--accel', 'k'], ['kvm']), (['--', '--'], [])):
        got = front.run(front.ours, TEST + ['complete', '--', 'vol-repair', *words])
        assert got[0] == 0 and got[1].split() == expected, (words, got)


def control_characters_do_not_reach_the_terminal(front):
    _, _, err = front.run(front.ours, TEST + ['vol-repair', 'default-pool', 'a\x1b[2Jb'])
    assert '\x1b' not in err and "failed to get vol 'a?[2Jb'" in err, err


# ---- finding the real one ----

def copies_do_not_call_each_other(front):
    """Two copies of the front end first in PATH: each skips both."""
    places = [front.tmp / name for name in ('one', 'two')]
    for place in places:
        place.mkdir(exist_ok=True)
        shutil.copy(front.ours, place / 'virsh')
    env = dict(front.env, PATH=':'.join([*map(str, places), '/usr/bin:/bin']), LD_LIBRARY_PATH=front.library)
    front.ours_is(TEST + ['list'], 0, out='running', env=env)
    done = subprocess.run(['virsh', *TEST, 'list; help vol-repair'], env=env, text=True, timeout=seconds(60),
                          stdout=subprocess.PIPE, check=False)
    assert done.returncode == 0 and 'running' in done.stdout, done


def first_other_in_path_is_taken(front):
    place = front.tmp / 'other'
    place.mkdir(exist_ok=True)
    (place / 'virsh').write_text('#!/bin/sh\necho "other: $*"\nexit 7\n')
    (place / 'virsh').chmod(0o755)
    env = dict(front.env, PATH=f'{Path(front.ours).parent}:{place}:/usr/bin:/bin')
    front.ours_is(['-q', 'list', '--all'], 7, out='^other: -q list --all\n$', env=env)


def script_that_comes_back_to_us(front):
    """A script named virsh that starts the virsh in PATH, which is the front end again: that ends in the real virsh."""
    place = front.tmp / 'loop'
    place.mkdir(exist_ok=True)
    (place / 'virsh').write_text('#!/bin/sh\nvirsh -q "$@"\n')
    (place / 'virsh').chmod(0o755)
    env = dict(front.env, PATH=f'{Path(front.ours).parent}:{place}:/usr/bin:/bin')
    front.ours_is(TEST + ['list'], 0, out='running', env=env)


def a_diverted_virsh_is_taken(front):
    """In the place of virsh, as the package puts it: the real one stands beside it, whatever PATH says."""
    place, other = front.tmp / 'diverted', front.tmp / 'earlier'
    for directory in (place, other):
        directory.mkdir(exist_ok=True)
    shutil.copy(front.ours, place / 'virt-vol-repair')
    (place / 'virsh').symlink_to('virt-vol-repair')
    for path, name in ((place / 'virsh.libvirt', 'diverted'), (other / 'virsh', 'other')):
        path.write_text(f'#!/bin/sh\necho "{name}: $*"\nexit 7\n')
        path.chmod(0o755)
    env = dict(front.env, LD_LIBRARY_PATH=front.library)
    for path in ('', f'{place}', f'{other}:{place}', f'{Path(front.ours).parent}:{other}'):
        done = subprocess.run([place / 'virsh', 'list', '--all'], env=dict(env, PATH=path), text=True, timeout=60,
                              stdout=subprocess.PIPE, check=False)
        assert (done.returncode, done.stdout) == (7, 'diverted: list --all\n'), (path, done)
    # From a directory of its own, the front end takes the diverted one for the virsh it stands in front of.
    env['PATH'] = f'{Path(front.ours).parent}:{place}:{other}'
    front.ours_is(['list', '--all'], 7, out='^diverted: list --all\n$', env=env)


def nothing_from_here(front):
    """An empty or relative element of PATH, which shells take for the current directory."""
    (front.tmp / 'virsh').write_text('#!/bin/sh\necho from here\n')
    (front.tmp / 'virsh').chmod(0o755)
    for path in (':/usr/bin', '.:/usr/bin'):
        done = subprocess.run(['virsh', *TEST, 'list'], executable=front.ours, env=dict(front.env, PATH=path), text=True,
                              timeout=60, stdout=subprocess.PIPE, cwd=front.tmp, check=False)
        assert done.returncode == 0 and 'running' in done.stdout, (path, done)


def too_many_passes(front):
    env = dict(front.env, VOL_REPAIR_VIRSH_SEEN=',' * 16)
    front.ours_is(TEST + ['list'], 127, err='^error: .* again and again\n$', env=env)


def no_path_at_all(front):
    env = {k: v for k, v in front.env.items() if k != 'PATH'}
    front.ours_is(TEST + ['list'], 0, out='running', env=env)


CASES = [(' '.join(args[2:] if args[:2] == TEST else args) or '(none)', same(args)) for args in SAME]
CASES += [(f'input {text!r}', same(TEST, text)) for text in INPUTS]
CASES += [(f.__name__.replace('_', ' '), f) for f in (
    interactive, help_lists_it, help_of_it, errors_are_like_virsh, driver_that_cannot_repair, read_only,
    empty_line_and_time, mixed_string, strings_are_split_as_by_virsh, last_status_counts, nothing_runs_unless_all_is_understood,
    word_that_is_a_semicolon_is_data,
    name_is_quoted_as_in_virsh, completion, control_characters_do_not_reach_the_terminal, copies_do_not_call_each_other,
    first_other_in_path_is_taken, script_that_comes_back_to_us, a_diverted_virsh_is_taken,
    nothing_from_here, too_many_passes, no_path_at_all)]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--build', default=os.environ.get('BUILD_DIR', 'build'))
    parser.add_argument('words', nargs='*')
    args = parser.parse_args()
    cases = [c for c in CASES if not args.words or any(word in c[0] for word in args.words)]
    stock = '/usr/bin/virsh'
    if not os.access(stock, os.X_OK):
        print(f'SKIP all: there is no {stock} to compare with\n0 passed, 0 failed, {len(cases)} skipped')
        return 0
    failed = 0
    with tempfile.TemporaryDirectory(prefix='vol-repair-virsh-') as tmp:
        front = Front(Path(args.build).resolve(), stock, Path(tmp))
        if not os.access(front.ours, os.X_OK):
            sys.exit(f'{front.ours} is not built')
        for name, case in cases:
            try:
                case(front)
            except (AssertionError, subprocess.TimeoutExpired) as why:
                failed += 1
                print(f'FAIL {name}: {why}')
    print(f'{len(cases) - failed} passed, {failed} failed, 0 skipped')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
