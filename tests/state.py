# SPDX-License-Identifier: LGPL-2.1-or-later
"""state.py: a directory of undo journals for tests alone: what they cut on purpose is no business of the machine's own.

For root the place is fixed when the program is built, so a mount namespace puts the test's own directory there.
"""
import json
import os
import shlex
import subprocess
from pathlib import Path


def option(build, name):
    """The value of a meson option that is a place, e.g. localstatedir, as an absolute path."""
    options = json.loads((Path(build) / 'meson-info' / 'intro-buildoptions.json').read_text())
    values = {o['name']: o['value'] for o in options}
    return Path(values['prefix']) / values[name]


def place(build):
    """(an existing directory to mount over, the journals' directory): of the program that was built in build, as root."""
    journals = option(build, 'localstatedir') / 'lib' / 'vol-repair' / 'undo'
    base = journals.parent.parent
    while not base.is_dir():
        base = base.parent
    return base, journals


def private(build, directory):
    """(what a command has to begin with, its environment, where its journals are): where namespaces can be made, below directory."""
    if os.geteuid() != 0:
        return [], {'XDG_STATE_HOME': str(directory)}, Path(directory) / 'vol-repair' / 'undo'
    base, journals = place(build)
    if subprocess.run(['unshare', '-m', 'true'], stderr=subprocess.DEVNULL, check=False).returncode != 0:
        return [], {}, journals
    script = f'mount --bind {shlex.quote(str(directory))} {shlex.quote(str(base))} && exec "$0" "$@"'
    return ['unshare', '-m', 'sh', '-c', script], {}, Path(directory) / journals.relative_to(base)
