#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""run.py: takes each protection away once, in a copy of the tree, and demands that the test which stands for it fails.

run.py [--texts] [WORD...]. Each protection is a build and a test of its own, so ./run soak runs it; ./run test only sees
with --texts that the table still fits the tree. The rules of the ring are taken from ring.c itself, and their tests from
the table of attacks: a rule that no attack breaks fails here.
"""
import argparse
import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from patience import seconds  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent.parent
HOSTILE, ERRORS, LIBVIRT = 'tests/hostile/run.py', 'tests/errors/run.py', 'tests/libvirt/run.py'
JOURNALS = 'tests/errors/journals.py'
BOUNDS = 'tests/bounds/run.py'
UNIT_JOB, UNIT_UNDO = 'unit/front/test_front_job', 'unit/vmm/test_vmm_undo'  # programs of the build


@dataclass
class Mutant:
    """In file, old becomes new; then command, with these words, has to fail."""
    name: str
    file: str
    old: str
    new: str
    command: str
    words: list


def mutant(name, file, old, new, command, *words):
    return Mutant(name, file, old, new, command, list(words))


COMMON, UNDO, VMM, CLI, REPORT = (f'plugin/{room}/' for room in ('common', 'undo', 'vmm', 'cli', 'report'))
BACKEND, QCOW2 = 'plugin/backend/', 'guest/formats/qcow2/'
TABLE = [
    # the sandbox
    mutant('system calls are filtered', VMM + 'sandbox.c', 'seccomp_init(SCMP_ACT_KILL_PROCESS);\n    int err = f ? 0 : -ENOMEM;\n\n'
           '    err = err ? err : seccomp_attr', 'seccomp_init(SCMP_ACT_LOG);\n    int err = f ? 0 : -ENOMEM;\n\n'
           '    err = err ? err : seccomp_attr', HOSTILE, 'sandbox'),
    mutant('memory is never made executable', VMM + 'sandbox.c', 'SCMP_SYS(mmap), 1,\n'
           '                                       SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));', 'SCMP_SYS(mmap), 0);', HOSTILE, 'sandbox'),
    mutant('ioctl runs the guest and no more', VMM + 'sandbox.c', 'SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_EQ, KVM_RUN));',
           'SCMP_SYS(ioctl), 0);', HOSTILE, 'sandbox'),
    mutant('signals stay in the process', VMM + 'sandbox.c', 'SCMP_SYS(tgkill), 1,\n'
           '                                       SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));', 'SCMP_SYS(tgkill), 0);', HOSTILE, 'sandbox'),
    mutant('the process guest has the ring alone', VMM + 'sandbox.c', 'SCMP_SYS(write), 1,\n'
           '                                       SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)write_fd));', 'SCMP_SYS(write), 0);', HOSTILE),
    mutant('no descriptor is left', VMM + 'sandbox.c', '    (void)close_range(from, ~0u, 0);', '', HOSTILE, 'sandbox'),
    mutant('no environment is left', VMM + 'main.c', '    forget_environment();\n', '    (void)forget_environment;\n', HOSTILE, 'sandbox'),
    mutant('no capability is left', VMM + 'sandbox.c',
           'return capng_apply(bounding ? CAPNG_SELECT_BOTH : CAPNG_SELECT_CAPS) < 0 ? -EPERM : 0;', 'return bounding ? 0 : 0;', HOSTILE, 'sandbox'),
    mutant('root does not run guests', VMM + 'main.c', 'sandbox_drop(cfg->uid, cfg->gid)', 'sandbox_drop(0, 0)', HOSTILE, 'sandbox'),
    mutant('no core of a guest is dumped', VMM + 'sandbox.c', 'prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0', '0', HOSTILE, 'sandbox'),
    mutant('a silent guest is stopped', VMM + 'main.c', 'return limit && atomic_load(&c->in_guest)', 'return 0 && limit',
           HOSTILE, 'endless_loop'),
    mutant("a guest's words are printable", VMM + 'main.c', "text[i] >= ' ' && text[i] <= '~' ? text[i] : '?'", 'text[i]',
           HOSTILE, 'panic_controls'),
    mutant('a guest does not say what was committed', VMM + 'ring.c', '    copy.committed = r->committed;\n', '', HOSTILE,
           'claims_commit'),
    mutant('a request is copied once', VMM + 'ring.c', 'dispatch(r, &q, n <= INLINE_MAX);',
           'dispatch(r, (const struct vr_sqe *)&r->shared->sq[(r->sq_head - 1) % VR_RING_ENTRIES], n <= INLINE_MAX);', HOSTILE,
           'process'),
    # who else has the image
    mutant("QEMU's locks are respected", CLI + 'lock.c', 'bool lock_take(int fd, enum lock_kind kind, const char *shown, GError '
           '**error)\n{', 'bool lock_take(int fd, enum lock_kind kind, const char *shown, GError **error)\n{\n    if (fd >= 0)\n'
           '        return true;', ERRORS, 'image_in_use_by_qemu'),
    mutant('users without locks are seen', CLI + 'image.c', 'in_use_test(img, check, shown, error)', '(check || img)', LIBVIRT,
           'open_elsewhere_without_locks'),
    mutant('a check of a device that is written to is refused', CLI + 'image.c', 'in_use_test(img, check, shown, error)',
           '(check || in_use_test(img, check, shown, error))', LIBVIRT, 'check_of_a_device_that_is_written_to'),
    mutant('who only reads a device does not count in a check', CLI + 'in_use.c', '(st.st_mode & S_IWUSR)', 'true', LIBVIRT,
           'check_of_a_device_that_is_written_to'),
    mutant('users are looked for again before the commit', CLI + 'supervise.c', 'if (!in_use_test(run->img, false,',
           'if (!run->img && !in_use_test(run->img, false,', LIBVIRT, 'device_opened_during_a_repair'),
    mutant('nothing is written before the answer', VMM + 'main.c', 'while (!c->may_commit && !atomic_load(&c->stop))', 'if (0)',
           LIBVIRT, 'device_opened_during_a_repair'),
    mutant('its own processes are no others', CLI + 'in_use.c', ' || parent_of(process) == getpid()', ' || parent_of(process) == -1',
           LIBVIRT, 'kernel_that_cannot_compare'),
    mutant('users of a block device are seen', CLI + 'in_use.c', '    return !found;\n}\n\nbool in_use_test',
           '    return true;\n}\n\nbool in_use_test', LIBVIRT, 'block_device_open_elsewhere'),
    mutant('disks of running domains are seen', BACKEND + 'host/open_image.c', '!device_is_free(vol, to_write, st->st_rdev)', '!device_is_free',
           LIBVIRT, 'block_device_of_a_running_domain'),
    mutant('a mounted block device is seen', BACKEND + 'host/open_image.c', 'O_RDWR | O_EXCL', 'O_RDWR', LIBVIRT,
           'block_device_of_a_running_domain'),
    # a host that fails
    mutant('the image is written after its journal', VMM + 'commit.c', '    if (err)\n        child_fail(c, VMM_FAIL_JOURNAL, err, "");\n',
           '', ERRORS, 'each_error_of_the_journal'),
    mutant('the journal is synced', VMM + 'journal.c', 'err = err ? err : sync_whole(fd, false);', '', ERRORS, 'each_error_of_the_journal'),
    mutant('the end of an epoch is synced', VMM + 'commit.c', 'err = err ? err : sync_whole(w->c->cfg->image_fd, true);', '', ERRORS,
           'each_flush_error_is_rolled_back'),
    mutant('a failed write is rolled back', CLI + 'job.c', 'if (!is_settled(res, ok))', 'if (0 && is_settled(res, ok))', ERRORS,
           'rollback_that_fails_is_tried_again'),
    mutant('the journal says how far a run came', CLI + 'job.c', 'if (!err && !u.whole && !res->commit_begun)',
           'if (!res->commit_begun)', UNIT_JOB),
    mutant('after a sync that failed all is written again', UNDO + 'rollback.c', 'if (to->again) {', 'if (0 && to->again) {', UNIT_UNDO),
    mutant('an undo leaves its mark', UNDO + 'rollback.c', 'if (u->state == VMM_UNDO_READY && u->finished && !u->undoing)',
           'if (u->state == VMM_UNDO_READY && u->finished && u->undoing)', UNIT_UNDO),
    mutant('a whole undo ends its journal', UNDO + 'read.c', '    if (u->spent)\n        return VMM_UNDO_SPENT;\n', '', JOURNALS,
           'spent_journal'),
    mutant('a size alone cuts no image', UNDO + 'read.c', 'if (t->below == 0)', 'if (t->neither > 0 && t->old + t->new == 0)',
           'unit/vmm/test_vmm_undo_damage'),
    mutant('a whole repair is not taken back unasked', UNDO + 'read.c', 'state == VMM_UNDO_READY && !u->complete &&',
           'state == VMM_UNDO_READY &&', ERRORS, 'power_cut_before_the_end_of_the_journal'),
    mutant('an undo is not cut by a signal', CLI + 'recover.c', '    signals_block();\n', '', ERRORS,
           'undo_that_is_interrupted_ends_whole'),
    mutant('a journal is locked', UNDO + 'file.c', 'return fcntl(fd, F_OFD_SETLK, &whole) == 0 ||', 'return whole.l_start == 0 ||',
           ERRORS, 'journal_in_use_by_another_run'),
    mutant('the journal of a copy stays', CLI + 'recover.c', 'if (in->repair && ours && !settle(',
           'if (in->repair && (ours || 1) && !settle(', JOURNALS, 'copy_of_what_was_cut'),
    mutant("another image's journal keeps its name", UNDO + 'file.c', 'if (!info.headed || undodir_kin(',
           'if (info.headed || undodir_kin(', ERRORS, 'journal_of_a_copy'),
    mutant('an interrupted repair is not clean', REPORT + 'result.c', 'if (result_is_interrupted(res) || result_is_corrupt(res))',
           'if (result_is_corrupt(res) && 0)', JOURNALS, 'sound_and_interrupted'),
    mutant('a rollback is a change', REPORT + 'result.c', 'res->image_changed = res->interrupted.rolled_back || ',
           'res->image_changed = ', JOURNALS, 'rollback_alone_is_a_change'),
    mutant('what was interrupted is never given up', UNDO + 'limits.c', '    case VMM_JOURNAL_OPEN:\n    case VMM_JOURNAL_UNDOING:\n'
           '        return true;', '    case VMM_JOURNAL_OPEN:\n    case VMM_JOURNAL_UNDOING:\n        return !limits->days;', JOURNALS,
           'interrupted_journal'),
    mutant('the newest journal of an image stays', UNDO + 'limits.c', 'return is_first(images, j) && ', 'return !images && ', JOURNALS,
           'needed_journals'),
    mutant('journals of an image are bounded', UNDO + 'limits.c', 's->own > s->limits->count', 's->own > 100', JOURNALS,
           'journals_of_'),
    mutant('a device is known by more than its number', UNDO + 'dir.c', 'if (identity[0] && strcmp(identity, img->identity) == 0)',
           'if (identity[0] && img->size == 1)', JOURNALS, 'device_of_another_number'),
    mutant('the name of a device is not enough', UNDO + 'dir.c', '(!identity[0] || !img->is_device)', '(img->path != NULL)',
           'unit/front/test_front_undofile'),
    mutant('a journal is ours alone to write', UNDO + 'dir.c', '!(st->st_mode & (S_IWGRP | S_IWOTH))', 'st->st_mode', JOURNALS,
           'directory_that_others'),
    mutant('a commit is not cut by a signal', VMM + 'commit.c', '    int err = pwrite_all(w->c',
           '    child_check_stop(w->c);\n    int err = pwrite_all(w->c', ERRORS, 'interrupted_in_the_commit'),
    mutant('the size of the image is looked at again', VMM + 'commit.c', '(uint64_t)end == c->cfg->image_size ? 0 : -ESTALE', '0',
           HOSTILE, 'image changes its size'),
    mutant('short reads are gone on with', COMMON + 'fileio.c', 'if (n == 0) {', 'if ((size_t)n < len) {\n            p += n;\n'
           '            len -= (size_t)n;', ERRORS, 'reads_and_writes_in_pieces'),
    mutant('short writes are gone on with', COMMON + 'fileio.c', 'if (n <= 0)\n            return n < 0 ? -errno : -EIO;',
           'return n < 0 ? -errno : 0;', ERRORS, 'reads_and_writes_in_pieces'),
    # libvirt
    mutant('a job is its owner\'s', BACKEND + 'host/identity.c', '(caller[0] && g_str_equal(caller, owner));', '(caller && owner);',
           LIBVIRT, 'jobs_are_their_owners'),
    mutant('the right to write is asked for', BACKEND + 'jobs/job_table.c', 'return access_allows(req->vol, req->mode != MODE_CHECK);',
           'return true;', LIBVIRT, 'repair_needs_the_right_to_write'),
    mutant('and of undo too', BACKEND + 'jobs/job_table.c', 'req->mode != MODE_CHECK);\n}\n\nstatic struct job',
           'req->mode != MODE_CHECK && req->mode != MODE_UNDO);\n}\n\nstatic struct job', LIBVIRT,
           'undo_needs_the_right_to_write'),
    mutant('no caller gets more than the configuration has', BACKEND + 'jobs/job_table.c', 'if (req->opts && !job_options_are_allowed(req->opts, cfg))',
           'if (req->opts && !job_options_are_allowed(req->opts, cfg) && false)', LIBVIRT, 'configuration_is_the_most_that_a_caller_gets'),
    mutant('a volume under repair is not changed', BACKEND + 'entry/guard.c', 'facts && !job_stands_against(facts, only_reads)',
           'facts && (only_reads || !only_reads)', LIBVIRT, 'volume_under_repair_is_not_changed'),
    mutant('a volume under repair is not read', BACKEND + 'entry/guard.c', 'job_stands_against(facts, only_reads)',
           '(!only_reads && job_stands_against(facts, only_reads))', LIBVIRT, 'volume_under_repair_is_not_read'),
    mutant('symbolic links are not followed', BACKEND + 'host/open_image.c', '| O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK', '| O_CLOEXEC | O_NONBLOCK',
           LIBVIRT, 'symbolic_link_is_refused'),
    mutant('a link in a directory of others is not followed', BACKEND + 'host/open_image.c', '!S_ISDIR(st.st_mode) || st.st_uid != 0 ||',
           '!S_ISDIR(st.st_mode) ||', LIBVIRT, 'link_that_others_can_change'),
    mutant('a link leads to a device', BACKEND + 'host/open_image.c', '(!device && S_ISREG(st->st_mode))', 'S_ISREG(st->st_mode)', LIBVIRT,
           'link_that_others_can_change'),
    mutant('an unknown backend is left alone', BACKEND + 'hook/tables.c', 'if (!own && (!expected || found != expected))', 'if (!own && !expected)',
           LIBVIRT, 'unknown_backend_is_left_alone'),
    mutant('no report among devices', BACKEND + 'entry/create_from.c', 'if (pool_type_holds_devices(report->pool_type)) {',
           'if (!report->pool_type) {', LIBVIRT, 'report_in_the_group'),
    mutant('no other format is taken', BACKEND + 'jobs/job_table.c', 'req->mode != MODE_UNDO && !is_qcow2(req, format)',
           'req->mode == MODE_COUNT && !is_qcow2(req, format)', LIBVIRT, 'format_is_checked'),
    mutant('a volume has its own journals', BACKEND + 'jobs/spawn.c', 'return g_build_filename(dir, file, NULL);',
           'return g_build_filename(dir, name, NULL);', LIBVIRT, 'journals_of_other_volumes'),
    mutant('the log gets printable names', BACKEND + 'jobs/syslog.c', 'valid && g_unichar_isprint(c) &&', 'valid || g_unichar_isprint(c) ||', LIBVIRT,
           'syslog.hostile_names'),
    mutant('a list of jobs by others is not read', BACKEND + 'jobs/history.c', 'st.st_uid == geteuid() && !(st.st_mode & 022) &&', '', LIBVIRT,
           'history.damaged_index'),
    mutant('rights are asked for in this daemon', BACKEND + 'host/access.c', '"libvirtd") ? 2 : 1', '"libvirtd") ? 2 : 2', LIBVIRT,
           'drivers_that_rules_speak_of'),
    mutant('an abort of a job that starts is kept', BACKEND + 'jobs/job_table.c', '    if (job->abort_asked)\n        abort_locked(job);\n', '',
           LIBVIRT, 'abort_of_a_job_that_starts'),
    mutant("the daemon's own opens of a device are seen", CLI + 'in_use.c', '(order < 0 && is_kin(process))', 'is_kin(process)',
           LIBVIRT, 'block_device_open_elsewhere'),
    # images that are made to eat memory or time
    mutant('snapshots cannot overlap without end', QCOW2 + 'passes/snapshots.c', '> ctx->file_size + VR_TOGETHER_SLACK', '== 1',
           BOUNDS, 'snapshots_of_one_l1'),
    mutant('bitmaps cannot overlap without end', QCOW2 + 'passes/bitmaps.c', '> w->ctx->file_size + VR_TOGETHER_SLACK', '== 1',
           BOUNDS, 'bitmaps_of_one_table'),
    mutant('a table of many names is judged once', QCOW2 + 'passes/copied.c', 'w.once = VR_CLAIM_SEEN;', 'w.once = 0;', BOUNDS,
           'l1_of_one_table'),
    mutant('a table of many names is read once', QCOW2 + 'map/pass_map.c', 'l1.once = VR_CLAIM_VISITED;', 'l1.once = 0;', BOUNDS,
           'l1_of_one_table'),
    mutant('a block of many names is not written', QCOW2 + 'passes/reftable.c',
           'vr_refmap_uncapped(&img->refs, offset >> img->h.cluster_bits) > 1', '0', BOUNDS, 'smallest_clusters'),
]


def rules_of_the_ring():
    """A mutant for each rule in ring.c, with the attacks that are to be stopped by it."""
    spec = importlib.util.spec_from_file_location('hostile', ROOT / HOSTILE)
    hostile = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hostile)
    text = (ROOT / VMM / 'ring.c').read_text()
    for match in re.finditer(r'    if \((?P<test>(?:[^;{}]|\n)*?)\)\n\s+violation\(r, "(?P<words>[^"]*)"\);', text):
        attacks = [name for name, entry in hostile.FAILS.items() if entry[1] == match['words']]
        yield mutant(f'the ring: {match["words"]}', VMM + 'ring.c', match[0], match[0].replace(match['test'], f'0 && ({match["test"]})'),
                     HOSTILE, *attacks or ['no attack'])


def run_test(tree, build, m):
    """(exit status, what it printed); None where it did not end. Nothing that it started goes on after it."""
    command = [sys.executable, m.command, '--build', str(build), *m.words] if m.command.endswith('.py') else [build / 'tests' / m.command]
    test = subprocess.Popen(command, cwd=tree, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try:
        output = test.communicate(timeout=seconds(300))[0]
        return test.returncode, output
    except subprocess.TimeoutExpired:
        return None, ''
    finally:
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(test.pid, signal.SIGTERM)
            test.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(test.pid, signal.SIGKILL)
        test.wait()


def text_of(tree, m):
    whole = (tree / m.file).read_text()
    assert whole.count(m.old) == 1, f'{m.file} has the text {whole.count(m.old)} times'
    assert m.words != ['no attack'], 'no attack breaks this rule'
    return whole


def fails_without(tree, build, m):
    """Raises AssertionError where the test does not fail."""
    path, whole = tree / m.file, text_of(tree, m)
    try:
        path.write_text(whole.replace(m.old, m.new))
        done = subprocess.run(['ninja', '-C', build], capture_output=True, text=True)
        assert done.returncode == 0, f'does not build: {done.stdout[-400:]}'
        status, output = run_test(tree, build, m)
        if status is None:
            return 'it never ends'
        assert status != 0, f'{m.command} {" ".join(m.words)} passes without it'
        lines = [line for line in output.splitlines() if re.match(r'(FAIL|failed |\[  FAILED)', line)]
        assert lines, f'no test has failed, but: {output[-300:]}'
        return f'{len(lines)} failed, first: {lines[0][:110]}'
    finally:
        path.write_text(whole)


def copy_tree(to):
    names = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, check=True).stdout.decode().split('\0')
    for name in filter(None, names):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, to / name)


def judge(mutants, test):
    """Returns the exit status."""
    passed = failed = 0
    for m in mutants:
        try:
            details = test(m)
            passed += 1
            if details:
                print(f'passed  {m.name}: {details}', flush=True)
        except AssertionError as error:
            failed += 1
            print(f'FAIL {m.name}: {error}', flush=True)
    print(f'{passed} passed, {failed} failed, 0 skipped')
    return failed != 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--texts', action='store_true', help='only look whether the text of each is there')
    parser.add_argument('words', nargs='*', help='only protections whose name contains one of these')
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    mutants = [m for m in [*rules_of_the_ring(), *TABLE] if not args.words or any(word in m.name for word in args.words)]
    if args.texts:
        return judge(mutants, lambda m: text_of(ROOT, m) and '')
    with tempfile.TemporaryDirectory(prefix='vol-repair-mutants.', dir='/var/tmp') as directory:
        tree, build = Path(directory, 'tree'), Path(directory, 'build')
        copy_tree(tree)
        subprocess.run(['meson', 'setup', '-Dbuildtype=release', '-Dwerror=false', build, tree], check=True,
                       stdout=subprocess.DEVNULL)
        return judge(mutants, lambda m: fails_without(tree, build, m))


if __name__ == '__main__':
    sys.exit(main())
