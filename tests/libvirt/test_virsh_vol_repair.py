# SPDX-License-Identifier: LGPL-2.1-or-later
# virsh vol-repair, end to end: the built front end and client library against a private libvirtd.
import hashlib
import json
import os
import pty
import select
import shlex
import signal
import subprocess
import time
from pathlib import Path

from common import MAGIC, Skip, check_schema, connection, control, jobs, leak, make_image, report_xml, wait_for_state
from lab import wait_until
from patience import seconds


def virsh(t, lab, *args, **kwargs):
    """Our virsh, as a user would type it."""
    return lab.run([program(t), *args], **kwargs)


def program(t, name='bin/virsh'):
    path = t.build / 'virsh-ext' / name
    if not path.exists():
        raise Skip(f'{name} is not built')
    return str(path)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def undo_command(output):
    """What the output says takes the repair back."""
    lines = output.splitlines()
    return shlex.split(lines[next(i for i, line in enumerate(lines) if line.startswith('Undo:')) + 1])


def test_check_leaks_undo(t):
    with t.lab() as lab:
        path = make_image(lab)
        done = virsh(t, lab, 'vol-repair', 'default', 'disk.qcow2')
        assert done.returncode == 0 and "Volume 'disk.qcow2' is all right" in done.stdout, done
        leak(path, 7)
        damaged = digest(path)
        done = virsh(t, lab, 'vol-repair', 'default', 'disk.qcow2')
        assert done.returncode == 3 and 'has leaked space: 7 clusters' in done.stdout, done
        assert 'vol-repair default disk.qcow2 --mode=leaks' in done.stdout, done.stdout
        assert digest(path) == damaged, 'check wrote'
        done = virsh(t, lab, 'vol-repair', 'default', 'disk.qcow2', '--mode=leaks')
        assert done.returncode == 0 and 'is repaired' in done.stdout and not done.stderr, done
        assert digest(path) != damaged
        undo = undo_command(done.stdout)
        assert undo == ['virsh', 'vol-repair', 'default', 'disk.qcow2', '--mode=undo']
        done = virsh(t, lab, *undo[1:])
        assert done.returncode == 0 and 'is again what it was' in done.stdout, done
        assert digest(path) == damaged


def test_nothing_is_all_right_that_qemu_does_not_open(t):
    with t.lab() as lab:
        path = make_image(lab)
        with open(path, 'r+b') as image:
            image.seek(79)
            image.write(b'\2')
        done = virsh(t, lab, 'vol-repair', 'default', 'disk.qcow2')
        assert done.returncode == 0 and 'all right' not in done.stdout and 'cannot be used yet' in done.stdout, done
        assert 'is marked corrupt: QEMU does not open it' in done.stdout and '--mode=all' in done.stdout, done
        done = virsh(t, lab, 'vol-repair', 'default', 'disk.qcow2', '--mode=all')
        assert done.returncode == 0 and 'is repaired' in done.stdout and 'marked corrupt' not in done.stdout, done
        undo = undo_command(done.stdout)
        assert virsh(t, lab, *undo[1:]).returncode == 0
        leak(path, 7)
        tool = str(t.build / 'plugin' / 'cli' / 'vol-repair-test')
        lab.run([tool, '--accel=process', '--mode=all', '--test-crash-after=1', str(path)])
        done = virsh(t, lab, 'vol-repair', 'default', 'disk.qcow2')
        assert 'all right' not in done.stdout and 'was interrupted while it wrote' in done.stdout, done
        assert 'vol-repair default disk.qcow2 --mode=undo' in done.stdout, done.stdout
        done = virsh(t, lab, 'vol-repair', 'default', 'disk.qcow2', '--mode=all')
        assert done.returncode == 0 and 'was rolled back first' in done.stdout and 'is repaired' in done.stdout, done


def test_ways_to_name_a_volume(t):
    with t.lab() as lab:
        path = make_image(lab)
        for words in (['default', 'disk.qcow2'], [str(path)], ['--pool', 'default', 'disk.qcow2'],
                      ['default', str(path)], ['--vol=disk.qcow2', 'default'], ['--vol', str(path)],
                      ['disk.qcow2', '--pool=default']):
            done = virsh(t, lab, 'vol-repair', *words)
            assert done.returncode == 0, (words, done)
        for words in (['default', 'none'], ['nowhere', 'disk.qcow2'], ['/no/such/path']):
            done = virsh(t, lab, 'vol-repair', *words)
            assert done.returncode == 1 and done.stderr.startswith('error: failed to get '), (words, done)
            assert all(line.startswith('error: ') for line in done.stderr.splitlines()), done.stderr


def test_name_that_looks_like_an_option(t):
    with t.lab() as lab:
        leak(make_image(lab, name='--mode=undo'), 1)
        done = virsh(t, lab, 'vol-repair', '--mode=leaks', '--', 'default', '--mode=undo')
        assert done.returncode == 0, done
        undo = undo_command(done.stdout)
        assert virsh(t, lab, *undo[1:]).returncode == 0, undo


def test_json_of_a_name_that_could_steer_a_terminal(t):
    name = 'a\x9b31m\u202e.qcow2'
    with t.lab('clean') as lab:
        make_image(lab, name, data=None)
        done = virsh(t, lab, 'vol-repair', 'default', name, '--json')
        assert json.loads(done.stdout)['filename'].endswith('/' + name), done
        assert '\x9b' not in done.stdout and '\u202e' not in done.stdout, done.stdout


def test_json(t):
    with t.lab() as lab:
        leak(make_image(lab), 3)
        done = virsh(t, lab, 'vol-repair', 'default', 'disk.qcow2', '--json', '--max-messages', '1')
        report = json.loads(done.stdout)
        check_schema(report)
        assert done.returncode == report['exit-code'] == 3 and report['leaks'] == 3, report
        assert len(report['problems'][0]['examples']) == 1, report['problems']


def test_options_reach_the_program(t):
    with t.lab('clean') as lab:
        make_image(lab)
        done = virsh(t, lab, 'vol-repair', 'default', 'disk.qcow2', '--json', '--mode=undo', '--accel=process',
                     '--memory=64M', '--timeout=7', '--max-messages=3', '--undo=some.undo', '--format=qcow2')
        argv = json.loads(done.stdout)['argv']
        for option in ('--mode=undo', '--accel=process', '--timeout=7', '--max-messages=3', f'--memory={64 << 20}'):
            assert option in argv, (option, argv)
        assert any(a.startswith('--undo=') and a.endswith('.some.undo') for a in argv), argv


def test_verbose_lists_findings(t):
    with t.lab() as lab:
        leak(make_image(lab), 2)
        plain = virsh(t, lab, 'vol-repair', 'default', 'disk.qcow2').stdout
        verbose = virsh(t, lab, 'vol-repair', 'default', 'disk.qcow2', '--verbose').stdout
        assert len(verbose.splitlines()) == len(plain.splitlines()) + 2, verbose


def test_not_qcow2(t):
    with t.lab() as lab:
        subprocess.run(['qemu-img', 'create', '-q', '-f', 'raw', lab.pool_dir / 'x.raw', '1M'], check=True)
        lab.virsh('pool-refresh', 'default')
        done = virsh(t, lab, 'vol-repair', 'default', 'x.raw')
        assert done.returncode == 63 and "has the format 'raw'" in done.stderr, done


def test_no_extension(t):
    """A daemon with the stock module, or with the extension switched off, has none; that is one clear sentence."""
    stock = next(Path('/usr').glob('lib*/**/libvirt/storage-backend'))
    for lab in (t.lab('clean', settings={'enabled': '0'}),
                t.lab('clean', daemon_env={'LIBVIRT_STORAGE_BACKEND_DIR': str(stock)})):
        with lab:
            make_image(lab)
            done = virsh(t, lab, 'vol-repair', 'default', 'disk.qcow2', '--mode=all')
            assert done.returncode == 1, done
            assert 'error: the storage daemon of this host has no vol-repair extension\n' in done.stderr, done.stderr


def test_daemon_dies(t):
    with t.lab('slow') as lab, connection(lab) as conn:
        make_image(lab)
        client = subprocess.Popen(lab.command([program(t), 'vol-repair', 'default', 'disk.qcow2']), env=lab.env,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_for_state(conn, 'running')
        wait_until(lambda: int(jobs(conn)[0]['percent']) > 0, 10)
        lab.stop(signal.SIGKILL)
        _, err = client.communicate(timeout=seconds(30))
        assert client.returncode == 1, err
        assert 'The connection to job 1 is lost; waiting for the storage daemon to come back.' in err, err
        assert 'error: the connection to the job is lost (' in err and 'a check writes nothing' in err, err
        assert "the volume 'job-1-disk.qcow2.json' of the pool 'vol-repair' tells" in err, err


def cut_off(t, lab, mode, sig, restart=True):
    """A client whose daemon goes away in the middle of the job; its status, output and error output."""
    with connection(lab) as conn:
        make_image(lab)
        client = subprocess.Popen(lab.command([program(t), 'vol-repair', 'default', 'disk.qcow2', f'--mode={mode}']), env=lab.env,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_for_state(conn, 'running')
        wait_until(lambda: int(jobs(conn)[0]['percent']) > 0, 10)
    lab.stop(sig)
    if restart:
        lab.start()
    out, err = client.communicate(timeout=seconds(60))
    return client.returncode, out, err


def test_daemon_restarts_before_the_commit(t):
    """Nothing was written, and the client says so, from the report of the job."""
    for sig in (signal.SIGTERM, signal.SIGKILL):
        with t.lab('slow') as lab:
            status, out, err = cut_off(t, lab, 'all', sig)
            assert status == 1 and 'waiting for the storage daemon' in err and 'error: aborted' in err, (status, err)
            assert 'nothing was written' in out, out


def test_daemon_restarts_during_the_commit(t):
    """The program finishes what it writes, and the client waits for that: the outcome is what it would have been."""
    with t.lab('finishing') as lab:
        status, out, err = cut_off(t, lab, 'all', signal.SIGKILL)
        assert undo_command(out) == ['virsh', 'vol-repair', 'default', 'disk.qcow2', '--mode=undo'], out
        assert status == 0 and 'is repaired' in out and 'waiting for the storage daemon' in err, (status, out, err)


def test_daemon_does_not_come_back(t):
    for script, known in (('slow', 'had written nothing, and it ends without writing unless it has begun since'),
                          ('finishing', 'had begun to write, and finishes that')):
        with t.lab(script) as lab:
            status, _, err = cut_off(t, lab, 'all', signal.SIGKILL, restart=False)
            assert status == 1 and known in err, err


def test_helper_missing(t):
    with t.lab(settings={'helper': '/no/such/program'}) as lab:
        make_image(lab)
        done = virsh(t, lab, 'vol-repair', 'default', 'disk.qcow2')
        assert done.returncode == 1 and "cannot run its repair program '/no/such/program'" in done.stderr, done


def test_read_only_connection_is_refused(t):
    with t.lab('clean') as lab:
        make_image(lab)
        done = virsh(t, lab, '-r', 'vol-repair', 'default', 'disk.qcow2')
        assert done.returncode == 1 and 'read-only connection' in done.stderr, done


def test_helper_dies(t):
    with t.lab('die') as lab:
        make_image(lab)
        done = virsh(t, lab, 'vol-repair', 'default', 'disk.qcow2', '--mode=all')
        assert done.returncode == 1 and 'error: the repair program was killed by signal 9' in done.stderr, done


def test_report_is_gone(t):
    """Not even the daemon has one to show."""
    with t.lab('die', settings={'reports_dir': '/proc/none'}) as lab:
        make_image(lab)
        done = virsh(t, lab, 'vol-repair', 'default', 'disk.qcow2', '--mode=all')
        assert done.returncode == 1 and 'the job ended without a report' in done.stderr, done


def test_endless_line(t):
    """The daemon cuts it off; what reaches the client is a stream without a report, and then the daemon's own."""
    with t.lab('endless') as lab, connection(lab) as conn:
        make_image(lab)
        done = virsh(t, lab, 'vol-repair', 'default', 'disk.qcow2', '--mode=all')
        assert done.returncode == 1 and 'the repair program ended with status 1 and no report' in done.stderr, done
        wait_for_state(conn, 'done')


def test_long_report(t):
    with t.lab('flood') as lab:
        make_image(lab)
        done = virsh(t, lab, 'vol-repair', 'default', 'disk.qcow2', '--json')
        assert done.returncode == 0 and len(json.loads(done.stdout)['padding']) == 3000000, done.stderr


def abort_with(t, lab, conn, sig, mode='all'):
    """Starts a slow job, sends the signal; (process, standard output, standard error)."""
    argv = lab.command([program(t), 'vol-repair', 'default', 'disk.qcow2', f'--mode={mode}'])
    client = subprocess.Popen(argv, env=lab.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_state(conn, 'running')
    wait_until(lambda: int(jobs(conn)[0]['percent']) > 0, 10)
    client.send_signal(sig)
    out, err = client.communicate(timeout=seconds(20))
    return client, out, err


def test_signal_aborts_and_the_report_comes(t):
    with t.lab('slow') as lab, connection(lab) as conn:
        make_image(lab)
        for sig in (signal.SIGINT, signal.SIGTERM):
            client, out, err = abort_with(t, lab, conn, sig)
            assert client.returncode == 1, (client.returncode, err)
            assert 'Aborting at a safe point' in err and 'error: aborted' in err, err
            assert 'nothing was written' in out, out
            assert wait_for_state(conn, 'done')['verdict'] == 'failed'


def test_abort_beside_a_job_with_a_report_elsewhere(t):
    """A job whose report goes into another pool is listed with the volume's; ours is found all the same."""
    with t.lab('slow') as lab, connection(lab) as conn:
        make_image(lab)
        make_image(lab, name='other.qcow2')
        (lab.dir / 'reports').mkdir()
        assert lab.virsh('pool-create-as', 'reports', 'dir', '--target', str(lab.dir / 'reports')).returncode == 0
        xml = t.tmp / 'report.xml'
        xml.write_text(report_xml('other.qcow2.repair-all.json'))
        argv = lab.command(['/usr/bin/virsh', 'vol-create-from', 'reports', str(xml), 'other.qcow2', '--inputpool', 'default'])
        theirs = subprocess.Popen(argv, env=lab.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            assert wait_for_state(conn, 'running')['pool'] == 'default'
            client, out, err = abort_with(t, lab, conn, signal.SIGINT)
            assert client.returncode == 1 and 'error: aborted\n' in err and 'nothing was written' in out, (out, err)
        finally:
            control(conn, "<vol-repair request='abort' job='1'/>")
            theirs.wait(20)


def test_nothing_more_runs_after_a_signal(t):
    with t.lab('slow') as lab, connection(lab) as conn:
        make_image(lab)
        argv = lab.command([program(t), 'vol-repair default disk.qcow2 --mode=all; echo never; vol-repair default x'])
        client = subprocess.Popen(argv, env=lab.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_for_state(conn, 'running')
        client.send_signal(signal.SIGINT)
        out, err = client.communicate(timeout=seconds(20))
        assert client.returncode == 1 and 'error: aborted\n' in err, (client.returncode, err)
        assert 'never' not in out and 'failed to get vol' not in err, (out, err)


def test_report_that_cannot_be_printed(t):
    with t.lab('clean') as lab, open('/dev/full', 'w') as full:
        make_image(lab)
        for more in ([], ['--json']):
            done = virsh(t, lab, 'vol-repair', 'default', 'disk.qcow2', *more, stdout=full)
            assert done.returncode == 1 and 'error: Failed to write to standard output' in done.stderr, done


def test_abort_of_one_of_two_checks(t):
    """Where the job cannot be told from another client's, only the stream is ended: the other job goes on."""
    with t.lab('slow') as lab, connection(lab) as conn, connection(lab) as other:
        make_image(lab)
        argv = lab.command(['/usr/bin/virsh', 'vol-download', '--pool', 'default', 'disk.qcow2', '/dev/null',
                            '--offset', str(MAGIC)])
        theirs = subprocess.Popen(argv, env=lab.env, stdout=subprocess.DEVNULL)
        try:
            wait_for_state(conn, 'running')
            client, _, err = abort_with(t, lab, conn, signal.SIGINT, mode='check')
            assert client.returncode == 1 and 'error: aborted; the job ends at a safe point' in err, err
            assert wait_until(lambda: [j['state'] for j in jobs(other)] == ['done', 'running'], 10), jobs(other)
        finally:
            theirs.kill()
            theirs.wait()


def test_second_signal_leaves_at_once(t):
    with t.lab('slow') as lab, connection(lab) as conn:
        make_image(lab)
        argv = lab.command([program(t), 'vol-repair', 'default', 'disk.qcow2', '--mode=all'])
        client = subprocess.Popen(argv, env=lab.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        wait_for_state(conn, 'running')
        os.kill(lab.daemon.pid, signal.SIGSTOP)
        try:
            client.send_signal(signal.SIGINT)
            time.sleep(0.5)
            assert client.poll() is None, 'the first signal ended it'
            client.send_signal(signal.SIGINT)
            client.communicate(timeout=seconds(10))
        finally:
            os.kill(lab.daemon.pid, signal.SIGCONT)
        assert client.returncode == -signal.SIGINT
        assert wait_for_state(conn, 'done')['verdict'] == 'failed'


def read_terminal(master, client):
    """All that a process writes to its terminal."""
    data = b''
    while True:
        ready, _, _ = select.select([master], [], [], 0.2)
        if ready:
            try:
                data += os.read(master, 65536)
            except OSError:
                return data.decode()
        elif client.poll() is not None:
            return data.decode()


def on_terminal(t, lab, *args):
    master, slave = pty.openpty()
    try:
        argv = lab.command([program(t), 'vol-repair', 'default', 'disk.qcow2', *args])
        client = subprocess.Popen(argv, env=lab.env, stdin=slave, stdout=subprocess.PIPE, stderr=slave, text=True)
        text = read_terminal(master, client)
        client.communicate(timeout=seconds(20))
        return text
    finally:
        os.close(slave)
        os.close(master)


def test_bar_on_a_terminal(t):
    with t.lab('brief') as lab:
        make_image(lab)
        text = on_terminal(t, lab, '--mode=all')
        assert '% check' in text and '[====' in text and text.endswith('\r'), text[-200:]
        assert on_terminal(t, lab, '--mode=all', '--no-progress') == ''
        assert virsh(t, lab, 'vol-repair', 'default', 'disk.qcow2', '--mode=all').stderr == ''


def test_terminal_is_told_where_the_host_has_no_kvm(t):
    with t.lab() as lab:
        make_image(lab)
        text = on_terminal(t, lab, '--no-progress')
        told = text.count("no KVM on the daemon's host")
        assert told == (0 if os.access('/dev/kvm', os.R_OK | os.W_OK) else 1), text
        assert 'no KVM' not in on_terminal(t, lab, '--no-progress', '--accel=process')
        assert virsh(t, lab, 'vol-repair', 'default', 'disk.qcow2').stderr == ''


def test_command_string(t):
    with t.lab() as lab:
        leak(make_image(lab, name='two words'), 1)
        done = virsh(t, lab, "pool-list --name; vol-repair default 'two words'; # the end")
        assert done.returncode == 3 and done.stdout.split()[0] == 'default' and 'leaked space' in done.stdout, done
        done = virsh(t, lab, 'vol-repair default "two words" ; pool-list --name')
        assert done.returncode == 0 and 'leaked space' in done.stdout, done
        assert done.stdout.split()[-2:] == ['default', 'vol-repair'], done
        done = virsh(t, lab, 'vol-repair default "two words" --mode=leaks; pool-list --name; no-such-command')
        assert done.returncode == 1 and "unknown command: 'no-such-command'" in done.stderr and not done.stdout, done


def test_stand_alone_program(t):
    with t.lab() as lab:
        leak(make_image(lab), 1)
        env = {k: v for k, v in lab.env.items() if k not in ('LIBVIRT_DEFAULT_URI', 'VIRSH_DEFAULT_CONNECT_URI')}
        done = lab.run([program(t, 'virt-vol-repair'), '-c', lab.uri, '--mode=leaks', 'default', 'disk.qcow2'], env=env)
        assert done.returncode == 0 and 'virt-vol-repair -c ' in done.stdout, done


def test_completion_of_names(t):
    with t.lab('clean') as lab:
        make_image(lab)
        make_image(lab, name='other.qcow2')
        cases = {('vol-repair', ''): {'default'}, ('vol-repair', 'default', 'o'): {'other.qcow2'},
                 ('vol-repair', '--pool', 'default', ''): {'disk.qcow2', 'other.qcow2'},
                 ('vol-repair', '--pool=default', '--vol=d'): {'--vol=disk.qcow2'},
                 ('vol-repair', '--mode', 'le'): {'leaks'}, ('vol-rep',): {'vol-repair'}}
        for words, expected in cases.items():
            done = virsh(t, lab, '-q', 'complete', '--', *words)
            assert set(done.stdout.split()) == expected, (words, done)


COMPLETE = """_get_comp_words_by_ref() { words=("${COMP_WORDS[@]}"); cword=$COMP_CWORD; cur=${words[cword]}; }
__ltrim_colon_completions() { :; }
. "$1"; shift
COMP_WORDS=(virt-vol-repair "$@"); COMP_CWORD=$#
_virt_vol_repair virt-vol-repair
printf '%s\\n' "${COMPREPLY[@]}"
"""
COMPLETION = Path(__file__).resolve().parents[2] / 'virsh-ext' / 'completion.bash'


def candidates(env, *words):
    """What the function for bash offers; what bash-completion would lend it stands above in small."""
    done = subprocess.run(['bash', '-c', COMPLETE, 'bash', str(COMPLETION), *words], env=env, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    assert not done.stderr, done
    return done.stdout.splitlines()


def test_bash_completion(t):
    env = dict(os.environ, PATH=f"{Path(program(t, 'virt-vol-repair')).parent}:{os.environ['PATH']}")
    assert candidates(env, 'default', '--verb') == ['--verbose']
    # Readline has the sign for the end of a word.
    assert candidates(env, 'default', '--mode=l') == ['leaks']


def test_bash_completion_runs_no_name(t):
    """Who may name a file in a pool must not run a command as whoever presses the tab key."""
    with t.lab('clean') as lab:
        touched = lab.dir / 'touched'
        for name in ('$(touch ${TOUCHED})', '`touch ${TOUCHED}`', 'a b;c', "it's", 'plain.qcow2'):
            (lab.pool_dir / name).touch()
        assert lab.virsh('pool-refresh', 'default').returncode == 0
        env = dict(lab.env, TOUCHED=str(touched))
        offered = candidates(env, 'default', '')
        assert not touched.exists(), 'a name was expanded'
        assert sorted(offered) == sorted(['\\$\\(touch\\ \\$\\{TOUCHED\\}\\)', '\\`touch\\ \\$\\{TOUCHED\\}\\`', 'a\\ b\\;c',
                                          "it\\'s", 'plain.qcow2']), offered
        for typed, expected in (('\\$\\(t', '\\$\\(touch\\ \\$\\{TOUCHED\\}\\)'), ('a\\ b', 'a\\ b\\;c'), ('"pl', 'plain.qcow2'), ('"$(', '')):
            assert candidates(env, 'default', typed) == [expected], typed
        assert candidates(env, '--pool=default', '--vol=a') == ['a\\ b\\;c']
        assert not touched.exists(), 'a name was expanded'
