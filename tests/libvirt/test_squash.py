# SPDX-License-Identifier: LGPL-2.1-or-later
# Images that root may not open, as on NFS with root_squash: a daemon without the capability to pass by a file's mode stands for it.
import contextlib
import os
import time
from pathlib import Path

import libvirt

from common import Skip, connection, create_from, expect_error, leak, make_image, qemu_check, repair, wait_for_state
from lab import Lab

OWNER, GROUP = 54321, 54322


class SquashedLab(Lab):
    """Its daemon is root without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, and so are the programs that it starts."""

    def _daemon_command(self):
        command = super()._daemon_command()
        at = command.index('-f') - 1
        return command[:at] + ['setpriv', '--bounding-set', '-dac_override,-dac_read_search'] + command[at:]


def squashed_lab(t, **settings):
    if os.geteuid() != 0:
        raise Skip('needs root, for a file that is not its own')
    return SquashedLab(t.build, settings={'accel': 'process', **settings})


def image_of(lab, uid, gid, mode, name='disk.qcow2'):
    path = make_image(lab, name)
    leak(path, 5)
    os.chown(path, uid, gid)
    path.chmod(mode)
    return path


def test_owner_opens_the_image(t):
    with squashed_lab(t) as lab, connection(lab) as conn:
        path = image_of(lab, OWNER, GROUP, 0o600)
        assert repair(conn, 'disk.qcow2', 'check')['leaks'] == 5
        assert repair(conn, 'disk.qcow2', 'leaks')['verdict'] == 'repaired'
        wait_for_state(conn, 'done')
        time.sleep(1)
        assert conn.storagePoolLookupByName('default').listVolumes() == ['disk.qcow2'], 'libvirt has lost it in a refresh'
        assert qemu_check(path).get('leaks', 0) == 0
        assert repair(conn, 'disk.qcow2', 'undo')['verdict'] == 'undone'
        assert qemu_check(path)['leaks'] == 5
        st = path.stat()
        assert (st.st_uid, st.st_gid, st.st_mode & 0o777) == (OWNER, GROUP, 0o600), st


def test_create_from_is_refused_by_libvirt(t):
    """It looks into the volume to clone from, as root, before any backend is asked. docs/libvirt.md says so."""
    with squashed_lab(t) as lab, connection(lab) as conn:
        image_of(lab, OWNER, GROUP, 0o600)
        text = expect_error(libvirt.VIR_ERR_SYSTEM_ERROR, create_from, conn, 'disk.qcow2', 'check')
        assert 'cannot open volume' in text and 'Permission denied' in text, text


def test_the_daemon_is_root_afterwards(t):
    """Only the one thread that opened the file was somebody else, and the daemon may dump core as before."""
    with squashed_lab(t) as lab, connection(lab) as conn:
        dumpable = os.stat(f'/proc/{lab.daemon.pid}/maps').st_uid, os.access(f'/proc/{lab.daemon.pid}/environ', os.R_OK)
        image_of(lab, OWNER, GROUP, 0o600)
        assert repair(conn, 'disk.qcow2', 'check')['leaks'] == 5
        for task in os.listdir(f'/proc/{lab.daemon.pid}/task'):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                text = Path(f'/proc/{lab.daemon.pid}/task/{task}/status').read_text()
                ids = [line.split()[1:] for line in text.splitlines() if line.startswith(('Uid:', 'Gid:'))]
                assert ids == [['0'] * 4] * 2, (task, ids)
        assert dumpable == (os.stat(f'/proc/{lab.daemon.pid}/maps').st_uid, True)


def test_what_the_owner_may_not_do_either(t):
    """An image that its owner has made read-only is checked and not repaired; one without any right is neither."""
    with squashed_lab(t) as lab, connection(lab) as conn:
        path = image_of(lab, OWNER, GROUP, 0o400)
        assert repair(conn, 'disk.qcow2', 'check')['leaks'] == 5
        text = expect_error(libvirt.VIR_ERR_OPERATION_FAILED, repair, conn, 'disk.qcow2', 'leaks')
        assert 'Permission denied' in text and f'uid {OWNER}' in text, text
        path.chmod(0)
        expect_error(libvirt.VIR_ERR_OPERATION_FAILED, repair, conn, 'disk.qcow2', 'check')
