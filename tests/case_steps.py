# SPDX-License-Identifier: LGPL-2.1-or-later
"""The life of one test case: check, repair, check again, repair again, undo; and qemu-img as the judge."""

import filecmp
import json
import os
import subprocess
from collections import Counter

import jsonschema

import case_oracle as oracle
from case_oracle import IMAGE
from mkqcow2 import Recipe
from patience import seconds
from qcow2_read import METADATA, first_difference, guest_view

TIMEOUT = seconds(120)
EXIT_CODES = (0, 1, 2, 3, 63)
LINES_MAX = 100  # findings of one kind that vol-repair prints one by one
KEYS = ("corruptions", "corruptions-fixed", "leaks", "leaks-fixed", "check-errors", "image-end-offset",
        "total-clusters", "allocated-clusters", "fragmented-clusters", "compressed-clusters", "filename", "format")
REMAINS = ("corruptions", "leaks", "check-errors", "image-end-offset", "total-clusters", "allocated-clusters",
           "fragmented-clusters")
DOCS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "docs")
SANITIZER = ("AddressSanitizer", "LeakSanitizer", "runtime error:")


class Tool:
    """The vol-repair under test."""

    def __init__(self, path, accel, *more):
        self.path, self.accel, self.more = os.path.abspath(path), accel, more

    def run(self, directory, *arguments):
        """One run in `directory`: {exit, json (keys of qemu-img, None where it would print no document), report}."""
        report_path = os.path.join(directory, "report.json")
        if os.path.exists(report_path):
            os.unlink(report_path)
        command = [self.path, *self.more, *arguments, f"--report={report_path}", IMAGE]
        try:
            run = subprocess.run(command, cwd=directory, capture_output=True, text=True, errors="replace",
                                 timeout=TIMEOUT, check=False)
        except subprocess.TimeoutExpired:
            return {"exit": "timeout", "json": None, "report": {}, "lines": [], "stderr": ""}
        report = read_json(report_path) or {}
        document = parse(run.stdout)
        if document is not None and "check-errors" not in document:
            document = None
        return {"exit": run.returncode, "json": document, "report": report,
                "lines": run.stderr.splitlines(), "stderr": run.stderr}

    def check(self, directory):
        return self.run(directory, "-f", "qcow2", "--output=json", f"--accel={self.accel}")

    def repair(self, directory, mode, journal):
        return self.run(directory, "-f", "qcow2", "-r", mode, "--output=json", f"--accel={self.accel}",
                        f"--undo={journal}")

    def undo(self, directory, journal):
        return self.run(directory, "--mode=undo", f"--undo={journal}")


def schema():
    with open(os.path.join(DOCS, "report.schema.json"), encoding="utf-8") as file:
        return jsonschema.Draft7Validator(json.load(file))


SCHEMA = schema()


def parse(text):
    try:
        return json.loads(text)
    except ValueError:
        return None


def read_json(path):
    try:
        with open(path, encoding="utf-8") as file:
            return parse(file.read())
    except OSError:
        return None


def last_line(result):
    return (result["stderr"].strip().splitlines() or [""])[-1][:200]


def same(one, two):
    return filecmp.cmp(one, two, shallow=False)


class Case:
    """One case, run in `scratch`; `failures` and `records` (mode -> ids of problems) are what comes out."""

    def __init__(self, name, text, tool, scratch, brief=False):
        self.name, self.text, self.tool, self.scratch = name, text, tool, scratch
        self.brief = brief  # without qemu-img, and no look at what was repaired but for the undo
        self.recipe = Recipe(text)
        self.failures = []
        self.records = {}
        self.ran = set()  # accelerators, as the reports name them
        self.proposals = []
        self.used = set()
        self.would = {}  # of the check: what each mode would do
        self.start = os.path.join(scratch, "start")
        os.makedirs(self.start)
        self.start_image = os.path.join(self.start, IMAGE)
        self.recipe.save(self.start_image)
        self.metadata = self.recipe.image.structure_clusters()

    def fail(self, state, what):
        self.failures.append(f"{self.name} [{state}]: {what}")

    def go(self, cache, version):
        self.qemu = None if self.brief else oracle.cached(cache, version, self)
        pristine = os.path.join(self.scratch, "pristine")
        oracle.copy_sparse(self.start_image, pristine)
        self.checks(pristine)
        for mode in ("leaks", "all"):
            self.repairs(mode, pristine)
        for difference in [] if self.brief else self.recipe.differs:
            for state in difference.states:
                if (state, difference.key) not in self.used:
                    self.fail(state, f"differs {difference.key} is stale: ours and qemu-img agree")

    # ---- steps -----------------------------------------------------------------------------------

    def checks(self, pristine):
        ours = self.tool.check(self.start)
        if not self.sane("check", ours):
            return
        if self.qemu:
            self.judge("check", ours, self.qemu["check"])
            self.judge_lines(ours, self.qemu["check"])
        self.said("check", ours)
        self.would = ours["report"].get("would-do", {})
        self.hits(ours["report"])
        if not same(self.start_image, pristine):
            self.fail("check", "wrote to the image")

    def repairs(self, mode, pristine):
        directory = os.path.join(self.scratch, mode)
        image = oracle.copy_image(self.start, directory)
        journal = os.path.join(directory, "undo")
        ours = self.tool.repair(directory, mode, journal)
        if not self.sane(mode, ours):
            return
        self.said(mode, ours)
        if self.qemu:
            self.judge(mode, ours, self.qemu[mode])
        self.promised(mode, ours)
        changed = not same(image, pristine)
        told = bool(ours["report"].get("image-changed"))
        if told != changed:
            self.fail(mode, f"report says image-changed={told}, the image says {changed}")
        if ours["exit"] == 1 and changed:
            self.fail(mode, "exit 1, and the image was changed")
        if ours["json"] is not None and not self.brief:
            self.afterwards(mode, directory, ours)
        if changed and not self.brief:
            self.bytes_changed(mode, image, pristine)
            self.guest_data(mode, directory)
        if changed:
            self.undoes(mode, directory, pristine)

    def afterwards(self, mode, directory, ours):
        """After the repair: the recheck, qemu-img's opinion, and a second repair that has nothing to do."""
        again = self.tool.check(directory)
        if not self.sane(mode, again):
            return
        for key in ("exit", *REMAINS):
            if self.value(again, key) != self.value(ours, key):
                self.fail(mode, f"recheck: {key} is {self.value(again, key)}, the repair said {self.value(ours, key)}")
        verdict = oracle.check(directory)
        self.judge("after-" + mode, again, verdict)
        if self.qemu[mode]["after"] == 0 and verdict["exit"] != 0:
            self.judge_key("after-" + mode, "qemu-cleans", "no", "yes")
        before = os.path.join(self.scratch, "repaired")
        oracle.copy_sparse(os.path.join(directory, IMAGE), before)
        second = self.tool.repair(directory, mode, os.path.join(directory, "undo-second"))
        if second["exit"] != ours["exit"]:
            self.fail(mode, f"second repair: exit {second['exit']}, the first {ours['exit']}")
        if not same(os.path.join(directory, IMAGE), before) or second["report"].get("image-changed"):
            self.fail(mode, "second repair: wrote to the image")

    def undoes(self, mode, directory, pristine):
        undone = self.tool.undo(directory, os.path.join(directory, "undo"))
        if undone["exit"] != 0:
            self.fail(mode, f"undo: exit {undone['exit']}: {last_line(undone)}")
        if not same(os.path.join(directory, IMAGE), pristine):
            self.fail(mode, "undo: the image is not what it was")

    # ---- judgements ------------------------------------------------------------------------------

    def sane(self, state, result):
        """The program ended as programs should."""
        if result["exit"] not in EXIT_CODES or any(word in result["stderr"] for word in SANITIZER):
            self.fail(state, f"crashed: exit {result['exit']}: {last_line(result)}")
            return False
        if not result["report"]:
            self.fail(state, f"no report; exit {result['exit']}: {last_line(result)}")
            return False
        if result["report"].get("exit-code") != result["exit"]:
            self.fail(state, f"exit {result['exit']}, the report says {result['report'].get('exit-code')}")
        self.ran.add(result["report"].get("accel"))
        for error in SCHEMA.iter_errors(result["report"]):
            self.fail(state, f"the report breaks docs/report.schema.json: {error.message[:200]}")
            break
        if result["exit"] == 1 and not result["stderr"].strip():
            self.fail(state, "exit 1 without a word")
        if self.tool.accel != result["report"].get("accel") and result["report"].get("accel") != "none":
            self.fail(state, f"ran under {result['report'].get('accel')}")
        return True

    def said(self, mode, ours):
        """The rows that the recipe says were raised, no more, no fewer; the exit code where it names one."""
        ids = {problem["id"] for problem in ours["report"].get("problems", [])}
        self.records[mode] = sorted(ids)
        wanted = self.recipe.raises[mode]
        if ids != wanted:
            self.fail(mode, "raised " + (" ".join(sorted(ids)) or "nothing")
                      + ", not " + (" ".join(sorted(wanted)) or "nothing"))
        leaks = next((p for p in ours["report"].get("problems", []) if p["id"] == "leaked-cluster"), {"fixed": 0, "count": 0})
        if mode in self.recipe.keeps and (leaks["fixed"] or not leaks["count"]):
            self.fail(mode, f"freed {leaks['fixed']} of {leaks['count']} leaks, which are to be kept")
        if self.recipe.exits.get(mode, ours["exit"]) != ours["exit"]:
            self.fail(mode, f"exit {ours['exit']}, not {self.recipe.exits[mode]}")
        refused = ours["report"].get("verdict") == "refused" and any(
            i.startswith(("scope-", "rebuild-")) or i in ("snapshots-offset", "autoclear-unsafe") for i in ids)
        if refused != (mode in self.recipe.refused):
            self.fail(mode, "was refused" if refused else "was not refused")
        if refused and (ours["exit"] != 1 or ours["json"] is not None):
            self.fail(mode, f"refused with exit {ours['exit']}")

    def hits(self, report):
        """The guest addresses that a recipe says are hit, and the snapshots."""
        told = {s["name"]: s["guest-ranges-affected"] for s in report.get("snapshots-affected", [])}
        told.update({"active": report["guest-ranges-affected"]} if report["guest-ranges-affected"] else {})
        told = {who: [(r["offset"], r["length"]) for r in ranges] for who, ranges in told.items()}
        if self.recipe.hits and told != self.recipe.hits:
            self.fail("check", f"damage hits {told}, not {self.recipe.hits}")

    def promised(self, mode, ours):
        """What the check said that this mode would do is what it did."""
        would = self.would.get(mode, {"mends": [], "clusters-freed": 0})
        report = ours["report"]
        if "refused" in would:
            if report["verdict"] != "refused":
                self.fail(mode, f"the check said it would refuse ({would['refused']}); {report['verdict']}")
            return
        mends = {row["id"]: row["count"] for row in would["mends"]}
        did = {row["id"]: row["fixed"] for row in report["problems"] if row["fixed"]}
        freed = report["repair"]["clusters-freed"]
        if report["verdict"] == "refused":
            self.fail(mode, f"refused, and the check said that it would mend {mends}")
        elif report["repair"]["bytes-changed"] != would.get("bytes-written", 0):
            self.fail(mode, f"{report['repair']['bytes-changed']} bytes were changed; the check said {would.get('bytes-written', 0)}")
        elif mends != did or freed != would["clusters-freed"]:
            self.fail(mode, f"mended {did}, freed {freed}; the check said {mends}, {would['clusters-freed']}")

    @staticmethod
    def value(result, key):
        if key == "exit":
            return result["exit"]
        return (result["json"] or {}).get(key, 0)

    def judge(self, state, ours, qemu):
        """Exit code and keys are qemu-img's; or a `differs` line says why not."""
        if state in self.recipe.refused:
            return
        self.last_words = last_line(ours)
        self.judge_key(state, "exit", ours["exit"], qemu["exit"])
        if (ours["json"] is None) != (qemu["json"] is None):
            self.judge_key(state, "json", "none" if ours["json"] is None else "some",
                           "none" if qemu["json"] is None else "some")
        elif ours["json"] is not None:
            for key in KEYS:
                self.judge_key(state, key, self.value(ours, key), self.value(qemu, key))
        if qemu.get("error") and qemu["error"] not in ours["stderr"]:
            self.judge_key(state, "error", "other", "said")

    def judge_lines(self, ours, qemu):
        """A check prints qemu-img's lines; where the counters are meant to differ, so are the lines."""
        if "check" in self.recipe.refused or len(qemu["lines"]) > LINES_MAX:
            return
        if any("check" in d.states and d.key in ("json", "corruptions", "leaks") for d in self.recipe.differs):
            return
        printed = [line for line in ours["lines"] if line.strip() and not line.startswith(oracle.NOT_FINDINGS)]
        extra, missing = Counter(printed) - Counter(qemu["lines"]), Counter(qemu["lines"]) - Counter(printed)
        if any("check" in d.states and d.key == "lines" for d in self.recipe.differs):
            self.judge_key("check", "lines", "others" if extra or missing else "same", "same")
        elif extra or missing:
            self.fail("check", f"lines: too much: {list(extra)[:2]}, missing: {list(missing)[:2]}")

    def judge_key(self, state, key, ours, qemu):
        known = [d for d in self.recipe.differs if state in d.states and d.key == key]
        if str(ours) == str(qemu):
            return
        if not known:
            said = f" ({self.last_words})" if key == "exit" and ours == 1 else ""
            self.fail(state, f"{key}: ours {ours}, qemu-img {qemu}{said}")
            self.proposals.append((state, key, ours, qemu))
            return
        self.used.add((state, key))
        if (known[0].ours, known[0].qemu) not in ((str(ours), str(qemu)), (str(ours), "any")):
            self.fail(state, f"{key}: ours {ours}, qemu-img {qemu}; "
                             f"the recipe knows {known[0].ours} and {known[0].qemu}")

    def guest_data(self, mode, directory):
        """The guest reads what it read before, and what it reads after qemu-img's repair."""
        compared = oracle.qemu_img(self.scratch, "compare", "-f", "qcow2", "-F", "qcow2",
                                   os.path.join("start", IMAGE), os.path.join(mode, IMAGE))
        before = guest_view(self.start_image, self.metadata)
        after = guest_view(os.path.join(directory, IMAGE), self.metadata)
        changed = first_difference(before, after, readable_only=True)
        if changed or compared.returncode == 1 and METADATA not in before.values():
            self.fail(mode, f"guest data changed: {changed or compared.stdout.strip()}")
        if self.qemu[mode]["guest"] is None:  # qemu-img did not open it
            return
        other = first_difference(self.qemu[mode]["guest"], after, readable_only=False)
        self.judge_key(mode, "guest", "kept" if other else "same", "changed" if other else "same")

    def bytes_changed(self, mode, image, pristine):
        """
        Only feature bits, refcounts, L1 and L2 entries may change; in mode all the pointers to refcount structures and
        snapshot table as well, and what they point to then is behind the old end of the file.
        """
        _, _, *allowed = self.recipe.image.structures()
        allowed.append((72, 8))
        if "autoclear-unknown" in self.recipe.raises[mode]:
            allowed.append((88, 8))
        old, new = os.path.getsize(pristine), os.path.getsize(image)
        if mode == "all" and any(row.startswith("snapshot-") for row in self.recipe.raises[mode]):
            allowed.append((56, 16))
        if mode == "all" and new > old:
            allowed += [(48, 24), (old, new - old)]
        elif new != old and (old % 8 == 0 or new != old + 8 - old % 8):  # the end cuts an entry that is written
            self.fail(mode, "the file's size changed")
        for position in differing_words(image, pristine):
            if not any(start <= position < start + length for start, length in allowed):
                self.fail(mode, f"changed a byte at {position:#x}, which is nothing that a repair changes")
                return


def differing_words(one, two):
    """Positions (multiples of 8) at which two files differ."""
    block = 1 << 16
    with open(one, "rb") as first, open(two, "rb") as second:
        base = 0
        while True:
            left, right = first.read(block), second.read(block)
            if left != right:
                yield from (base + i for i in range(0, block, 8) if left[i:i + 8] != right[i:i + 8])
            if not left and not right:
                return
            base += block

