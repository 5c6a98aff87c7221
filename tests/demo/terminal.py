# SPDX-License-Identifier: LGPL-2.1-or-later
"""terminal.py: how the demo looks: numbered steps, commands as typed, what they print, and what was checked."""
import os
import pty
import subprocess
import sys
import time


class Screen:
    """Writes to standard output. Colours and moving progress bars only on a terminal."""

    def __init__(self, batch):
        self.live = sys.stdout.isatty() and not batch
        self.number = 0
        self.begin = time.monotonic()

    def paint(self, code, text):
        return f'\033[{code}m{text}\033[0m' if self.live else text

    def step(self, title):
        self.number += 1
        print('\n' + self.paint('1;36', f'{self.number:>2}. {title}'), flush=True)

    def command(self, text):
        print('    ' + self.paint('1', '$ ' + text), flush=True)

    def say(self, text):
        print('    ' + text, flush=True)

    def verdict(self, good, sentence):
        print('    ' + (self.paint('1;32', '[ok]') if good else self.paint('1;31', '[FAILED]')) + ' ' + sentence, flush=True)

    def run_on_terminal(self, command, env, limit):
        """Runs a command on a pseudo-terminal, so that it behaves as under a person's eyes. (exit status, text)"""
        master, slave = pty.openpty()
        child = subprocess.Popen(command, env=env, stdin=slave, stdout=slave, stderr=slave, close_fds=True)
        os.close(slave)
        parts = []
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:  # EIO: nobody has the other end any more
                break
            if not data:
                break
            parts.append(data)
            self.echo_bar(data)
        os.close(master)
        status = child.wait()
        text = b''.join(parts).decode(errors='replace').replace('\r\n', '\n')
        self.show(text, limit)
        return status, text

    def echo_bar(self, data):
        """A moving bar is shown as it moves; lines wait for show()."""
        last = data.decode(errors='replace').rsplit('\n', 1)[-1].rstrip('\r')
        if self.live and '\r' in last:
            sys.stdout.write('\r        ' + last.rsplit('\r', 1)[-1])
            sys.stdout.flush()

    def show(self, text, limit):
        """The lines as a terminal would have left them, long outputs shortened in the middle."""
        if self.live:
            sys.stdout.write('\r\033[K')
        lines = [line.rstrip('\r').rsplit('\r', 1)[-1].rstrip() for line in text.split('\n')]
        lines = [line for line in lines if line]
        if len(lines) > limit:
            cut = len(lines) - limit + 1
            lines[2:2 + cut] = [f'... ({cut} more lines)']
        for line in lines:
            print('      ' + line, flush=True)
