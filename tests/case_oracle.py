# SPDX-License-Identifier: LGPL-2.1-or-later
"""What qemu-img says and does about the image of a recipe. Depends on the recipe alone, so it is kept in a cache."""

import glob
import hashlib
import json
import os
import subprocess

from patience import seconds
from qcow2_read import guest_view

TIMEOUT = seconds(120)
IMAGE = "disk.qcow2"
# What qemu-img prints on other occasions than findings.
NOT_FINDINGS = ("qemu-img:", "vol-repair:", "qcow2:")


def qemu_img(directory, *arguments):
    return subprocess.run(["qemu-img", *arguments], cwd=directory, capture_output=True, text=True,
                          errors="replace", timeout=TIMEOUT, check=False)


def check(directory, repair=None):
    """One `qemu-img check` of the image in `directory`: {exit, json or None, lines of findings, error}."""
    options = ["-r", repair] if repair else []
    run = qemu_img(directory, "check", "-f", "qcow2", "--output=json", *options, IMAGE)
    document = json.loads(run.stdout) if run.stdout.strip() else None
    lines = run.stderr.splitlines()
    refusal = f"qemu-img: Could not open '{IMAGE}': "
    return {
        "exit": run.returncode, "json": document,
        "lines": [line for line in lines if line.strip() and not line.startswith(NOT_FINDINGS)],
        "error": next((line[len(refusal):] for line in lines if line.startswith(refusal)), ""),
    }


def copy_image(source, target):
    """Copies image `source` into a new directory `target`, holes kept; side files are linked."""
    os.makedirs(target)
    for name in os.listdir(source):
        if name != IMAGE:
            os.symlink(os.path.join(source, name), os.path.join(target, name))
    copy_sparse(os.path.join(source, IMAGE), os.path.join(target, IMAGE))
    return os.path.join(target, IMAGE)


def copy_sparse(source, target):
    with open(source, "rb") as old, open(target, "wb") as new:
        size = os.fstat(old.fileno()).st_size
        new.truncate(size)
        at = 0
        while at < size:
            try:
                at = os.lseek(old.fileno(), at, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(old.fileno(), at, os.SEEK_HOLE)
            while at < end:
                at += os.copy_file_range(old.fileno(), new.fileno(), end - at, at, at)


def ask(start, scratch, metadata):
    """Plain check, and both repairs on copies of the image in directory `start`, with what the guest sees after."""
    answer = {"check": check(start)}
    for mode in ("leaks", "all"):
        directory = os.path.join(scratch, "qemu-" + mode)
        path = copy_image(start, directory)
        answer[mode] = check(directory, mode)
        answer[mode]["after"] = check(directory)["exit"]
        opened = answer[mode]["json"] is not None or answer["check"]["json"] is not None
        answer[mode]["guest"] = guest_view(path, metadata) if opened else None
    return answer


def fingerprint(testdata):
    """Changes when the writer or qemu-img changes."""
    digest = hashlib.sha256(qemu_img(".", "--version").stdout.encode())
    sources = sorted(glob.glob(os.path.join(testdata, "*.py"))) + [os.path.abspath(__file__)]
    for path in sources:
        with open(path, "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def cached(cache, version, case):
    """ask(), or what it answered the last time for this recipe text."""
    key = hashlib.sha256((version + case.text).encode()).hexdigest()[:32]
    path = os.path.join(cache, key + ".json")
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    answer = ask(case.start, case.scratch, case.metadata)
    os.makedirs(cache, exist_ok=True)
    partial = f"{path}.{os.getpid()}"
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(answer, file)
    os.rename(partial, path)
    return answer


