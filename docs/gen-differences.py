#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""gen-differences.py: writes docs/differences.md from the recipes in tests/cases. With --check it only says whether that is up to date."""
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / 'docs' / 'differences.md'
sys.path.insert(0, str(ROOT / 'testdata'))
sys.dont_write_bytecode = True

from mkqcow2 import Recipe  # noqa: E402

OPENING = '''<!-- Made by docs/gen-differences.py from the recipes in tests/cases: do not edit. -->
# Where vol-repair is meant not to do as qemu-img does

Every image of `tests/cases/` is checked and repaired by vol-repair and by qemu-img 7.2: exit codes, every key of the JSON
document, the lines of a plain check, and what the guest reads afterwards must agree. These are the exceptions, by reason.
A line that is no longer true fails the tests.

*State* is the run that is compared: `check`, `leaks`, `all`, or a plain check after one of the repairs (`after-leaks`,
`after-all`). *What* is a key of qemu-img's JSON document, or: `exit` the exit code, `json` whether there is a document,
`error` the reason for not opening the image, `lines` the lines of a plain check, `guest` what the guest reads,
`qemu-cleans` an image that is clean after qemu-img's repair, and not after ours.

There are three kinds of reasons. **Data**: qemu-img frees, overwrites or invents what may be somebody's data, and here it
is kept. **Place**: both repairs are right, and put things elsewhere (`image-end-offset`). **Reach**: vol-repair needs no key
and mends what qemu-img gives up.
'''


class Reason:
    """All differences that one sentence explains."""

    def __init__(self):
        self.cases, self.states, self.keys = set(), set(), set()


def collect():
    reasons = {}
    for path in sorted((ROOT / 'tests' / 'cases').glob('*/recipe')):
        for line in path.read_text().splitlines():
            if not line.startswith('differs '):
                continue
            reader = Recipe.__new__(Recipe)
            reader.differs = []
            reader.do_differs(line[len('differs '):])
            found = reader.differs[0]
            reason = reasons.setdefault(found.reason, Reason())
            reason.cases.add(path.parent.name)
            reason.states.update(found.states)
            reason.keys.add(found.key)
    return reasons


def page():
    yield OPENING
    yield '| reason | states | what | cases |\n| --- | --- | --- | --- |'
    order = sorted(collect().items(), key=lambda item: (-len(item[1].cases), item[0]))
    for text, reason in order:
        cases = ', '.join(f'`{name}`' for name in sorted(reason.cases))
        yield f'| {text[0].upper() + text[1:]} | {", ".join(sorted(reason.states))} | {", ".join(sorted(reason.keys))} | {cases} |'


def main():
    text = '\n'.join(page()) + '\n'
    if sys.argv[1:] == ['--check']:
        if not PAGE.exists() or PAGE.read_text() != text:
            sys.exit(f'{PAGE.relative_to(ROOT)} is out of date: run docs/gen-differences.py')
    elif sys.argv[1:]:
        sys.exit('usage: docs/gen-differences.py [--check]')
    else:
        PAGE.write_text(text)


if __name__ == '__main__':
    main()
