#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""gen-problems.py: writes docs/problems.md from guest/abi/vr_problems.def. With --check it only says whether that is up to date."""
import ast
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / 'docs' / 'problems.md'
COLUMNS = ('symbol', 'code', 'severity', 'policy', 'flags', 'order', 'slug', 'spec', 'qemu', 'message')

PASSES = {1: 'Header', 2: 'Refcount table', 3: 'Active map', 4: 'Snapshots', 5: 'Bitmaps', 6: 'Refcounts', 7: 'COPIED flags'}
SEVERITIES = {'NOTE': 'note', 'LEAK': 'leak', 'CORRUPT': 'corruption', 'ERROR': 'check error', 'REFUSE': 'refusal',
              'OPEN': 'not an image that can be opened'}
FLAGS = {'VR_KEEPS_LEAKS': 'While it stands, leaks are reported and kept: they may be what it has lost.',
         'VR_UNSOUND': 'While it stands, no entry of a table is rewritten.',
         'VR_SUSPECT': 'While it stands, leaks are reported and kept where one of them holds something, or is shared.',
         'VR_BEHIND': 'The same; and where nothing else speaks for it, refcounts that are too low are not mended either.',
         'VR_LOSSY': 'Its repair gives up what some tool could still have read.',
         'VR_SHARES': 'No plan may leave more of it than there was.',
         'VR_STOPS': 'The mode ends with it, and nothing is written.',
         'VR_NOT_FORMAT': 'The file is not a qcow2 image at all.',
         'VR_READ_ONLY': 'While it stands, QEMU opens the image for reading alone.',
         'VR_COUNTS_ANEW': 'qemu-img counts all references once more after it, or not at all.',
         'VR_QEMU_EINVAL': 'qemu-img gives up the check with EINVAL.', 'VR_QEMU_EFBIG': 'qemu-img gives up the check with EFBIG.'}
POLICIES = {'REPORT': 'reported, never changed', 'LEAKS': 'mended by `leaks` and `all`', 'ALL': 'mended by `all`'}

# The preprocessor reads the table, so there is no second parser that could read it differently; a row becomes a list
# that Python can read (neighbouring strings join in both languages).
MACRO = '''#define VR_PROBLEM(sym, code, sev, pol, flags, order, slug, spec, qemu, msg) \\
[#sym, code, #sev, #pol, #flags, order, slug, spec, qemu, msg],
#include "vr_problems.def"
'''

OPENING = '''<!-- Made by docs/gen-problems.py from guest/abi/vr_problems.def: do not edit. -->
# What can be wrong with a qcow2 image

Each thing that vol-repair can find is one row of the problem table. The code and the id (the headings below, and `id` in
the report) never change. Every row has a test case of the same name in `tests/cases/`.

**Severity** says what it is: a *corruption* (metadata contradicts itself), a *leak* (space that nothing uses), a *check
error* (the check itself could not look), a *note* (worth telling), a *refusal* (recognised, and the image is left alone),
or a file that cannot be opened as a qcow2 image at all. **Mended** says which mode may change it: what has more than one
plausible mending is reported and left, byte for byte.

In the sentences `{host}` is an offset in the file, `{guest}` one in the virtual disk, `{got}` and `{want}` what was found
and what was expected.
'''


def load_rows():
    """The table as a list of dictionaries over COLUMNS, in its own order."""
    done = subprocess.run([os.environ.get('CC', 'cc'), '-E', '-P', '-x', 'c', '-I', str(ROOT / 'guest' / 'abi'), '-'],
                          input=MACRO, stdout=subprocess.PIPE, text=True, check=True)
    return [dict(zip(COLUMNS, row, strict=True)) for row in ast.literal_eval('[' + done.stdout + ']')]


def overview(rows):
    yield '| code | id | severity | mended |\n| --- | --- | --- | --- |'
    for row in rows:
        yield (f'| `{row["code"]:#06x}` | [{row["slug"]}](#{row["slug"]}) | {SEVERITIES[row["severity"]]} '
               f'| {"no" if row["policy"] == "REPORT" else POLICIES[row["policy"]].removeprefix("mended by ")} |')


def section(row):
    yield f'### {row["slug"]}\n'
    yield f'{row["message"]}.\n'
    yield f'- Code `{row["code"]:#06x}` (`VR_P_{row["symbol"]}`), {SEVERITIES[row["severity"]]}, {POLICIES[row["policy"]]}.'
    yield f'- In the specification: {row["spec"]}.'
    if row['qemu']:
        yield '- qemu-img says: ' + ' and '.join(f'`{line}`' for line in row['qemu'].splitlines())
    yield from (f'- {FLAGS[flag]}' for flag in row['flags'].split(' | ') if flag != '0')
    yield ''


def page(rows):
    yield OPENING
    yield from overview(rows)
    current = None
    for row in rows:
        if row['code'] >> 12 != current:
            current = row['code'] >> 12
            yield f'\n## Pass {current}: {PASSES[current]}\n'
        yield from section(row)


def main():
    text = '\n'.join(page(load_rows())).rstrip() + '\n'
    if sys.argv[1:] == ['--check']:
        if not PAGE.exists() or PAGE.read_text() != text:
            sys.exit(f'{PAGE.relative_to(ROOT)} is out of date: run docs/gen-problems.py')
    elif sys.argv[1:]:
        sys.exit('usage: docs/gen-problems.py [--check]')
    else:
        PAGE.write_text(text)


if __name__ == '__main__':
    main()
