#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs the cases of tests/cases with one vol-repair on one accelerator; qemu-img 7.2 is the judge."""

import argparse
import concurrent.futures
import fnmatch
import json
import os
import shutil
import sys
import tempfile
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
TESTDATA = os.path.join(os.path.dirname(HERE), "testdata")
sys.path[:0] = [HERE, TESTDATA]
sys.dont_write_bytecode = True

import case_oracle  # noqa: E402
from case_steps import Case, Tool  # noqa: E402
from mkqcow2 import Recipe  # noqa: E402
from qcow2_image import RecipeError  # noqa: E402

SKIPPED = 77  # meson: the whole test was skipped


def run_one(name, args, version):
    """Runs one case in a directory of its own: (name, failures, records, proposals, whether KVM ran it)."""
    scratch = tempfile.mkdtemp(prefix=name + ".", dir=args.work)
    try:
        with open(os.path.join(args.cases, name, "recipe"), encoding="utf-8") as file:
            case = Case(name, file.read(), Tool(args.vol_repair, args.accel, *args.option), scratch, args.brief)
        case.go(args.cache, version)
        return name, case.failures, case.records, case.proposals, "kvm" in case.ran
    except RecipeError as error:
        return name, [f"{name} [recipe]: {error}"], {}, [], False
    except Exception:  # one case must not end the others
        return name, [f"{name} [runner]: {traceback.format_exc()}"], {}, [], False
    finally:
        if not args.keep:
            shutil.rmtree(scratch, ignore_errors=True)


def why_not(accel):
    """Why the accelerator cannot be used here, or ''."""
    if accel != "kvm":
        return ""
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
    except OSError as error:
        return f"/dev/kvm cannot be opened ({error.strerror})"
    return ""


def one_per_row(names, cases):
    """Of these cases, for each row of the problem table one that raises it: its namesake, else the first."""
    raised = {}
    for name in names:
        with open(os.path.join(cases, name, "recipe"), encoding="utf-8") as file:
            for slug in set().union(*Recipe(file.read()).raises.values()):
                raised.setdefault(slug, []).append(name)
    chosen = set()
    for slug, raising in sorted(raised.items(), key=lambda item: len(item[1])):
        if not chosen & set(raising):
            chosen.add(slug if slug in raising else raising[0])
    return sorted(chosen)


def propose(results):
    """Prints the `differs` lines that would make the recipes agree; the reasons are for a person to write."""
    for name, _, _, proposals, _ in results:
        for state, key, ours, qemu in proposals:
            print(f"{name}: differs {state} {key} ours={ours} qemu={qemu} reason=")


def options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vol-repair", required=True, metavar="PATH", help="the program under test")
    parser.add_argument("--accel", choices=("kvm", "process"), default="process")
    parser.add_argument("--filter", default="*", metavar="GLOB", help="only cases with such names")
    parser.add_argument("--one-per-row", action="store_true", help="only as many as raise each row of the problem table")
    parser.add_argument("--brief", action="store_true",
                        help="check, repair, undo, without qemu-img: enough for an accelerator more")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--cases", default=os.path.join(HERE, "cases"), metavar="DIR")
    parser.add_argument("--cache", default=os.environ.get("VOL_REPAIR_CASE_CACHE"), metavar="DIR",
                        help="where qemu-img's answers are kept (default: beside vol-repair)")
    parser.add_argument("--records", metavar="FILE", help="write what each case raised, for gate.py")
    parser.add_argument("--option", action="append", default=[], help="of vol-repair, for every run: --option=--test-wide-map")
    parser.add_argument("--keep", metavar="DIR", help="keep the images of all cases in this new directory")
    parser.add_argument("--propose", action="store_true", help="print the missing `differs` lines")
    return parser.parse_args()


def main():
    args = options()
    names = sorted(n for n in os.listdir(args.cases) if fnmatch.fnmatch(n, args.filter))
    if not names:
        sys.exit(f"no case is called {args.filter}")
    if args.one_per_row:
        names = one_per_row(names, args.cases)
    reason = why_not(args.accel)
    if reason:
        print(f"cases: skipped: {reason}\n0 passed, 0 failed, {len(names)} skipped (--accel={args.accel})")
        sys.exit(SKIPPED)
    if not os.access(args.vol_repair, os.X_OK):
        sys.exit(f"{args.vol_repair} is no program")
    args.cache = args.cache or os.path.join(os.path.dirname(os.path.abspath(args.vol_repair)), "case-cache")
    args.work = args.keep or tempfile.mkdtemp(prefix="vol-repair-cases.")
    os.makedirs(args.work, exist_ok=True)
    begin = time.monotonic()
    version = None if args.brief else case_oracle.fingerprint(TESTDATA)
    try:
        with concurrent.futures.ProcessPoolExecutor(args.jobs) as pool:
            results = list(pool.map(run_one, names, [args] * len(names), [version] * len(names)))
    finally:
        if not args.keep:
            shutil.rmtree(args.work, ignore_errors=True)
    sys.exit(summarise(results, args, time.monotonic() - begin))


def summarise(results, args, seconds):
    failed = [r for r in results if r[1]]
    for _, failures, *_ in failed:
        for failure in failures:
            print("FAIL", failure)
    if args.propose:
        propose(results)
    if args.records:
        with open(args.records, "w", encoding="utf-8") as file:
            json.dump({name: {"raised": records, "failed": bool(failures)}
                       for name, failures, records, *_ in results}, file, indent=1, sort_keys=True)
    print(f"{len(results) - len(failed)} passed, {len(failed)} failed, 0 skipped "
          f"({sum(r[4] for r in results)} ran under KVM; --accel={args.accel}, {seconds:.0f} s)")
    return 1 if failed else 0


if __name__ == "__main__":
    main()
