# SPDX-License-Identifier: LGPL-2.1-or-later
# What callers can hold of the daemon: reports that nobody reads, and each caller's share of jobs and option sets.
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

from common import Skip, StreamJob, connection, disk, jobs, read_volume, repair, report_xml, volume, wait_for_state
from lab import Lab, wait_until
from patience import seconds

NOBODY = 65534
# Takes of one thing until it is refused, or 70 times; prints how many it got, and whether it is refused once more after a line
# of input.
CLIENT = '''
import libvirt, sys
libvirt.registerErrorHandler(lambda *_: None, None)
uri, what = sys.argv[1:]
conn, got = libvirt.open(uri), []
path = conn.storagePoolLookupByName("default").storageVolLookupByName("disk.qcow2").path()
def take():
    if what == "options":
        return conn.findStoragePoolSources("dir", "<vol-repair request='options'/>", 0)
    # On a connection that makes other calls the client's library would take the report.
    own = libvirt.open(uri)
    stream = own.newStream()
    own.storageVolLookupByPath(path).download(stream, 0x7265706169720000, 0, 0)
    return own, stream
def refused():
    try:
        got.append(take())
    except libvirt.libvirtError as e:
        return e.get_error_code() == libvirt.VIR_ERR_OPERATION_FAILED or print(e)
    return False
while len(got) < 70 and not refused():
    pass
print(len(got), flush=True)
sys.stdin.readline()
print(refused(), flush=True)
'''


class OpenLab(Lab):
    """Anybody may connect."""

    def _lay_out(self, settings):
        if os.geteuid() != 0:
            raise Skip('needs root, for a system daemon')
        super()._lay_out(settings)
        conf = self.dir / 'libvirtd.conf'
        conf.write_text(conf.read_text() + 'unix_sock_rw_perms = "0777"\n')


@contextlib.contextmanager
def nobody(lab, what):
    command = ['setpriv', f'--reuid={NOBODY}', f'--regid={NOBODY}', '--clear-groups', sys.executable, '-c', CLIENT, lab.uri, what]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd='/') as client:
        try:
            yield client
        finally:
            client.kill()


def again(client):
    print(file=client.stdin, flush=True)
    return client.stdout.readline().strip() == 'True'


def rss(lab):
    status = Path(f'/proc/{lab.daemon.pid}/status').read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith('VmRSS'))) // 1024


def threads(lab):
    names = []
    for comm in Path(f'/proc/{lab.daemon.pid}/task').glob('*/comm'):
        with contextlib.suppress(OSError):
            names.append(comm.read_text().strip())
    return names.count('vol-repair')


def all_done(conn, count):
    found = wait_until(lambda: [j['state'] for j in jobs(conn)].count('done') == count, 90)
    assert found, jobs(conn)


def test_unread_reports_take_no_memory(t):
    with t.lab('big') as lab, connection(lab) as conn, connection(lab) as other:
        disk(lab)
        before = rss(lab)
        unread = [StreamJob(conn, volume(conn, 'disk.qcow2'), 'check') for _ in range(8)]
        all_done(other, 8)
        assert rss(lab) - before < 30, f'{before} MiB, then {rss(lab)} MiB'
        assert all(len(job.report()['padding']) == 10_000_000 for job in unread), 'they are whole all the same'


def test_unread_report_is_given_up(t):
    with t.lab('long', {'timeout': '2'}) as lab, connection(lab) as conn, connection(lab) as other:
        disk(lab)
        stuck = StreamJob(conn, volume(conn, 'disk.qcow2'), 'check')
        wait_for_state(other, 'done')
        assert wait_until(lambda: 'took nothing of the report for 2 seconds' in lab.log(), 15), 'it waits for its client'
        assert wait_until(lambda: threads(lab) == 0, 15)
        pool = other.storagePoolLookupByName('vol-repair')
        pool.refresh(0)
        assert b'"verdict": "clean"' in read_volume(other, pool.storageVolLookupByName('job-1-disk.qcow2.json'))
        stuck.abort()


def test_long_report_is_no_failure(t):
    with t.lab('huge') as lab, connection(lab) as conn:
        disk(lab)
        stream, parts = StreamJob(conn, volume(conn, 'disk.qcow2'), 'all').stream, []
        while part := stream.recv(1 << 20):
            parts.append(part)
        stream.finish()
        assert wait_for_state(conn, 'done')['verdict'] == 'repaired'
        assert len(json.loads(b''.join(parts).splitlines()[-1])['report']['padding']) == 70_000_000


def test_unread_reports_count_and_callers_have_shares(t):
    with OpenLab(t.build, settings={'helper': str(t.script('long'))}) as lab, connection(lab) as conn:
        disk(lab)
        with nobody(lab, 'jobs') as client:
            assert client.stdout.readline() == '32\n'
            all_done(conn, 32)
            assert again(client), 'what nobody reads does not count'
            assert repair(conn, 'disk.qcow2', 'check')['verdict'] == 'clean', 'nothing is left for others'
        assert wait_until(lambda: threads(lab) == 0, 20), 'the client is gone'
        with nobody(lab, 'jobs') as client:
            assert client.stdout.readline() == '32\n'


def test_callers_have_shares_of_option_sets(t):
    with OpenLab(t.build, settings={'helper': str(t.script('clean'))}) as lab, connection(lab) as conn:
        disk(lab)
        with nobody(lab, 'options') as client:
            assert client.stdout.readline() == '16\n'
            for _ in range(48):
                assert 'token' in conn.findStoragePoolSources('dir', "<vol-repair request='options'/>", 0)


def test_callers_have_shares_of_report_volumes(t):
    with OpenLab(t.build, settings={'helper': str(t.script('slow'))}) as lab, connection(lab) as conn:
        for i in range(3):
            disk(lab, f'd{i}.qcow2')
        creator = ('import libvirt, sys\nlibvirt.registerErrorHandler(lambda *_: None, None)\n'
                   'pool = libvirt.open(sys.argv[1]).storagePoolLookupByName("default")\n'
                   'try:\n    pool.createXMLFrom(sys.argv[2], pool.storageVolLookupByName(sys.argv[3]), 0)\n'
                   'except libvirt.libvirtError as e:\n    print(e)\n')

        def create(name):
            xml = report_xml(f'{name}.repair-check.json')
            return subprocess.Popen(['setpriv', f'--reuid={NOBODY}', f'--regid={NOBODY}', '--clear-groups', sys.executable, '-c',
                                     creator, lab.uri, xml, name], stdout=subprocess.PIPE, text=True, cwd='/')

        running = [create('d0.qcow2'), create('d1.qcow2')]
        assert wait_until(lambda: len([j for j in jobs(conn) if j['state'] == 'running']) == 2, 20), jobs(conn)
        third = create('d2.qcow2')
        text = third.communicate(timeout=seconds(20))[0]
        assert '2 of them yours' in text, text
        for job in jobs(conn):
            conn.findStoragePoolSources('dir', f"<vol-repair request='abort' job='{job['id']}'/>", 0)
        for client in running:
            client.communicate(timeout=seconds(20))
