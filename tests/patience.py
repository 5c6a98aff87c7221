# SPDX-License-Identifier: LGPL-2.1-or-later
"""patience.py: limits of time that scale with the machine: a limit is for what hangs, not for what is slow.

A test writes `timeout=seconds(60)`: what is far more than enough on an idle machine. suites.py measures at the start of each
suite how much slower this machine is now, and hands the factor down in VR_PATIENCE.
"""
import os
import subprocess
import time

NAME = 'VR_PATIENCE'
STARTS, IDLE = 20, 0.002  # processes started for a measurement; seconds for one of them on an idle machine
MOST = 40.0


def factor():
    try:
        return min(max(float(os.environ.get(NAME, '1')), 1.0), MOST)
    except ValueError:
        return 1.0


def seconds(idle):
    return idle * factor()


def measure():
    """How much slower than idle: starting processes is what tests do most, and what emulation slows down most."""
    begin = time.monotonic()
    for _ in range(STARTS):
        subprocess.run(['/bin/true'], check=True)
    return min(max((time.monotonic() - begin) / STARTS / IDLE, factor()), MOST)
