#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# Stands in for vol-repair where a test needs one that is slow, dies, or breaks the contract at a known moment.
"""
What it does is in the name it is started by (a symbolic link): helper-slow, helper-die, ... see SCRIPTS. It touches no
image.
"""
import argparse
import json
import os
import signal
import sys
import time


def parse():
    parser = argparse.ArgumentParser()
    for name in ('--mode', '-f', '--accel', '--memory', '--timeout', '--max-messages', '--undo', '--undo-max-count',
                 '--undo-max-bytes', '--report', 'filename'):
        parser.add_argument(name)
    parser.add_argument('--note', action='append')
    parser.add_argument('--stream', action='store_true')
    parser.add_argument('--version', action='version', version='scripted')
    parser.add_argument('--image-fd', type=int)
    parser.add_argument('--report-fd', type=int)
    return parser.parse_args()


def say(line):
    os.write(1, (json.dumps(line, separators=(',', ':')) + '\n').encode())


class Helper:
    def __init__(self, args):
        self.args = args
        self.aborted = False
        signal.signal(signal.SIGTERM, self.abort)
        # Python ignores SIGPIPE by itself; what else the daemon ignores or blocks must not reach us.
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL and not signal.pthread_sigmask(signal.SIG_BLOCK, [])
        expected = {0, 1, 2, 3} | ({4} if args.report_fd is not None else set())
        found = {int(fd) for fd in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{fd}')}
        assert found == expected, f'descriptors {found}'

    def abort(self, *_):
        self.aborted = True

    def start(self):
        say({'event': 'start', 'mode': self.args.mode, 'filename': self.args.filename, 'pid': os.getpid()})

    def progress(self, percent, phase='check'):
        say({'event': 'progress', 'phase': phase, 'pass': 'map', 'percent': percent})

    def report(self, verdict, code, **more):
        report = {'filename': self.args.filename, 'report-version': 1, 'mode': self.args.mode, 'verdict': verdict,
                  'exit-code': code, 'accel': 'process', 'image-changed': False, 'problems': [],
                  'argv': sys.argv[1:], **more}
        text = json.dumps(report, indent=4) + '\n'
        if self.args.report_fd is not None:
            os.ftruncate(self.args.report_fd, 0)
            os.pwrite(self.args.report_fd, text.encode(), 0)
        if self.args.report:
            with open(self.args.report, 'w') as file:
                file.write(text)
        try:
            say({'event': 'report', 'report': report})
        except BrokenPipeError:
            pass
        return code

    def walk(self, seconds):
        """False when told to stop."""
        for i in range(100):
            try:
                self.progress(i)
            except BrokenPipeError:
                self.aborted = True
            if self.aborted:
                return False
            time.sleep(seconds / 100)
        return True


def clean(h):
    h.start()
    h.progress(50)
    return h.report('clean', 0)


def slow(h):
    h.start()
    return h.report('clean', 0) if h.walk(30) else h.report('failed', 1, error='aborted')


def brief(h):
    h.start()
    return h.report('repaired', 0, **{'image-changed': True}) if h.walk(2) else h.report('failed', 1, error='aborted')


def die(h):
    h.start()
    h.progress(10)
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_commit(h):
    h.start()
    h.progress(60, 'commit')
    os.kill(os.getpid(), signal.SIGSEGV)


def finishing(h):
    """In its commit, which it ends whatever becomes of its reader."""
    h.start()
    h.progress(60, 'commit')
    time.sleep(8)
    return h.report('repaired', 0, **{'image-changed': True, 'undo': {'journal': '/nowhere/disk.qcow2.undo', 'bytes': 1}})


def mute(h):
    print('vol-repair: no such thing today', file=sys.stderr)
    return 1


def flood(h):
    """More progress than any pipe holds, then a long report."""
    h.start()
    for i in range(20000):
        h.progress(i // 200)
    return h.report('clean', 0, **{'padding': 'x' * 3000000})


def big(h):
    h.start()
    return h.report('clean', 0, padding='x' * 10_000_000)


def long(h):
    """Longer than a pipe, and all that libvirt takes for a client in advance."""
    h.start()
    return h.report('clean', 0, padding='x' * 2_000_000)


def huge(h):
    """A repair whose report is longer than any line that was meant to be."""
    h.start()
    return h.report('repaired', 0, **{'image-changed': True, 'padding': 'x' * 70_000_000})


def endless(h):
    """One line without an end; stops when told."""
    h.start()
    while not h.aborted:
        os.write(1, b'x' * 65536)
    return 1


SCRIPTS = {f.__name__.replace('_', '-'): f for f in (clean, slow, brief, die, die_in_commit, finishing, mute, flood, big, long, huge,
                                                   endless)}


def main():
    name = os.path.basename(sys.argv[0]).removeprefix('helper-')
    return SCRIPTS[name](Helper(parse()))


if __name__ == '__main__':
    sys.exit(main())
