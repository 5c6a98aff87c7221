#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# locks_qemu.py: our locks against real QEMU tools, in both directions: who comes second is refused.
import os
import subprocess
import sys
import tempfile
import time

HOLDER = sys.argv[1]
READ, WRITE = "shared \"write\"", "\"write\""


class Failed(Exception):
    pass


def wait_for(condition, what):
    for _ in range(200):
        if condition():
            return
        time.sleep(0.05)
    raise Failed(f"{what}: not ready after 10 s")


def locks_held(image):
    inode = os.stat(image).st_ino
    with open("/proc/locks", encoding="ascii") as table:
        return any(line.split()[5].split(":")[2] == str(inode) for line in table if "->" not in line)


class Running:
    """A QEMU tool that keeps the image open until the end of the with block."""

    def __init__(self, image, command, **kwargs):
        self.image = image
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE, **kwargs)

    def __enter__(self):
        try:
            wait_for(lambda: locks_held(self.image) or self.process.poll() is not None, self.process.args[0])
            if self.process.poll() is not None:
                raise Failed(f"{self.process.args}: {self.process.stderr.read().decode()}")
        except Failed:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def ours(kind, image):
    """Try to take our locks; None when had, else the lock that was missing."""
    done = subprocess.run([HOLDER, kind, image], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    first, second = done.stdout.splitlines()
    prefix, suffix = f"Could not open '{image}': Failed to get ", " lock"
    if not (first.startswith(prefix) and first.endswith(suffix)
            and second == f"Is another process using the image [{image}]?"):
        raise Failed(f"odd message: {done.stdout}")
    return first[len(prefix):-len(suffix)]


def qemu_first(image, backing, temp):
    """Rows: tool, command, what a check and what a repair is refused for."""
    nbd = ["qemu-nbd", "-f", "qcow2", "-k", os.path.join(temp, "nbd.sock")]
    vm = ["qemu-system-x86_64", "-M", "none", "-display", "none", "-monitor", "none", "-serial", "none"]
    drive = f"if=none,id=d,format=qcow2,file={image}"
    return [
        ("qemu-io", ["qemu-io", "-f", "qcow2", image], READ, WRITE),
        ("qemu-io -r", ["qemu-io", "-r", "-f", "qcow2", image], None, WRITE),
        ("qemu-io -U -r", ["qemu-io", "-U", "-r", "-f", "qcow2", image], None, "shared \"consistent read\""),
        ("qemu-nbd", nbd + [image], READ, WRITE),
        ("qemu-nbd -r", nbd + ["-r", image], None, WRITE),
        ("qemu-storage-daemon", ["qemu-storage-daemon", "--blockdev", f"file,node-name=f,filename={image}",
                                 "--blockdev", "qcow2,node-name=q,file=f",
                                 "--nbd-server", f"addr.type=unix,addr.path={temp}/qsd.sock",
                                 "--export", "nbd,id=e,node-name=q,writable=on"], READ, WRITE),
        ("VM", vm + ["-drive", drive], READ, WRITE),
        ("VM, paused", vm + ["-S", "-drive", drive], READ, WRITE),
        ("VM, read-only", vm + ["-drive", drive + ",readonly=on"], None, WRITE),
        ("VM on an overlay", vm + ["-drive", f"if=none,id=d,format=qcow2,file={backing}"], None, WRITE),
    ]


def ours_first(image):
    """Rows: tool, command, whether it gets in beside a check, beside a repair."""
    return [
        ("qemu-img check", ["qemu-img", "check", "-q", image], True, False),
        ("qemu-img check -r", ["qemu-img", "check", "-q", "-r", "all", image], False, False),
        ("qemu-img check -U", ["qemu-img", "check", "-q", "-U", image], True, False),
        ("qemu-img info", ["qemu-img", "info", image], True, False),
        ("qemu-img info -U", ["qemu-img", "info", "-U", image], True, True),
        ("qemu-img map", ["qemu-img", "map", image], True, False),
        ("qemu-img resize", ["qemu-img", "resize", "-q", image, "2M"], False, False),
        ("qemu-io", ["qemu-io", "-f", "qcow2", "-c", "quit", image], False, False),
        ("qemu-io -f raw -r", ["qemu-io", "-f", "raw", "-r", "-c", "read 0 512", image], True, False),
        ("VM", ["qemu-system-x86_64", "-M", "none", "-display", "none", "-serial", "none", "-monitor", "stdio",
                "-drive", f"if=none,id=d,format=qcow2,file={image}"], False, False),
    ]


def test_qemu_first(image, backing, temp):
    failures = 0
    for name, command, check, repair in qemu_first(image, backing, temp):
        with Running(image, command):
            got = (ours("check", image), ours("repair", image))
        good = got == (check, repair)
        failures += not good
        print(f"{'ok' if good else 'FAILED'}: {name} first: check {got[0] or 'had'}, repair {got[1] or 'had'}")
    return failures


def test_ours_first(image):
    failures = 0
    for column, kind in ((2, "check"), (3, "repair")):
        with Running(image, [HOLDER, kind, image]):
            for row in ours_first(image):
                done = subprocess.run(row[1], input=b"quit\n", capture_output=True, check=False, timeout=60)
                got_in = done.returncode == 0
                good = got_in == row[column] and (got_in or b"lock" in done.stderr)
                failures += not good
                print(f"{'ok' if good else 'FAILED'}: {kind} first: {row[0]} {'got in' if got_in else 'was kept out'}")
    return failures


def main():
    with tempfile.TemporaryDirectory(prefix="vol-repair-locks-") as temp:
        image, overlay = os.path.join(temp, "disk.qcow2"), os.path.join(temp, "overlay.qcow2")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "1M"], check=True)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image, overlay], check=True)
        failures = test_qemu_first(image, overlay, temp) + test_ours_first(image)
        if ours("repair", image) is not None:
            print("FAILED: a lock was left behind")
            failures += 1
    return 1 if failures else 0


sys.exit(main())
