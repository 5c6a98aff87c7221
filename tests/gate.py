#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The gate: the problem table is complete, every row has a case that raises it, and the house rules hold."""

import argparse
import ast
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path[:0] = [os.path.join(ROOT, "testdata")]
sys.dont_write_bytecode = True

from mkqcow2 import MODES, Recipe, RecipeError  # noqa: E402
import rooms  # noqa: E402

SNAPSHOT = os.path.join(HERE, "abi.snapshot")
FIELDS = {"id", "name", "host", "guest", "guest_len", "index", "got", "want", "count", "op", "leak", "discard"}
FIELD = re.compile(r"\{(\w+)(?::(d|x|#x))?\}")
FUNCTION_LINES, FILE_LINES, ARGUMENTS = 80, 600, 5
SOURCES = (".c", ".h", ".def", ".S", ".lds", ".py", ".sh", ".build", "recipe")
KEEPS = 1 | 8 | 16  # VR_KEEPS_LEAKS, VR_SUSPECT, VR_BEHIND
# Rows that no image can raise, each with its reason. Printed at every run.
# Functions whose arguments are somebody else's choice.
GIVEN_SIGNATURES = {"stream_download_vol", "guard_upload_vol", "report_error"}  # libvirt's downloadVol slot
NO_CASE = {
    "not-verified": "only a fault of the planner raises it; tests/unit/engine/test_session.c provokes it",
}
# Rows that keep leaks and are never the only one that does, each with its reason.
NEVER_ALONE = {
    "snapshot-table-past-eof": "what lies behind the end reads as zeros, which are an implausible entry as well",
    "refcount-overflow": "what the width cannot count is shared, and said to be",
    "copied-shared": "it is looked for where refcounts are too low, which is said as well",
    "shared-too-high": "the map that lacks the reference is reported for its gap",
    "l1-entry-only-empty": "it goes with a leaked table",
}
# Words that have no place in the tree, as the first 12 digits of their SHA-256, so that this list is no hit itself.
FORBIDDEN = {
    "0615570f9ea1", "11fb682be0a0", "2c4e6f6c4695", "337e547a950f", "386ebc0efd04", "3ea125d0bff3",
    "49f5b0e488cf", "50a412294327", "60965168ce76", "616efbe96852", "674900a77b79", "744205e43529",
    "7d3194f79e64", "8b7d1a3187ab", "8f2adf96b87e", "9b38b8f5877f", "a4dd456bdab5", "c70eca6b0f88",
    "c857d09db23e", "cc760bd14636",
}


class Gate:
    """Collects what is wrong."""

    def __init__(self):
        self.wrong = []
        self.needs = 0

    def need(self, condition, what):
        self.needs += 1
        if not condition:
            self.wrong.append(what)


def problem_table():
    """The rows of vr_problems.def, as the C compiler reads them."""
    with tempfile.TemporaryDirectory() as directory:
        program = os.path.join(directory, "problems_dump")
        subprocess.run([os.environ.get("CC", "cc"), "-std=gnu11", "-I", os.path.join(ROOT, "guest", "abi"),
                        os.path.join(HERE, "problems_dump.c"), "-o", program], check=True)
        return json.loads(subprocess.run([program], check=True, capture_output=True, text=True).stdout)


def check_table(gate, rows):
    for key in ("code", "slug", "symbol"):
        values = [row[key] for row in rows]
        for value in {v for v in values if values.count(v) > 1}:
            gate.need(False, f"two rows have the {key} {value}")
    for row in rows:
        slug = row["slug"]
        gate.need(1 <= row["pass"] <= 7 and row["code"] < 0x10000, f"{slug}: no pass has code {row['code']:#x}")
        gate.need(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug), f"{slug}: not a slug")
        gate.need(row["spec"] or slug in NO_CASE, f"{slug}: names no place in the specification")
        gate.need(row["message"][:1].isupper() or row["message"][:1] == "{", f"{slug}: message is no sentence")
        for text in (row["message"], row["qemu"]):
            unknown = {name for name, _ in FIELD.findall(text)} - FIELDS
            gate.need(not unknown, f"{slug}: no record has the fields {unknown}")
            gate.need("{" not in FIELD.sub("", text), f"{slug}: broken field in '{text}'")


def check_snapshot(gate, rows, update):
    """Codes only grow: what was published keeps its code, slug and severity."""
    lines = [f"{row['code']:#06x} {row['slug']} {row['severity']}" for row in rows]
    if update:
        with open(SNAPSHOT, "w", encoding="utf-8") as file:
            file.write("\n".join(sorted(lines)) + "\n")
    with open(SNAPSHOT, encoding="utf-8") as file:
        published = file.read().split("\n")[:-1]
    for line in published:
        gate.need(line in lines, f"abi.snapshot: '{line}' is gone or has changed; codes are for ever")
    for line in lines:
        gate.need(line in published, f"abi.snapshot: '{line}' is missing; run tests/gate.py --update")


def check_cases(gate, rows, record_files):
    slugs = {row["slug"] for row in rows}
    raised, alone = {}, set()
    keeping = {row["slug"] for row in rows if row["flags"] & KEEPS and row["severity"] not in ("REFUSE", "OPEN")}
    for name in sorted(os.listdir(os.path.join(HERE, "cases"))):
        with open(os.path.join(HERE, "cases", name, "recipe"), encoding="utf-8") as file:
            try:
                recipe = Recipe(file.read())
            except RecipeError as error:
                gate.need(False, f"{name}: {error}")
                continue
        for slug in set().union(*(recipe.raises[mode] for mode in MODES)):
            gate.need(slug in slugs, f"{name}: there is no row {slug}")
            raised.setdefault(slug, set()).add(name)
        for mode in recipe.keeps:
            reasons = recipe.raises[mode] & keeping
            alone |= reasons if len(reasons) == 1 else set()
        gate.need(any(name == s or name.startswith(s + "-") for s in slugs | {"clean", "mixed", "rebuild"}),
                  f"{name}: is not called after a row, nor clean-..., mixed-..., rebuild-...")
        for difference in recipe.differs:
            gate.need(difference.reason.strip(), f"{name}: a difference without reason")
    for slug in keeping:
        if slug in NEVER_ALONE:
            gate.need(slug not in alone, f"{slug}: keeps leaks alone in a case, and has a reason why it never does")
        else:
            gate.need(slug in alone, f"{slug}: keeps leaks, and no case `keeps` them for this row alone")
    check_raised(gate, slugs, raised, record_files)


def check_raised(gate, slugs, raised, record_files):
    """Every row is raised by a case, in the recipes and in what the runs recorded."""
    for slug in sorted(slugs):
        if slug in NO_CASE:
            print(f"gate: {slug} has no case: {NO_CASE[slug]}")
            gate.need(slug not in raised, f"{slug}: has a case, and a reason why it can have none")
        else:
            gate.need(slug in raised, f"{slug}: no case raises this row")
    for path in record_files:
        with open(path, encoding="utf-8") as file:
            records = json.load(file)
        seen = {slug for case in records.values() for ids in case["raised"].values() for slug in ids}
        for slug in sorted(slugs - seen - NO_CASE.keys()):
            gate.need(False, f"{slug}: no case raised this row in {os.path.basename(path)}")


# ---- house rules ---------------------------------------------------------------------------------


def tree():
    """Paths of all files of the project, tracked or about to be."""
    run = subprocess.run(["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True,
                         check=False)
    if run.returncode == 0:
        return [path for path in run.stdout.splitlines() if os.path.isfile(os.path.join(ROOT, path))]
    return [os.path.relpath(os.path.join(top, name), ROOT) for top, _, names in os.walk(ROOT) for name in names]


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8", errors="replace") as file:
        return file.read()


def c_functions(text):
    """(name, lines, arguments) of each function: bodies begin with a brace in the first column."""
    lines = text.split("\n")
    start = None
    for number, line in enumerate(lines):
        if line == "{":
            start = number
        elif line.startswith("}") and start is not None:
            head = " ".join(lines[max(0, start - 6):start])
            match = re.search(r"(\w+)\(([^()]*(?:\([^()]*\)[^()]*)*)\)[^;{}()]*$", head)
            name, arguments = (match[1], match[2].count(",") + 1) if match else ("?", 0)
            yield name, number - start + 1, arguments
            start = None


def python_functions(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, node.end_lineno - node.lineno + 1, 0


def check_sizes(gate, path, text):
    lines = text.count("\n")
    if path.endswith((".c", ".py")):
        gate.need(lines <= FILE_LINES, f"{path}: {lines} lines")
        functions = c_functions(text) if path.endswith(".c") else python_functions(text)
        for name, length, arguments in functions:
            gate.need(length <= FUNCTION_LINES, f"{path}: {name}() has {length} lines")
            gate.need(arguments <= ARGUMENTS or name in GIVEN_SIGNATURES, f"{path}: {name}() has {arguments} arguments")


def check_tree(gate):
    for path in tree():
        with open(os.path.join(ROOT, path), "rb") as file:
            text = file.read().decode("utf-8", "replace")
        if path.endswith(SOURCES) or text.startswith("#!"):
            first = text.split("\n")[1 if text.startswith("#!") else 0]
            gate.need("SPDX-License-Identifier: LGPL-2.1-or-later" in first, f"{path}: does not begin with its licence")
        check_sizes(gate, path, text)
        said = [word for word in sorted(set(re.findall(r"[A-Za-z]+", text)))
                if hashlib.sha256(word.encode()).hexdigest()[:12] in FORBIDDEN]
        gate.need(not said, f"{path}: says {' '.join(said)}")
        if re.match(r"guest/formats/\w+/passes/\w+\.c$|guest/formats/qcow2/map/pass_map\.c$", path):
            for heading in ("Tests:", "Collects:", "Needs:", "Frees:"):
                gate.need(heading in text[:3000], f"{path}: does not open with {heading}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", action="append", default=[], metavar="FILE", help="from run-case.py --records")
    parser.add_argument("--update", action="store_true", help="write tests/abi.snapshot anew")
    args = parser.parse_args()
    gate = Gate()
    rows = problem_table()
    check_table(gate, rows)
    check_snapshot(gate, rows, args.update)
    check_cases(gate, rows, args.records)
    check_tree(gate)
    rooms.check(gate, tree(), read)
    for what in gate.wrong:
        print("FAIL", what)
    print(f"{gate.needs - len(gate.wrong)} passed, {len(gate.wrong)} failed, 0 skipped (gate, {len(rows)} rows)")
    sys.exit(1 if gate.wrong else 0)


if __name__ == "__main__":
    main()
