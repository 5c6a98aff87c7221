#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Scaffolds a case: tests/cases/<slug>[-variant]/recipe with a sound image to be damaged, and says what comes next."""

import argparse
import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))

TEMPLATE = """\
# SPDX-License-Identifier: LGPL-2.1-or-later
# {sentence}.
image version=3 cluster_bits=16 size=64M
write 0 256K pattern=1
poke l1[0].l2[0] |= 0
raises {slug}
"""

NEXT = """\
{path}
1. Damage the image: edit the poke line (testdata/README.md has the language).
2. tests/run-case.py --vol-repair BUILD/plugin/cli/vol-repair --filter {name} --propose
3. Where vol-repair is meant to differ from qemu-img, add the proposed `differs` lines, each with its reason.
4. Add a variant at a limit: the first, the last, the exact end."""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slug", help="row of guest/abi/vr_problems.def, or clean, or mixed")
    parser.add_argument("variant", nargs="?", help="what sets this case apart from others of the row")
    parser.add_argument("--sentence", default="What is wrong with this image", help="one sentence, no full stop")
    args = parser.parse_args()
    name = args.slug + ("-" + args.variant if args.variant else "")
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        sys.exit(f"{name}: only a-z, 0-9 and single dashes")
    path = os.path.join(HERE, "cases", name, "recipe")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(TEMPLATE.format(sentence=args.sentence.rstrip("."), slug=args.slug))
    except FileExistsError:
        sys.exit(f"{path} exists")
    print(NEXT.format(path=path, name=name))


if __name__ == "__main__":
    main()
