#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""cli.py: the built vol-repair on real images: qemu-img's command line, reports, stream, undo, signals, dangers."""
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import unittest

import jsonschema

PROGRAM, ACCEL = os.path.abspath(sys.argv[1]), sys.argv[2]
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
MAKER = os.path.join(ROOT, "testdata", "mkqcow2.py")
LEAKY = "image size=64M\nwrite 0 256K pattern=1\nwrite 1M 64K pattern=2\n" \
        "poke l1[0].l2[16] = 0\nraises leaked-cluster\n"
BAD = LEAKY + "poke l1[0].l2[1].copied = 0\nraises copied-l2\n"
QEMU_KEYS = ["image-end-offset", "compressed-clusters", "total-clusters", "corruptions", "corruptions-fixed",
             "check-errors", "leaks", "leaks-fixed", "allocated-clusters", "filename", "format", "fragmented-clusters"]

with open(os.path.join(ROOT, "docs", "report.schema.json"), encoding="utf-8") as schema_file:
    SCHEMA = jsonschema.Draft7Validator(json.load(schema_file))


def make(recipe, path):
    subprocess.run([MAKER, "-", path], input=recipe, text=True, check=True)


class Cli(unittest.TestCase):
    templates = {}

    @classmethod
    def setUpClass(cls):
        cls.base = tempfile.mkdtemp(prefix="vol-repair-cli-")
        for name, recipe in (("leaky", LEAKY), ("bad", BAD), ("clean", "image size=64M\nwrite 0 256K pattern=1\n")):
            cls.templates[name] = os.path.join(cls.base, name)
            make(recipe, cls.templates[name])
        # 128 MiB of L2 tables: long enough to be interrupted, and sound, so that a repair writes nothing.
        cls.large = os.path.join(cls.base, "large")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", cls.large, "1T"],
                       check=True)
        # Under this name the program's error lines are those of qemu-img.
        os.makedirs(os.path.join(cls.base, "bin"))
        cls.named = os.path.join(cls.base, "bin", "qemu-img")
        os.symlink(PROGRAM, cls.named)
        # For another user, who may not be let into the tree.
        cls.copy = shutil.copy(PROGRAM, os.path.join(cls.base, "bin", "vol-repair"))

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.base)

    def test_note(self):
        """A remark of the caller's is a sentence in the report, whatever is in the name; others are refused."""
        run = subprocess.run([PROGRAM, f"--accel={ACCEL}", "--mode=check", "--output=json", "--note=managed-save:a%s\n\"b",
                              "--note=overlay:c:d", self.path("clean")], capture_output=True, text=True, check=True)
        report = json.loads(run.stdout)
        SCHEMA.validate(report)
        self.assertEqual([(n["id"], n["name"]) for n in report["notes"]], [("managed-save", "a%s\n\"b"), ("overlay", "c:d")])
        self.assertIn("The domain 'a%s\n\"b' was saved", report["notes"][0]["text"])
        for bad in (["x:y"], ["overlay"], ["overlay:"], [":y"], ["overlay:" + "x" * 1024], ["overlay:x"] * 17):
            run = subprocess.run([PROGRAM, *(f"--note={b}" for b in bad), self.path("clean")], capture_output=True, text=True,
                                 check=False)
            self.assertEqual((run.returncode, "--note expects" in run.stderr), (1, True), bad)

    def setUp(self):
        self.dir = tempfile.mkdtemp(dir=self.base)
        for name, path in self.templates.items():
            shutil.copyfile(path, self.path(name))
        with open(self.path("raw"), "wb") as file:
            file.truncate(1 << 20)
        with open(self.path("empty"), "wb"):
            pass

    def path(self, name):
        return os.path.join(self.dir, name)

    def read(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()

    def run_tool(self, command, **kwargs):
        kwargs.setdefault("timeout", 60)
        return subprocess.run(command, cwd=self.dir, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              check=False, env={"HOME": self.dir, "PATH": os.environ["PATH"], "LC_ALL": "C"}, **kwargs)

    def ours(self, *args, **kwargs):
        if any(arg.startswith(("-r", "--mode=leaks", "--mode=all", "--mode=undo")) for arg in args) and \
                not any(arg.startswith("--undo=") for arg in args):
            args = ("--undo=j.undo",) + args
        return self.run_tool([PROGRAM, f"--accel={ACCEL}", *args], **kwargs)

    def report(self, text):
        document = json.loads(text)
        SCHEMA.validate(document)
        return document

    def same_as_qemu(self, *args):
        """Both on the same bytes: exit status, standard output, standard error."""
        before = {name: self.read(name) for name in os.listdir(self.dir) if os.path.isfile(self.path(name))}
        qemu = self.run_tool(["qemu-img", "check", *args])
        for name, data in before.items():
            with open(self.path(name), "wb") as file:
                file.write(data)
        got = self.run_tool([self.named, "check", f"--accel={ACCEL}", "--undo=j.undo", *args])
        with self.subTest(args=args):
            self.assertEqual((got.returncode, got.stdout, got.stderr), (qemu.returncode, qemu.stdout, qemu.stderr))

    # ---- in place of qemu-img check -----------------------------------------------------------------------

    def test_usage(self):
        version = self.run_tool(["qemu-img", "--version"]).stdout.split()[2]
        if not version.startswith("7.2"):
            print(f"SKIP test_usage: qemu-img is {version} here, and our lines are those of 7.2", file=sys.stderr)
            self.skipTest("another qemu-img")
        for args in ([], ["clean", "bad"], ["-r"], ["-r", "foo", "clean"], ["--output=xml", "clean"], ["-f"],
                     ["-T", "bad", "clean"], ["--foo", "clean"], ["-U", "-r", "all", "clean"], [""],
                     ["--image-opts", "-f", "qcow2", "clean"]):
            self.same_as_qemu(*args)

    def test_not_an_image(self):
        for args in (["raw"], ["empty"], ["-r", "all", "raw"], ["-f", "qcow2", "raw"], ["-f", "qcow2", "empty"],
                     ["-f", "raw", "clean"], ["-f", "foo", "clean"], ["missing"], ["."], ["-f", "raw", "missing"],
                     ["clean/x"]):
            self.same_as_qemu(*args)

    def test_human(self):
        for args in (["clean"], ["leaky"], ["bad"], ["-q", "bad"], ["-U", "bad"], ["bad", "-f", "qcow2"],
                     ["-r", "leaks", "clean"], ["-r", "leaks", "-r", "all", "clean"], ["-T", "none", "clean"],
                     ["file:leaky"], ["-q", "--output=json", "leaky"],
                     ["--image-opts", "driver=qcow2,file.filename=leaky"],
                     ["--image-opts", "driver=qcow2,file.filename=a,,b"],
                     ["--image-opts", "driver=qcow2,foo=bar,file.filename=clean"], ["--image-opts", "clean"]):
            self.same_as_qemu(*args)

    def test_repair_summary(self):
        """qemu-img names a finding again when it mends it; all else is equal."""
        for mode in ("leaks", "all"):
            shutil.copyfile(self.path("bad"), self.path("copy"))
            qemu = self.run_tool(["qemu-img", "check", "-r", mode, "copy"])
            shutil.copyfile(self.path("bad"), self.path("copy"))
            got = self.ours("-r", mode, "copy")
            self.assertEqual((got.returncode, got.stdout), (qemu.returncode, qemu.stdout))
            again = [line for line in qemu.stderr.splitlines() if line.startswith("Repairing")]
            self.assertEqual([line for line in got.stderr.splitlines() if line.startswith("Repairing")], again)

    def test_json(self):
        for image in ("clean", "leaky", "bad"):
            qemu = self.run_tool(["qemu-img", "check", "--output=json", image])
            got = self.ours("--output=json", image)
            wanted = qemu.stdout.rstrip("}\n")
            self.assertTrue(got.stdout.startswith(wanted + ","), got.stdout)
            self.assertEqual(got.returncode, qemu.returncode)
            document = self.report(got.stdout)
            self.assertEqual([key for key in document if key in QEMU_KEYS], list(json.loads(qemu.stdout)))

    # ---- reports ------------------------------------------------------------------------------------------

    def test_report_whatever_the_outcome(self):
        outcomes = {"clean": ("clean", 0), "leaky": ("leaks-remain", 3), "bad": ("corruptions-remain", 2),
                    "raw": ("refused", 63), "missing": ("failed", 1)}
        for image, (verdict, status) in outcomes.items():
            done = self.ours("--mode=check", "--report=r.json", image)
            document = self.report(self.read("r.json"))
            self.assertEqual((document["verdict"], document["exit-code"], done.returncode), (verdict, status, status))
            self.assertEqual("error" in document, status in (1, 63))
        self.assertEqual(os.listdir(self.dir).count("r.json"), 1)
        self.assertFalse([name for name in os.listdir(self.dir) if name.startswith("r.json.")])

    def test_report_fd(self):
        with open(self.path("r.json"), "w+b") as file:
            file.write(b"x" * 100000)
            file.flush()
            self.ours("--mode=check", f"--report-fd={file.fileno()}", "leaky", pass_fds=[file.fileno()])
        self.assertEqual(self.report(self.read("r.json"))["leaks"], 1)

    def test_max_messages(self):
        make("image size=64M\nwrite 0 1M pattern=1\neach i in 0..15 poke l1[0].l2[i] = 0\nraises leaked-cluster\n",
             self.path("many"))
        done = self.ours("--max-messages=3", "many")
        self.assertEqual(done.stderr.splitlines()[3:],
                         ["13 more findings of 'leaked-cluster' are counted and not shown (--max-messages)"])
        document = self.report(self.ours("--max-messages=0", "--output=json", "many").stdout)
        self.assertEqual(document["leaks"], 16)
        self.assertNotIn("examples", document["problems"][0])

    def events(self, done):
        events = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual(events[0]["event"], "start")
        self.assertEqual([event["event"] for event in events].count("report"), 1)
        percents = [event["percent"] for event in events if event["event"] == "progress"]
        self.assertEqual(percents, sorted(percents))
        self.assertEqual(events[-1]["event"], "report")
        SCHEMA.validate(events[-1]["report"])
        return events

    def test_stream(self):
        for args in (["--mode=check", "bad"], ["--mode=all", "bad"], ["--mode=undo", "bad"], ["--mode=all", "raw"],
                     ["--mode=check", "missing"]):
            done = self.ours("--stream", "--name=pool/disk", *args)
            events = self.events(done)
            self.assertEqual(events[0]["mode"], args[0][len("--mode="):])
            self.assertEqual(events[0]["filename"], "pool/disk")
            self.assertEqual(events[-1]["report"]["exit-code"], done.returncode)
            self.assertEqual(events[-1]["report"]["filename"], "pool/disk")

    # ---- undo -----------------------------------------------------------------------------------------------

    def test_undo(self):
        before = self.read("bad")
        done = self.ours("--mode=all", "--report=r.json", "bad")
        document = self.report(self.read("r.json"))
        self.assertEqual((done.returncode, document["verdict"], document["image-changed"]), (0, "repaired", True))
        self.assertEqual(document["undo"]["journal"], "j.undo")
        self.assertNotEqual(self.read("bad"), before)
        done = self.ours("--mode=undo", "bad")
        self.assertEqual((done.returncode, self.read("bad")), (0, before))
        self.assertIn("byte for byte", done.stdout)
        done = self.ours("--mode=undo", "bad")
        self.assertEqual((done.returncode, self.read("bad")), (0, before))
        self.assertIn("nothing was written", done.stdout)

    def test_undo_refusals(self):
        self.ours("--mode=all", "bad")
        for args, words in ((["raw"], "belongs to another image"), (["clean"], "is another image"),
                            (["--undo=raw", "bad"], "is not an undo journal"),
                            (["--undo=missing", "bad"], "No such file")):
            before = self.read(args[-1])
            done = self.ours("--mode=undo", *args)
            self.assertEqual((done.returncode, self.read(args[-1])), (1, before))
            self.assertIn(words, done.stderr)
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write 8M 1M", self.path("bad")], check=True,
                       stdout=subprocess.DEVNULL)
        before = self.read("bad")
        done = self.ours("--mode=undo", "bad")
        self.assertEqual((done.returncode, self.read("bad")), (1, before))
        self.assertIn("was changed since", done.stderr)

    def test_default_journal(self):
        """Of a user; root's would lie outside of this test. KVM is not every user's."""
        environment = {"HOME": self.dir, "XDG_STATE_HOME": self.path("state"), "LC_ALL": "C"}
        before = self.read("bad")
        user = {}
        if os.geteuid() == 0:
            user = {"user": 65534, "group": 65534, "extra_groups": []}
            os.chmod(self.base, 0o755)
            for path in (self.dir, self.path("bad")):
                os.chown(path, 65534, 65534)
        for args in (["--mode=all"], ["--mode=undo"]):
            done = subprocess.run([self.copy, "--accel=process", *args, self.path("bad")], env=environment, check=False,
                                  capture_output=True, cwd="/", **user)
            self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.read("bad"), before)
        where = os.path.join(self.path("state"), "vol-repair", "undo")
        self.assertEqual(os.stat(where).st_mode & 0o777, 0o700)

    def test_nothing_to_do_leaves_no_journal(self):
        done = self.ours("--mode=all", "clean")
        self.assertEqual(done.returncode, 0)
        self.assertFalse([name for name in os.listdir(self.dir) if name.startswith("j.undo")])

    def test_interrupted_repair(self):
        before = self.read("bad")
        done = self.run_tool([PROGRAM + "-test", f"--accel={ACCEL}", "--undo=j.undo", "--mode=all", "--test-crash-after=1", "bad"])
        self.assertEqual(done.returncode, -signal.SIGKILL)
        done = self.ours("--mode=check", "--undo=j.undo", "bad")
        self.assertIn("was interrupted while it wrote", done.stderr)
        done = self.ours("--mode=all", "--undo=j.undo", "bad")
        self.assertIn("it was rolled back first", done.stderr)
        self.assertEqual(done.returncode, 0)
        self.ours("--mode=undo", "bad")
        self.assertEqual(self.read("bad"), before)

    # ---- descriptors, dangers, signals -------------------------------------------------------------------------

    def test_image_fd(self):
        flags = {"--mode=check": os.O_RDONLY, "--mode=all": os.O_RDWR}
        for mode, access in flags.items():
            for given in flags.values():
                fd = os.open(self.path("leaky"), given)
                done = self.ours(mode, f"--image-fd={fd}", "disk", pass_fds=[fd])
                os.close(fd)
                self.assertEqual(done.returncode == 1, given != access, done.stderr)
        self.assertEqual(self.ours("--mode=check", "--image-fd=77", "disk").returncode, 1)

    def test_never_over_the_image(self):
        before = self.read("bad")
        os.link(self.path("bad"), self.path("link"))
        fd = os.open(self.path("bad"), os.O_RDWR)
        for args in (["--report=bad"], ["--report=link"], [f"--report-fd={fd}"], ["--mode=all", "--undo=bad"],
                     ["--mode=all", "--undo=link"], ["--mode=all", "--undo=raw"]):
            done = self.ours(*args, "bad", pass_fds=[fd])
            self.assertEqual((done.returncode, self.read("bad")), (1, before), args)
        # Neither when the image is busy, and so was never opened.
        holder = subprocess.Popen(["qemu-io", "-f", "qcow2", self.path("bad")], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE)
        try:
            self.assertTrue(holder.stdout.read(1))  # its prompt
            done = self.ours("--mode=check", "--report=link", "bad")
        finally:
            holder.communicate(b"quit\n")
        os.close(fd)
        self.assertEqual(done.returncode, 1)
        self.assertEqual(os.stat(self.path("link")).st_ino, os.stat(self.path("bad")).st_ino)
        self.assertEqual(len(self.read("raw")), 1 << 20)

    def test_report_into_what_is_no_file(self):
        """A FIFO, or a device, is written to; a symbolic link leads who knows where. None is ever replaced."""
        os.mkfifo(self.path("fifo"))
        os.symlink("report.json", self.path("link.json"))
        os.symlink("fifo", self.path("link.fifo"))
        for name in ("fifo", "link.fifo"):
            reader = subprocess.Popen(["cat", self.path("fifo")], stdout=subprocess.PIPE)
            done = self.ours("--mode=check", f"--report={name}", "leaky")
            self.assertEqual(json.loads(reader.communicate(timeout=20)[0])["verdict"], "leaks-remain")
            self.assertEqual(done.returncode, 3)
        self.assertTrue(stat.S_ISFIFO(os.lstat(self.path("fifo")).st_mode))
        for name in ("link.json", "."):
            done = self.ours("--mode=check", f"--report={name}", "leaky")
            self.assertEqual((done.returncode, "neither a file nor" in done.stderr), (1, True), done.stderr)
        self.assertTrue(os.path.islink(self.path("link.json")) and not os.path.exists(self.path("report.json")))

    def signalled(self, number):
        """A repair that got this signal while it checked; (exit status, output, errors)."""
        for _ in range(5):
            process = subprocess.Popen([PROGRAM, f"--accel={ACCEL}", "--mode=all", "--undo=j.undo", "--stream",
                                        self.large],
                                       cwd=self.dir, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            process.stdout.readline()
            while b"progress" not in process.stdout.readline():
                continue
            process.send_signal(number)
            rest, errors = process.communicate(timeout=60)
            if process.returncode != 0:
                break  # else a busy machine let it end before the signal was there
        return process.returncode, rest, errors

    def test_signals(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            status, rest, errors = self.signalled(number)
            self.assertEqual(status, 1)
            self.assertEqual(json.loads(rest.splitlines()[-1])["report"]["error"], "aborted")
            self.assertEqual(errors, b"vol-repair: aborted\n")

    def test_reader_gone(self):
        process = subprocess.Popen([PROGRAM, f"--accel={ACCEL}", "--mode=check", "--stream", "--report=r.json",
                                    self.large],
                                   cwd=self.dir, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        process.stdout.readline()
        process.stdout.close()
        self.assertEqual(process.wait(timeout=60), 1)
        self.assertEqual(self.report(self.read("r.json"))["error"], "aborted")

    def test_output_that_cannot_be_written(self):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([PROGRAM, f"--accel={ACCEL}", self.path("clean")], stdout=full, check=False)
        self.assertEqual(done.returncode, 1)

    def test_closed_descriptors(self):
        done = subprocess.run(f"exec {PROGRAM} --accel={ACCEL} {self.path('leaky')} <&- >&- 2>&-", shell=True,
                              check=False)
        self.assertEqual(done.returncode, 3)

    def test_small_memory(self):
        done = self.ours("--memory=1M", "clean")
        self.assertEqual(done.returncode, 1)
        self.assertIn("--memory", done.stderr)


if ACCEL == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
    print("SKIP: /dev/kvm cannot be used here")
    sys.exit(77)
got = unittest.main(argv=[sys.argv[0]] + sys.argv[3:], exit=False).result
bad, skipped = len({str(test) for test, _ in got.failures + got.errors}), len(got.skipped)
print(f"{got.testsRun - bad - skipped} passed, {bad} failed, {skipped} skipped")
sys.exit(not got.wasSuccessful())
