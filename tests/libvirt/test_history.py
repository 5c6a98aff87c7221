# SPDX-License-Identifier: LGPL-2.1-or-later
# The job list of a daemon that has started again: what its predecessor did, and what became of what it was doing.
import json
import os
import signal
import subprocess
import sys

import libvirt

from common import (disk, Listener, Skip, StreamJob, check_schema, connection, control, create_from, expect_error, jobs, repair, volume,
                    wait_for_state)
from lab import wait_until

NOBODY = 65534
COUNT_JOBS = '''
import libvirt, sys
conn = libvirt.open(sys.argv[1])
print(conn.findStoragePoolSources("dir", "<vol-repair request='jobs'/>", 0).count("<job "))
'''


def index(lab):
    return lab.reports_dir.with_name('reports.jobs')


def test_ended_jobs_are_still_listed(t):
    """All there is to know of them is what it was, the list of a daemon that runs on is the same as that of the next."""
    names = ['disk.qcow2', "it's \"odd\" & <日本>\\.qcow2"]
    with t.lab('clean') as lab:
        with connection(lab) as conn:
            for name in names:
                disk(lab, name)
                assert repair(conn, name, 'check')['verdict'] == 'clean'
            create_from(conn, names[0], 'all')
            assert wait_until(lambda: all(j['state'] == 'done' for j in jobs(conn)), 10)
            before = jobs(conn)
        assert [j['id'] for j in before] == ['3', '2', '1'] and before[1]['volume'] == names[1], before
        assert all(j['percent'] == '100' and j['owner'].startswith('uid:') and int(j['ended']) for j in before), before
        assert before[2]['report'] == 'job-1-disk.qcow2.json', before
        for _ in range(2):
            lab.restart()
            with connection(lab) as conn:
                assert jobs(conn) == before, jobs(conn)
        with connection(lab) as conn:
            repair(conn, names[0], 'check')
            assert [j['id'] for j in jobs(conn)] == ['4', '3', '2', '1'], jobs(conn)
        assert index(lab).stat().st_mode & 0o777 == 0o600


def test_owners_are_kept(t):
    """A job stays its owner's: others neither see nor abort it after the restart."""
    if os.geteuid() != 0:
        raise Skip('needs root, for a second user')
    lab = t.lab('clean')
    conf = lab.dir / 'libvirtd.conf'
    conf.write_text(conf.read_text() + 'unix_sock_rw_perms = "0777"\n')
    with lab:
        disk(lab)
        with connection(lab) as conn:
            repair(conn, 'disk.qcow2', 'check')
            wait_for_state(conn, 'done')
        lab.restart()
        command = ['setpriv', f'--reuid={NOBODY}', f'--regid={NOBODY}', '--clear-groups', sys.executable, '-c', COUNT_JOBS, lab.uri]
        assert subprocess.run(command, capture_output=True, text=True, check=True, cwd='/').stdout.strip() == '0'
        with connection(lab) as conn:
            assert len(jobs(conn)) == 1


def test_daemon_is_killed_and_the_program_ends(t):
    """The next daemon lists the job, tells its end to listeners, and knows the verdict by the program's own report."""
    with t.lab('slow') as lab:
        disk(lab)
        conn = libvirt.open(lab.uri)
        job = StreamJob(conn, volume(conn, 'disk.qcow2'), 'all')
        assert job.until('progress')
        lab.restart(signal.SIGKILL)
        with connection(lab) as again:
            done = wait_for_state(again, 'done')
            assert (done['verdict'], done['exit-code'], done['owner']) == ('failed', '1', f'uid:{os.geteuid()}'), done
            report = json.loads((lab.reports_dir / done['report']).read_text())
            assert report['error'] == 'aborted', report
            listener = Listener(lab)
            lab.configure(helper=str(t.script('clean')))
            assert repair(again, 'disk.qcow2', 'all')['verdict'] == 'clean'
            listener.wait_for('vol-repair', 2)
            listener.close()


def test_program_outlives_the_daemon(t):
    """It finishes what it writes: until then the job is listed as running, and its volume is in use."""
    with t.lab('finishing') as lab:
        disk(lab)
        conn = libvirt.open(lab.uri)
        job = StreamJob(conn, volume(conn, 'disk.qcow2'), 'all')
        assert job.until('progress')['phase'] == 'commit'
        lab.restart(signal.SIGKILL)
        with connection(lab) as again:
            running = wait_for_state(again, 'running')
            assert (running['id'], running['phase']) == ('1', 'commit'), running
            assert "result='sent'" in control(again, "<vol-repair request='abort' job='1'/>")
            try:
                repair(again, 'disk.qcow2', 'all')
            except libvirt.libvirtError as e:
                assert 'job 1 (all) is working on it' in str(e), e
            else:
                raise AssertionError('two repairs of one volume')
            done = wait_for_state(again, 'done', 20)
            assert (done['verdict'], done['exit-code']) == ('repaired', '0'), done
            assert "result='done'" in control(again, "<vol-repair request='abort' job='1'/>")


def test_both_are_killed(t):
    """Nobody wrote a report: the next daemon does, and says that the image may have been changed."""
    for script, changed in (('slow', False), ('finishing', True)):
        with t.lab(script) as lab:
            disk(lab)
            conn = libvirt.open(lab.uri)
            job = StreamJob(conn, volume(conn, 'disk.qcow2'), 'all')
            assert job.until('progress')
            lab.daemon.send_signal(signal.SIGSTOP)
            os.kill(job.lines[0]['pid'], signal.SIGKILL)
            lab.daemon.kill()
            lab.restart()
            with connection(lab) as again:
                assert wait_for_state(again, 'done')['verdict'] == 'failed'
                report = json.loads((lab.reports_dir / 'job-1-disk.qcow2.json').read_text())
                assert report['image-changed'] is changed and 'was killed' in report['error'], report
                check_schema(report)


def test_damaged_index(t):
    """What makes no sense is left out; a file of somebody else's making is not read at all."""
    good = {'job': '7', 'mode': 'check', 'owner': 'uid:1', 'volume': 'v', 'path': '/v', 'phase': 'check', 'refresh': '1',
            'device': '1', 'inode': '1', 'size': '1', 'started': '1', 'percent': '100', 'verdict': 'clean', 'exit-code': '0',
            'ended': '2', 'report': 'job-7-v.json'}
    bad = [{**good, 'job': '0'}, {**good, 'job': '-1'}, {**good, 'mode': 'magic'}, {**good, 'verdict': 'f=ne'},
           {**good, 'exit-code': '256'}, {**good, 'percent': '101'}, {k: v for k, v in good.items() if k != 'owner'},
           {**good, 'started': 'x'}, {**good, 'phase': None}, {**good, 'job': '99999999999'}]
    text = ''.join(json.dumps(line, separators=(',', ':')) + '\n' for line in [good, *bad]) + '\0\xff{"job":' + 'x' * 100000
    with t.lab('clean') as lab, connection(lab) as conn:
        disk(lab)
        repair(conn, 'disk.qcow2', 'check')
        wait_for_state(conn, 'done')
        lab.stop()
        index(lab).write_text(text, errors='surrogateescape')
        lab.start()
        with connection(lab) as again:
            assert [j['id'] for j in jobs(again)] == ['7'], jobs(again)
        lab.stop()
        index(lab).chmod(0o622)
        lab.start()
        with connection(lab) as again:
            assert jobs(again) == []
        lab.stop()
        index(lab).rename(lab.dir / 'elsewhere')
        (lab.dir / 'elsewhere').chmod(0o600)
        index(lab).symlink_to(lab.dir / 'elsewhere')
        lab.start()
        with connection(lab) as again:
            assert jobs(again) == []
            repair(again, 'disk.qcow2', 'check')
            assert wait_for_state(again, 'done')['id'] == '2', 'report files keep their numbers'
        assert not index(lab).is_symlink()


def test_reports_where_the_administrator_wants_them(t):
    """Reports, list and events are there, and nothing in the default place. Others' directories are not used."""
    with t.lab('clean', settings={'reports_dir': str(t.tmp / 'kept' / 'reports')}) as lab, connection(lab) as conn:
        disk(lab)
        listener = Listener(lab)
        repair(conn, 'disk.qcow2', 'check')
        listener.wait_for('vol-repair', 2)
        assert sorted(os.listdir(t.tmp / 'kept')) == ['reports', 'reports.jobs'], os.listdir(t.tmp / 'kept')
        assert os.listdir(t.tmp / 'kept' / 'reports') == ['job-1-disk.qcow2.json'], os.listdir(t.tmp / 'kept' / 'reports')
        assert conn.storagePoolLookupByName('vol-repair').listVolumes() == ['job-1-disk.qcow2.json']
        assert not lab.reports_dir.exists()
        listener.close()
        lab.restart()
        with connection(lab) as again:
            assert [j['verdict'] for j in jobs(again)] == ['clean']
            (t.tmp / 'open').mkdir(mode=0o777)
            (t.tmp / 'open').chmod(0o777)
            lab.configure(helper=str(t.script('clean')), reports_dir=str(t.tmp / 'open'))
            assert repair(again, 'disk.qcow2', 'check')['verdict'] == 'clean'
            assert os.listdir(t.tmp / 'open') == []
            for bad in ('reports', '/', '/var/lib/x/'):
                lab.configure(helper=str(t.script('clean')), reports_dir=bad)
                expect_error(libvirt.VIR_ERR_CONF_SYNTAX, repair, again, 'disk.qcow2', 'check')
