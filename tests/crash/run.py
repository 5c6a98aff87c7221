#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Kills a repair at every write it makes to the image, and looks at what is left. The one that dies is vol-repair-test, which is
built with the hooks for it; what comes after, vol-repair does.

For N = 1, 2, ... the repair runs until it has written N times and dies of SIGKILL; until a run lives. Once vol-repair
dies as a whole: the image is then no worse than before, by qemu-img and by what the guest reads; the journal undoes it
byte for byte; a second run ends clean, whether it finds the journal or not. Once only its VMM dies: the front rolls
the image back, byte for byte.

And a power cut, in every epoch (what stands between two flushes): any of its sectors may have reached the disk, in any
order, or none. --seeds says how many such states are made of each epoch; the first two are all of it, and none. A
sector itself is old or new: disks do not tear it.
"""

import argparse
import concurrent.futures
import fnmatch
import os
import shutil
import signal
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
TESTS = os.path.dirname(HERE)
TESTDATA = os.path.join(os.path.dirname(TESTS), "testdata")
sys.path[:0] = [TESTS, TESTDATA]
sys.dont_write_bytecode = True

import case_oracle  # noqa: E402
from case_oracle import IMAGE  # noqa: E402
from case_steps import Tool, last_line, same  # noqa: E402
from mkqcow2 import Recipe  # noqa: E402
from patience import seconds  # noqa: E402
from qcow2_read import first_difference, guest_view  # noqa: E402

CRASHES_MAX = 200
EPOCHS_MAX = 7  # enum vr_epoch
BADNESS = {0: 0, 3: 1, 2: 2}  # of qemu-img's exit codes; any other is worst
FIXTURES = (
    "copied-l1", "copied-l2-16", "copied-l2-dirty-v2", "copied-l2-leak", "corrupt-bit-dirty", "corrupt-bit-leak",
    "corrupt-bit-low", "dirty-bit", "dirty-bit-lazy", "dirty-bit-leak", "l2-entry-zero-unaligned", "leaked-cluster",
    "leaked-cluster-all-ones", "leaked-cluster-backing", "leaked-cluster-many", "leaked-cluster-size-512",
    "leaked-cluster-width-1", "leaked-cluster-zero-refcount", "mixed-everything", "mixed-everything-small",
    "mixed-leak-copied-zero-unaligned", "refcount-too-low-8", "refcount-too-low-past-eof", "refcount-too-low-v2",
    "refcount-zero", "refcount-zero-block", "refcount-zero-metadata", "refcount-zero-second-block",
    "refcount-zero-size-2m", "refcount-zero-width-64",
    "bitmaps-stale", "copied-l1-snapshot", "mixed-l1-on-header", "rebuild-reftable-on-header", "refcount-zero-luks",
    "leaked-cluster-snapshot", "rebuild", "rebuild-dirty", "rebuild-last-partial",
    "rebuild-size-512", "rebuild-snapshot", "rebuild-v2", "refblock-shared", "refcount-too-low-compressed",
    "refcount-too-low-snapshot", "reftable-entry-unaligned", "snapshot-entry-incomplete-8", "snapshot-extra-cut-several",
)


def corruptions(verdict):
    """(corruptions, wrong COPIED flags). A refcount that was raised leaves flags behind until the last epoch."""
    flags = sum("OFLAG_COPIED" in line for line in verdict["lines"])
    return (verdict["json"] or {}).get("corruptions", 0) - flags, flags


class Crash:
    """One fixture in one mode."""

    def __init__(self, name, mode, tool, scratch):
        self.name, self.mode, self.tool, self.scratch = name, mode, tool, scratch
        self.failures = []
        self.deaths = 0
        self.start = os.path.join(scratch, "start")
        os.makedirs(self.start)
        self.start_image = os.path.join(self.start, IMAGE)
        with open(os.path.join(TESTS, "cases", name, "recipe"), encoding="utf-8") as file:
            recipe = Recipe(file.read())
        recipe.save(self.start_image)
        self.metadata = recipe.image.structure_clusters()
        self.before = case_oracle.check(self.start)
        self.corruptions = corruptions(self.before)
        self.view = guest_view(self.start_image, self.metadata)

    def fail(self, number, what):
        where = f"write {number}" if isinstance(number, int) else number
        self.failures.append(f"{self.name} [{self.mode}, {where}]: {what}")

    def go(self):
        whole = self.copy("whole")
        self.final = self.tool.repair(whole, self.mode, os.path.join(whole, "undo"))
        self.repaired = os.path.join(whole, IMAGE)
        # A refcount that is right at last shows flags as wrong that the whole repair keeps, in tables that are contested.
        self.flags = max(self.corruptions[1], corruptions(case_oracle.check(whole))[1])
        for number in range(1, CRASHES_MAX + 1):
            if not self.all_dies(number) or not self.vmm_dies(number):
                break
            self.deaths += 2
        else:
            self.fail(CRASHES_MAX, "more writes than this test follows")
        if not self.deaths and not same(self.repaired, self.start_image):
            self.fail(0, "the repair wrote, and never died")

    def power_cuts(self, seeds):
        for epoch in range(1, EPOCHS_MAX + 1):
            for seed in range(seeds):
                if not self.power_cut(epoch, seed):
                    return

    def power_cut(self, epoch, seed):
        """False if the repair has fewer epochs."""
        where = f"epoch {epoch}, seed {seed}"
        directory = self.copy(f"cut-{epoch}-{seed}")
        status = self.die(directory, f"--test-crash-epoch={epoch}", f"--test-crash-seed={seed}")
        if status != -signal.SIGKILL:
            return False
        self.deaths += 1
        self.no_worse(directory, where)
        self.undo(directory, where)
        self.second_run(directory, where, "undo-second")
        shutil.rmtree(directory)
        return True

    def copy(self, name):
        directory = os.path.join(self.scratch, name)
        case_oracle.copy_image(self.start, directory)
        return directory

    def die(self, directory, *options):
        """Runs the repair that is to die in `directory`: its exit status."""
        command = [self.tool.path + "-test", "-f", "qcow2", "-r", self.mode, "--output=json", f"--accel={self.tool.accel}",
                   f"--undo={os.path.join(directory, 'undo')}", *options, IMAGE]
        run = subprocess.run(command, cwd=directory, capture_output=True, timeout=seconds(120), check=False)
        return run.returncode

    def all_dies(self, number):
        """False if the repair made fewer writes than `number`."""
        directory = self.copy(f"crash-{number}")
        status = self.die(directory, f"--test-crash-after={number}")
        if status != -signal.SIGKILL:
            if status != self.final["exit"] or not same(os.path.join(directory, IMAGE), self.repaired):
                self.fail(number, f"the run that was to live ended with {status}, and not as the undisturbed one")
            return False
        self.no_worse(directory, number)
        self.undo(directory, number)
        self.second_run(directory, number, "undo-second")
        shutil.rmtree(directory)
        directory = self.copy(f"again-{number}")
        self.die(directory, f"--test-crash-after={number}")
        self.second_run(directory, number, "undo")
        shutil.rmtree(directory)
        return True

    def vmm_dies(self, number):
        directory = self.copy(f"vmm-{number}")
        status = self.die(directory, f"--test-vmm-crash-after={number}")
        if status != 1:
            self.fail(number, f"the VMM died: exit {status}")
        if not same(os.path.join(directory, IMAGE), self.start_image):
            self.fail(number, "the VMM died: the image was not rolled back")
        shutil.rmtree(directory)
        return True

    def no_worse(self, directory, number):
        now = case_oracle.check(directory)
        then, worst = BADNESS.get(self.before["exit"], 3), BADNESS.get(now["exit"], 3)
        found, flags = corruptions(now)
        if worst > then or found > self.corruptions[0]:
            self.fail(number, f"worse: exit {self.before['exit']} -> {now['exit']}, corruptions {self.corruptions[0]} "
                              f"-> {found}")
        if flags > self.flags and not self.marked_corrupt(directory):
            self.fail(number, f"worse: wrong COPIED flags {self.flags} -> {flags}, and a VM would start on it")
        changed = self.guest_changed(directory)
        if changed:
            self.fail(number, f"guest data changed: {changed}")

    @staticmethod
    def marked_corrupt(directory):
        """Whether the corrupt bit keeps VMs off; version 2 has none."""
        with open(os.path.join(directory, IMAGE), "rb") as file:
            header = file.read(80)
        return header[7] < 3 or bool(header[79] & 2)

    def undo(self, directory, number):
        copy = self.copy(f"undo-{number}")
        case_oracle.copy_sparse(os.path.join(directory, IMAGE), os.path.join(copy, IMAGE))
        undone = self.tool.undo(copy, os.path.join(directory, "undo"))
        if undone["exit"] != 0:
            self.fail(number, f"undo: exit {undone['exit']}: {last_line(undone)}")
        if not same(os.path.join(copy, IMAGE), self.start_image):
            self.fail(number, "undo: the image is not what it was")
        shutil.rmtree(copy)

    def second_run(self, directory, number, journal):
        second = self.tool.repair(directory, self.mode, os.path.join(directory, journal))
        what = f"second run, journal {journal}"
        if second["exit"] != self.final["exit"]:
            self.fail(number, f"{what}: exit {second['exit']}, not {self.final['exit']}: {last_line(second)}")
        judge = case_oracle.check if self.before["json"] else self.tool.check  # without its key, qemu-img opens no LUKS
        verdict = judge(directory)["exit"]
        if self.final["exit"] == 0 and verdict != 0:
            self.fail(number, f"{what}: a check says {verdict}")
        changed = self.guest_changed(directory)
        if changed:
            self.fail(number, f"{what}: guest data changed: {changed}")

    def guest_changed(self, directory):
        now = guest_view(os.path.join(directory, IMAGE), self.metadata)
        return first_difference(self.view, now, readable_only=True)


def run_one(job, tool, work, seeds):
    name, mode = job
    scratch = tempfile.mkdtemp(prefix=f"{name}.{mode}.", dir=work)
    try:
        crash = Crash(name, mode, tool, scratch)
        crash.go()
        crash.power_cuts(seeds)
        return crash.deaths, crash.failures
    except Exception as error:  # one fixture must not end the others
        return 0, [f"{name} [{mode}]: {type(error).__name__}: {error}"]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", metavar="DIR", help="build directory; vol-repair is taken from there")
    parser.add_argument("--vol-repair", metavar="PATH")
    parser.add_argument("--accel", choices=("kvm", "process"),
                        default="kvm" if os.access("/dev/kvm", os.R_OK | os.W_OK) else "process")
    parser.add_argument("--filter", default="*", metavar="GLOB")
    parser.add_argument("--seeds", type=int, default=4, help="states of each epoch after a power cut")
    parser.add_argument("--all", action="store_true", help="every case that is repaired, not just some")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    if not args.vol_repair and not args.build:
        parser.error("--build or --vol-repair")
    args.vol_repair = args.vol_repair or os.path.join(args.build, "plugin", "cli", "vol-repair")
    return args


def main():
    args = options()
    names = sorted(os.listdir(os.path.join(TESTS, "cases"))) if args.all else FIXTURES
    jobs = [(name, mode) for name in names if fnmatch.fnmatch(name, args.filter) for mode in ("leaks", "all")]
    tool = Tool(args.vol_repair, args.accel)
    work = tempfile.mkdtemp(prefix="vol-repair-crash.")
    try:
        with concurrent.futures.ProcessPoolExecutor(args.jobs) as pool:
            results = list(pool.map(run_one, jobs, [tool] * len(jobs), [work] * len(jobs), [args.seeds] * len(jobs)))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for _, failures in results:
        for failure in failures:
            print("FAIL", failure)
    deaths, failed = sum(d for d, _ in results), sum(bool(f) for _, f in results)
    kvm = deaths if args.accel == "kvm" else 0
    print(f"{deaths} crashes in {len(jobs)} repairs; {kvm} ran under KVM")
    if not deaths:
        print("FAIL nothing died")
        failed += 1
    print(f"{max(0, len(jobs) - failed)} passed, {failed} failed, 0 skipped")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
