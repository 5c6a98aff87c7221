# SPDX-License-Identifier: LGPL-2.1-or-later
"""terminal.py: how the demo looks: numbered steps, commands as typed, what they print, and what was checked."""
import os
import pty
import subprocess
import sys
import time


class Screen:
    """Writes to standard output. Colours only on a terminal."""

    def __init__(self, batch):
        self.colours = sys.stdout.isatty() and not batch
        self.number = 0
        self.begin = time.monotonic()

    def paint(self, code, text):
        return f'\033[{code}m{text}\033[0m' if self.colours else text

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
        os.close(master)
        status = child.wait()
        text = b''.join(parts).decode(errors='replace').replace('\r\n', '\n')
        self.show(text, limit)
        return status, text

    def show(self, text, limit):
        """What a terminal showed, each state of a progress bar as a line; long outputs shortened in the middle."""
        lines = [part.rstrip() for line in text.split('\n') for part in line.split('\r') if part.strip()]
        if len(lines) > limit:
            cut = len(lines) - limit + 1
            lines[2:2 + cut] = [f'... ({cut} more lines)']
        for line in lines:
            print('      ' + line, flush=True)
