# SPDX-License-Identifier: LGPL-2.1-or-later
# Access control on: libvirt's polkit driver, a private system bus, a private polkitd, and a caller with few rights.
import os
import shutil
import subprocess
import sys

import libvirt

from common import Skip, connection, jobs, leak, make_image, qemu_check, refresh, repair
from lab import Lab
from patience import seconds

NOBODY = 65534
POLKITD = next((p for p in ('/usr/lib/polkit-1/polkitd', '/usr/libexec/polkitd') if os.path.exists(p)), None)
RULES = '''polkit.addRule(function(action, subject) {
    if (action.id.indexOf("org.libvirt.") != 0)
        return polkit.Result.NOT_HANDLED;
    var name = action.lookup("vol_name") || "";
    if (subject.user == "nobody" && name.indexOf("readable") == 0 && action.id == "org.libvirt.api.storage-vol.data-write")
        return polkit.Result.NO;
    if (subject.user == "nobody" && name.indexOf("secret") == 0 && action.id.indexOf("org.libvirt.api.storage-vol.data-") == 0)
        return polkit.Result.NO;
    if (subject.user == "nobody" && name.indexOf("vm") == 0 && action.lookup("connect_driver") != "QEMU")
        return polkit.Result.NO;
    return polkit.Result.YES;
});
'''
# What nobody tries: `door mode volume`; prints the verdict, or the error's code. The door `control` takes a request instead
# of a mode, and prints how many jobs the answer names.
CLIENT = '''
import json, libvirt, sys
libvirt.registerErrorHandler(lambda *_: None, None)
uri, door, mode, name = sys.argv[1:]
try:
    conn = libvirt.open(uri)
    if door == "control":
        print(conn.findStoragePoolSources("dir", mode, 0).count("<job "))
        sys.exit()
    pool = conn.storagePoolLookupByName("default")
    vol = pool.storageVolLookupByName(name)
    if door == "create":
        xml = "<volume><name>%s.repair-%s.json</name><capacity>0</capacity><target><format type='raw'/></target></volume>" % (name, mode)
        vol = pool.createXMLFrom(xml, vol, 0)
        print("done")
    else:
        stream, data = conn.newStream(), b""
        vol.download(stream, 0x7265706169720000 + ["check", "leaks", "all", "undo"].index(mode), 0, 0)
        while part := stream.recv(65536):
            data += part
        stream.finish()
        print(json.loads(data.splitlines()[-1])["report"]["verdict"])
except libvirt.libvirtError as e:
    print(e.get_error_code())
'''
DENIED, NO_SUCH_JOB = '88', str(libvirt.VIR_ERR_INVALID_ARG)


class GuardedLab(Lab):
    """With a bus and a polkitd of its own, in the daemon's namespace, and access control by polkit."""

    def _mounts(self):
        rules = self.dir / 'rules'
        rules.mkdir(mode=0o755)
        (rules / '10-test.rules').write_text(RULES)
        conf = self.dir / 'libvirtd.conf'
        conf.write_text(conf.read_text() + 'access_drivers = [ "polkit" ]\nunix_sock_rw_perms = "0777"\n')
        (self.dir / 'run' / 'dbus').mkdir()
        return super()._mounts() + [
            f'mount --bind {rules} /etc/polkit-1/rules.d',
            'dbus-daemon --config-file=/usr/share/dbus-1/system.conf --nopidfile --fork --address=unix:path=/run/dbus/system_bus_socket',
            f'{POLKITD} --no-debug >/dev/null 2>&1 &',
            'for i in $(seq 50); do dbus-send --system --print-reply --dest=org.freedesktop.DBus / '
            'org.freedesktop.DBus.NameHasOwner string:org.freedesktop.PolicyKit1 2>/dev/null | grep -q true && break; sleep 0.1; done']


def as_nobody(lab, door, mode, name):
    command = ['setpriv', f'--reuid={NOBODY}', f'--regid={NOBODY}', '--clear-groups', sys.executable, '-c', CLIENT, lab.uri, door,
               mode, name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds(60), check=False, cwd='/')
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def guarded_lab(t, **kwargs):
    if os.geteuid() != 0:
        raise Skip('needs root, for a system daemon')
    if not POLKITD or not shutil.which('dbus-daemon') or not os.path.exists('/etc/polkit-1/rules.d'):
        raise Skip('polkitd or dbus-daemon is not installed')
    return GuardedLab(t.build, **kwargs)


def damaged(lab):
    for name in ('open.qcow2', 'readable.qcow2', 'secret.qcow2', 'vm.qcow2'):
        leak(make_image(lab, name), 10)
    refresh(lab)


def expect(lab, wanted):
    for (door, mode, name), answer in wanted.items():
        got = as_nobody(lab, door, mode, name)
        assert got == answer, f'{door} {mode} {name}: {got}, not {answer}'


def test_repair_needs_the_right_to_write(t):
    with guarded_lab(t) as lab:
        damaged(lab)
        expect(lab, {(door, mode, name): DENIED for door in ('create', 'stream') for mode in ('leaks', 'all')
                     for name in ('readable.qcow2', 'secret.qcow2')})
        assert qemu_check(lab.pool_dir / 'readable.qcow2')['leaks'] == 10
        assert qemu_check(lab.pool_dir / 'secret.qcow2')['leaks'] == 10
        expect(lab, {('create', 'leaks', 'open.qcow2'): 'done', ('stream', 'undo', 'open.qcow2'): 'undone'})


def test_check_needs_the_right_to_read(t):
    with guarded_lab(t) as lab:
        damaged(lab)
        expect(lab, {('create', 'check', 'readable.qcow2'): 'done', ('stream', 'check', 'readable.qcow2'): 'leaks-remain',
                     ('create', 'check', 'secret.qcow2'): DENIED, ('stream', 'check', 'secret.qcow2'): DENIED})


def test_undo_needs_the_right_to_write(t):
    with guarded_lab(t) as lab:
        damaged(lab)
        expect(lab, {('stream', 'undo', 'readable.qcow2'): DENIED})


def test_drivers_that_rules_speak_of(t):
    """In a monolithic daemon the caller may have come by either. From virtstoraged the other is another daemon, where root asks."""
    with guarded_lab(t) as lab:
        damaged(lab)
        expect(lab, {('create', 'leaks', 'vm.qcow2'): 'done'})
    with guarded_lab(t, daemon_name='virtstoraged') as lab:
        damaged(lab)
        expect(lab, {('create', 'leaks', 'vm.qcow2'): DENIED, ('create', 'leaks', 'open.qcow2'): 'done'})


def test_jobs_are_their_owners(t):
    with guarded_lab(t) as lab, connection(lab) as conn:
        damaged(lab)
        assert repair(conn, 'secret.qcow2', 'check')['verdict'] == 'leaks-remain'
        number = jobs(conn)[0]['id']
        expect(lab, {('control', "<vol-repair request='jobs'/>", ''): '0',
                     ('control', f"<vol-repair request='abort' job='{number}'/>", ''): NO_SUCH_JOB})
        expect(lab, {('stream', 'check', 'open.qcow2'): 'leaks-remain'})
        expect(lab, {('control', "<vol-repair request='jobs'/>", ''): '1'})
        assert sorted(job['volume'] for job in jobs(conn)) == ['open.qcow2', 'secret.qcow2']
