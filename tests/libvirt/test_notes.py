# SPDX-License-Identifier: LGPL-2.1-or-later
# What libvirt knows of an image beside what is in it is told in the report: saved domains, and volumes that lie upon it.
import json
import subprocess
import time

from common import check_schema, connection, create_from, leak, make_image, read_volume, refresh, repair
from test_real import DOMAIN

ACCEL = {'accel': 'process'}


def notes(report):
    check_schema(report)
    return [(n['id'], n['name']) for n in report.get('notes', [])]


def overlay(lab, name, base):
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', base, lab.pool_dir / name], check=True)
    refresh(lab)


def test_overlays(t):
    with t.lab(settings=ACCEL) as lab, connection(lab) as conn:
        base = make_image(lab)
        overlay(lab, 'full.qcow2', base)
        overlay(lab, 'relative "<&>.qcow2', 'disk.qcow2')
        overlay(lab, 'second.qcow2', 'full.qcow2')
        leak(base, 3)
        expected = [('overlay', 'full.qcow2'), ('overlay', 'relative "<&>.qcow2'), ('overlay', 'second.qcow2')]
        for mode in ('check', 'leaks', 'undo'):
            report = repair(conn, 'disk.qcow2', mode)
            assert sorted(notes(report)) == expected, report
        assert "The volume 'full.qcow2' lies upon this image" in str(report['notes']), report
        assert notes(json.loads(read_volume(conn, create_from(conn, 'full.qcow2', 'check')))) == [('overlay', 'second.qcow2')]
        assert notes(repair(conn, 'second.qcow2', 'check')) == []
        done = lab.run([t.build / 'virsh-ext' / 'bin' / 'virsh', 'vol-repair', 'default', 'disk.qcow2'])
        assert "Note:     The volume 'full.qcow2' lies upon this image." in done.stdout, done


def test_overlays_are_bounded(t):
    """At most twelve are named, and many volumes hold nothing up."""
    with t.lab(settings=ACCEL) as lab, connection(lab) as conn:
        base = make_image(lab)
        for i in range(20):
            overlay(lab, f'over{i}.qcow2', base)
        started = time.monotonic()
        assert len(notes(repair(conn, 'disk.qcow2', 'check'))) == 12
        assert time.monotonic() - started < 60


def test_managed_save(t):
    """The domain starts from its saved state after the repair of its disk."""
    with t.lab(settings=ACCEL) as lab, connection(lab) as conn:
        path = make_image(lab)
        make_image(lab, 'other.qcow2')
        domain = conn.defineXML(DOMAIN.format(path=path))
        domain.create()
        domain.managedSave(0)
        leak(path, 3)
        report = repair(conn, 'disk.qcow2', 'leaks')
        assert (report['verdict'], notes(report)) == ('repaired', [('managed-save', 'vm')]), report
        assert 'managed save' in report['notes'][0]['text'], report
        assert notes(repair(conn, 'other.qcow2', 'check')) == []
        domain.create()
        assert domain.isActive() and not domain.hasManagedSaveImage()
        domain.destroy()
        assert notes(repair(conn, 'disk.qcow2', 'check')) == []


def test_managed_save_above_the_image(t):
    """The saved domain's disk lies upon it."""
    with t.lab(settings=ACCEL) as lab, connection(lab) as conn:
        overlay(lab, 'top.qcow2', make_image(lab))
        domain = conn.defineXML(DOMAIN.format(path=lab.pool_dir / 'top.qcow2'))
        domain.create()
        domain.managedSave(0)
        assert notes(repair(conn, 'disk.qcow2', 'check')) == [('overlay', 'top.qcow2'), ('managed-save', 'vm')]
        domain.managedSaveRemove()
