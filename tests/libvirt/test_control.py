# SPDX-License-Identifier: LGPL-2.1-or-later
# The control door: capabilities, jobs, abort, option tokens, and requests that are none.
import contextlib
import os
import re
import threading
import xml.etree.ElementTree as ElementTree

import libvirt

from common import StreamJob, connection, control, expect_error, jobs, repair, volume, wait_for_state

OPTIONS = '''<vol-repair request='options'><format>qcow2</format><accel>process</accel><memory unit='MiB'>200</memory>
  <timeout>7</timeout><max-messages>5</max-messages><undo>before-upgrade.undo</undo></vol-repair>'''


def disk(lab, name='disk.qcow2'):
    done = lab.virsh('vol-create-as', 'default', name, '1M', '--format', 'qcow2')
    assert done.returncode == 0, done.stderr


def token_of(conn, request):
    answer = ElementTree.fromstring(control(conn, request))
    assert answer.tag == 'vol-repair-options'
    return int(answer.get('token'))


def test_capabilities(t):
    with t.lab('clean') as lab, connection(lab) as conn:
        answer = ElementTree.fromstring(control(conn, "<vol-repair request='capabilities'/>"))
        assert answer.tag == 'vol-repair' and answer.get('version')
        assert [m.get('name') for m in answer.findall('modes/mode')] == ['check', 'leaks', 'all', 'undo']
        pools = [p.get('name') for p in answer.findall('pools/type')]
        # Of block devices, those whose backends are installed.
        assert pools[:3] == ['dir', 'fs', 'netfs'], pools
        assert set(pools[3:]) <= {'logical', 'disk', 'iscsi', 'scsi', 'mpath', 'zfs'} and 'logical' in pools, pools
        assert [d.get('name') for d in answer.findall('doors/door')] == ['stream', 'create', 'control', 'events']
        assert answer.find('helper').attrib == {'path': str(t.script('clean')), 'usable': 'yes'}


def test_capabilities_by_stock_virsh(t):
    request = t.tmp / 'request.xml'
    request.write_text("<vol-repair request='capabilities'/>")
    with t.lab('clean') as lab:
        done = lab.virsh('find-storage-pool-sources', 'dir', str(request))
        assert done.returncode == 0 and "<door name='stream'/>" in done.stdout, done.stderr


def test_not_a_request(t):
    with t.lab('clean') as lab, connection(lab) as conn:
        for text in (None, '', '<source/>', 'volume'):
            message = expect_error(libvirt.VIR_ERR_NO_SUPPORT, control, conn, text)
            assert 'does not support source discovery' in message, message
        # Other types are libvirt's own business.
        expect_error(libvirt.VIR_ERR_NO_SUPPORT, conn.findStoragePoolSources, 'fs', "<vol-repair request='jobs'/>", 0)


def test_bad_requests(t):
    deep = '<vol-repair request="options">' + '<format>' * 2000 + '</format>' * 2000 + '</vol-repair>'
    bomb = ('<!DOCTYPE vol-repair [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
            '<vol-repair request="options"><undo>&b;</undo></vol-repair>')
    outside = '<!DOCTYPE vol-repair SYSTEM "http://127.0.0.1:1/x"><vol-repair request="jobs"/>'
    requests = [
        '<vol-repair/>', '<vol-repair request=""/>', '<vol-repair request="format-disk"/>',
        '<vol-repair request="jobs"',
        '<vol-repair request="jobs" all="yes"/>', '<vol-repair request="jobs" job="1"/>',
        '<vol-repair request="jobs"><x/></vol-repair>',
        '<vol-repair request="abort"/>', '<vol-repair request="abort" job="-1"/>',
        '<vol-repair request="abort" job="x"/>',
        '<vol-repair request="abort" job="99999999999999999999"/>', '<x><vol-repair request="jobs"/></x>',
        '<vol-repair request="jobs"/>' + 'x' * 70000,
        '<vol-repair request="jobs">' + ' ' * 70000 + '</vol-repair>', deep, bomb, outside,
    ]
    for option in ('<format>raw</format>', '<format/>', '<accel>magic</accel>', '<memory>-1</memory>',
                   '<memory>lots</memory>', '<timeout>-1</timeout>', '<timeout>1e3</timeout>',
                   "<memory unit='pound'>1</memory>", "<memory unit='MiB' x='1'>1</memory>",
                   '<memory>99999999999999999999</memory>', '<timeout>86401</timeout>',
                   '<max-messages>1.5</max-messages>', '<max-messages>1001</max-messages>', '<undo>../x</undo>', '<undo>/etc/passwd</undo>',
                   '<undo>..</undo>', '<undo>.hidden</undo>', '<undo></undo>', '<helper>/bin/sh</helper>',
                   '<format>qcow2</format><format>qcow2</format>', "<timeout unit='s'>1</timeout>",
                   '<undo><b/>x</undo>', f'<undo>{"x" * 300}</undo>'):
        requests.append(f"<vol-repair request='options'>{option}</vol-repair>")
    with t.lab('clean') as lab, connection(lab) as conn:
        for request in requests:
            expect_error(libvirt.VIR_ERR_XML_ERROR, control, conn, request)
        assert jobs(conn) == []


def test_options_reach_the_program(t):
    with t.lab('clean') as lab, connection(lab) as conn:
        disk(lab)
        argv = repair(conn, 'disk.qcow2', 'all', token_of(conn, OPTIONS))['argv']
        assert {'--accel=process', '--memory=200M', '--timeout=7', '--max-messages=5'} <= set(argv), argv
        undo = [a for a in argv if a.startswith('--undo=')]
        assert len(undo) == 1 and re.search(r'/lib/vol-repair/undo/[0-9a-f]{16}-disk.qcow2\.before-upgrade.undo$', undo[0]), argv
        empty = repair(conn, 'disk.qcow2', 'all', token_of(conn, "<vol-repair request='options'/>"))['argv']
        plain = repair(conn, 'disk.qcow2', 'all')['argv']
        assert [a for a in empty if '--report' not in a] == [a for a in plain if '--report' not in a]


def test_configuration_is_the_most_that_a_caller_gets(t):
    """The owner of a hostile image chooses neither the weaker wall nor the host's memory."""
    with t.lab('clean', {'accel': 'kvm', 'memory': '64M', 'timeout': '30'}) as lab, connection(lab) as conn:
        disk(lab)

        def ask(options):
            return repair(conn, 'disk.qcow2', 'check', token_of(conn, f"<vol-repair request='options'>{options}</vol-repair>"))

        for more in ('<accel>process</accel>', "<memory unit='GiB'>8</memory>", "<memory unit='MiB'>65</memory>",
                     '<memory>999999999999999999</memory>', '<timeout>31</timeout>', '<timeout>0</timeout>'):
            expect_error(libvirt.VIR_ERR_OPERATION_DENIED, ask, more)
        argv = ask("<accel>auto</accel><memory unit='MiB'>64</memory><timeout>30</timeout>")['argv']
        assert {'--accel=kvm', '--memory=64M', '--timeout=30'} <= set(argv), argv
        argv = ask("<memory unit='MiB'>32</memory><timeout>5</timeout>")['argv']
        assert {'--accel=kvm', '--memory=32M', '--timeout=5'} <= set(argv), argv
    with t.lab('clean', {'timeout': '0'}) as lab, connection(lab) as conn:
        disk(lab)
        argv = repair(conn, 'disk.qcow2', 'check',
                      token_of(conn, "<vol-repair request='options'><timeout>86400</timeout></vol-repair>"))['argv']
        assert '--timeout=86400' in argv, argv


def test_longest_report_is_one_the_program_makes(t):
    """The door's limit is not above the program's own."""
    with t.lab(settings={'accel': 'process'}) as lab, connection(lab) as conn:
        disk(lab)
        token = token_of(conn, "<vol-repair request='options'><max-messages>1000</max-messages></vol-repair>")
        assert repair(conn, 'disk.qcow2', 'check', token)['verdict'] == 'clean'


def test_limits_of_journals_reach_the_program(t):
    with t.lab('clean', settings={'undo_max_count': '3', 'undo_max_bytes': '"64M"'}) as lab, connection(lab) as conn:
        disk(lab)
        argv = repair(conn, 'disk.qcow2', 'all')['argv']
        assert [a for a in argv if a.startswith('--undo')] == ['--undo-max-count=3', '--undo-max-bytes=64M'], argv
        for key, value in (('undo_max_count', '0'), ('undo_max_bytes', '0'), ('undo_max_age', 'x'), ('undo-max-age', '1')):
            lab.configure(helper=str(t.script('clean')), **{key: value})
            expect_error(libvirt.VIR_ERR_CONF_SYNTAX, repair, conn, 'disk.qcow2', 'check')


def test_journals_of_other_volumes_have_no_name(t):
    with t.lab('clean') as lab, connection(lab) as conn:
        disk(lab)
        disk(lab, 'other.qcow2')

        def journal_of(name, given):
            token = token_of(conn, f"<vol-repair request='options'><undo>{given}</undo></vol-repair>")
            argv = repair(conn, name, 'all', token)['argv']
            return next(os.path.basename(a) for a in argv if a.startswith('--undo='))

        own, other = journal_of('disk.qcow2', 'x'), journal_of('other.qcow2', 'x')
        assert own.endswith('-disk.qcow2.x') and other.endswith('-other.qcow2.x') and own[:17] != other[:17], (own, other)
        assert journal_of('disk.qcow2', own) == own
        assert journal_of('disk.qcow2', other) == own[:-1] + other
        assert journal_of('disk.qcow2', own[:16] + other[16:]) == own[:16] + other[16:]


def test_token_is_good_once_on_any_connection(t):
    with t.lab('clean') as lab, connection(lab) as conn, connection(lab) as other:
        disk(lab)
        token = token_of(conn, OPTIONS)
        assert repair(other, 'disk.qcow2', 'check', token)['verdict'] == 'clean'
        expect_error(libvirt.VIR_ERR_INVALID_ARG, repair, conn, 'disk.qcow2', 'check', token)
        expect_error(libvirt.VIR_ERR_INVALID_ARG, repair, conn, 'disk.qcow2', 'check', 1)


def test_tokens_are_bounded(t):
    with t.lab('clean') as lab, connection(lab) as conn:
        for _ in range(64):
            token_of(conn, OPTIONS)
        expect_error(libvirt.VIR_ERR_OPERATION_FAILED, control, conn, OPTIONS)


def test_format_by_request_where_libvirt_sees_raw(t):
    with t.lab('clean') as lab, connection(lab) as conn:
        (lab.pool_dir / 'broken.qcow2').write_bytes(b'\0' * 65536)
        lab.virsh('pool-refresh', 'default')
        text = expect_error(libvirt.VIR_ERR_OPERATION_UNSUPPORTED, repair, conn, 'broken.qcow2', 'check')
        assert "format 'raw'" in text, text
        argv = repair(conn, 'broken.qcow2', 'check', token_of(conn, OPTIONS))['argv']
        assert argv[argv.index('-f') + 1] == 'qcow2'


def test_jobs_and_abort(t):
    with t.lab('slow') as lab, connection(lab) as conn:
        disk(lab)
        job = StreamJob(conn, volume(conn, 'disk.qcow2'), 'all')
        assert job.until('progress')
        running = wait_for_state(conn, 'running')
        assert (running['mode'], running['pool'], running['volume']) == ('all', 'default', 'disk.qcow2'), running
        assert running['phase'] == 'check' and 0 <= int(running['percent']) <= 100, running
        assert int(running['started']) > 1600000000, running
        answer = control(conn, f"<vol-repair request='abort' job='{running['id']}'/>")
        assert answer.strip() == f"<vol-repair-abort job='{running['id']}' result='sent'/>", answer
        report = job.report()
        assert (report['verdict'], report['error']) == ('failed', 'aborted'), report
        done = wait_for_state(conn, 'done')
        assert (done['id'], done['verdict'], done['exit-code']) == (running['id'], 'failed', '1'), done
        assert "result='done'" in control(conn, f"<vol-repair request='abort' job='{running['id']}'/>")
        expect_error(libvirt.VIR_ERR_INVALID_ARG, control, conn, "<vol-repair request='abort' job='4711'/>")


def test_abort_of_a_job_that_starts(t):
    """Asked again and again from before the job is there: the first answer that knows the job must end it."""
    with t.lab('slow') as lab, connection(lab) as conn, connection(lab) as other:
        disk(lab)
        for number in range(1, 16):
            answers = []

            def ask():
                while not answers:
                    with contextlib.suppress(libvirt.libvirtError):
                        answers.append(control(other, f"<vol-repair request='abort' job='{number}'/>"))

            asker = threading.Thread(target=ask)
            asker.start()
            report = StreamJob(conn, volume(conn, 'disk.qcow2'), 'all').report()
            asker.join()
            assert "result='sent'" in answers[0], (number, answers)
            assert report is None or report['error'] == 'aborted' or report['verdict'] == 'failed', (number, report)


def test_only_recent_jobs_are_listed(t):
    with t.lab('clean') as lab, connection(lab) as conn:
        disk(lab)
        for _ in range(70):
            assert repair(conn, 'disk.qcow2', 'check')['verdict'] == 'clean'
        wait_for_state(conn, 'done')
        listed = [int(j['id']) for j in jobs(conn)]
        assert listed == list(range(70, 6, -1)), listed
        assert len(list(lab.reports_dir.glob('job-*.json'))) == 64


def test_read_only_connection_is_refused(t):
    with t.lab('clean') as lab:
        disk(lab)
        conn = libvirt.openReadOnly(lab.uri)
        expect_error(libvirt.VIR_ERR_OPERATION_DENIED, control, conn, "<vol-repair request='jobs'/>")
        expect_error(libvirt.VIR_ERR_OPERATION_DENIED, repair, conn, 'disk.qcow2', 'check')
        conn.close()
