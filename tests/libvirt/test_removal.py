# SPDX-License-Identifier: LGPL-2.1-or-later
# What a removal leaves in libvirt: nothing, once the daemon has started again.
import shutil
from pathlib import Path

from common import connection, make_image, repair

STOCK = Path('/usr/lib/x86_64-linux-gnu/libvirt/storage-backend')


def pools(lab):
    return set(lab.virsh('pool-list', '--all', '--name').stdout.split())


def take_away(lab):
    """The files go, and with them the variable, as after a removal of the package."""
    shutil.rmtree(lab.stub.parent.parent)
    lab.daemon_env['LIBVIRT_STORAGE_BACKEND_DIR'] = str(STOCK)


def test_pool_of_reports_goes_with_its_directory(t):
    with t.lab('clean') as lab:
        make_image(lab)
        with connection(lab) as conn:
            repair(conn, 'disk.qcow2', 'check')
        assert pools(lab) == {'default', 'vol-repair'}
        lab.stop()
        take_away(lab)
        shutil.rmtree(lab.reports_dir.parent)
        lab.start()
        assert pools(lab) == {'default'}, lab.log()
        assert 'disk.qcow2' in lab.virsh('vol-list', 'default').stdout


def test_files_that_go_before_a_restart(t):
    """A daemon that runs on without the files; then one that starts, with the pool of reports still there."""
    with t.lab('clean') as lab:
        make_image(lab)
        with connection(lab) as conn:
            repair(conn, 'disk.qcow2', 'check')
        take_away(lab)
        assert 'disk.qcow2' in lab.virsh('vol-list', 'default').stdout
        lab.restart()
        assert lab.virsh('pool-info', 'default').returncode == 0
        assert 'disk.qcow2' in lab.virsh('vol-list', 'default').stdout
        done = lab.virsh('pool-destroy', 'vol-repair')
        assert done.returncode == 0 and pools(lab) == {'default'}, done
