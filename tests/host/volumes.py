# SPDX-License-Identifier: LGPL-2.1-or-later
"""volumes.py: what works on a complete host: every kind of pool, every door, domains in every state, and the confinement."""
import json
import time

from lab import (IMAGES, JOURNALS, PAYLOAD, Skip, checksum, clears_and_undoes, create_from, domain, ended, forget_domain, make, matches, never_says,
                 pools_are_well, repair, report_of, restart_daemon, same, says)


def host_is_complete(host):
    """AppArmor enforces libvirtd's profile, kvm_amd gives /dev/kvm, and stock libvirt is there with its own rules."""
    matches(host.do('aa-status'), r'processes are in enforce mode')
    host.do('virsh -q list >/dev/null')
    profile = host.do('cat /proc/$(pidof -s libvirtd)/attr/current')
    says(profile, 'libvirtd (enforce)')
    says(host.do('lsmod'), 'kvm_amd')
    matches(host.do('ls -l /dev/kvm'), r'crw-rw----.* root kvm ')
    print('     ' + ', '.join(host.do('uname -r; virsh --version; qemu-system-x86_64 --version | head -n 1; . /etc/os-release; '
                                      'echo $PRETTY_NAME').splitlines()))


def directory_pool_as_root(host):
    make(host, f'{IMAGES}/a.qcow2', 'zero', 'copied')
    clears_and_undoes(host, 'default a.qcow2', f'{IMAGES}/a.qcow2')


def directory_pool_as_group_libvirt(host):
    make(host, f'{IMAGES}/b.qcow2', 'zero')
    before = checksum(host, f'{IMAGES}/b.qcow2')
    ended(repair(host, 'default b.qcow2', 'check', user='alice'), 2)
    said = repair(host, 'default b.qcow2', 'all', user='alice')
    ended(said, 0)
    says(said, 'is repaired')
    ended(repair(host, 'default b.qcow2', 'undo', user='alice'), 0)
    same('the image after an undo', checksum(host, f'{IMAGES}/b.qcow2'), before)


def strangers_are_refused(host):
    said = repair(host, 'default b.qcow2', 'all', user='bob')
    ended(said, 1)
    matches(said, r'polkit|authentication|permission')
    ended(host.type(f'ls {JOURNALS}', user='alice'), 2)
    matches(host.do(f'stat -c "%a %U" {JOURNALS}/..'), r'^700 root')


def leaks_refused_with_advice(host):
    make(host, f'{IMAGES}/c.qcow2', 'rebuild')
    said = repair(host, 'default c.qcow2', 'leaks')
    assert said.code in (1, 2), said
    says(said, 'all')
    ended(repair(host, 'default c.qcow2', 'all'), 0)


def apparmor_denies_nothing(host):
    denied = host.type('journalctl -q --no-pager -k -g DENIED; grep -h DENIED /var/log/audit/audit.log')
    for line in denied.splitlines():
        assert 'vol-repair' not in line or '/usr/local/' in line, line  # n04 provokes those


def confinement(host):
    """While a long check runs: the front is root's, the child is nobody's, without rights, and under seccomp."""
    host.do(f'{PAYLOAD}/make-large.sh {IMAGES}/long.qcow2; virsh -q pool-refresh default', timeout=600)
    job = host.start(f'{PAYLOAD}/client.py default long.qcow2 check')
    try:
        start = json.loads(job.stdout.readline())
        text = host.do(f'for p in $(pgrep -x vol-repair); do echo "pid $p"; grep -E "^(Uid|Gid|CapEff|NoNewPrivs|Seccomp):" /proc/$p/status; '
                       'cat /proc/$p/cgroup /proc/$p/attr/current; done')
        host.do(f'kill {start["pid"]}')  # it ends at a safe point, with a report
    finally:
        rest = job.stdout.read()
        job.wait()
    assert start['event'] == 'start', start
    assert report_of(rest)['accel'] == 'kvm', report_of(rest)
    children = text.split('pid ')[1:]
    assert len(children) >= 2, text
    nobody = [child for child in children if 'Uid:\t65534' in child]
    assert nobody, f'no process runs as nobody: {text}'
    if host.packages:
        says(text, 'libvirt-vol-repair (enforce)')
    says(nobody[0], 'Gid:\t65534', 'CapEff:\t0000000000000000', 'NoNewPrivs:\t1', 'Seccomp:\t2', f'{host.daemon}.service')


def without_dev_kvm(host):
    make(host, f'{IMAGES}/d.qcow2', 'copied')
    host.do('mv /dev/kvm /dev/kvm-away')
    try:
        said = host.type('virsh vol-repair default d.qcow2 --mode=all --json')
    finally:
        host.do('mv /dev/kvm-away /dev/kvm')
    ended(said, 0)
    report = json.loads(said)
    report = report.get('report', report)
    same('accel', report['accel'], 'process')
    says(report['accel-reason'], '/dev/kvm')


def file_system_pool(host):
    make(host, '/srv/fs/e.qcow2', 'zero')
    clears_and_undoes(host, 'fs1 e.qcow2', '/srv/fs/e.qcow2')


def nfs_pool(host):
    make(host, '/mnt/nfs1/f.qcow2', 'zero')
    clears_and_undoes(host, 'nfs1 f.qcow2', '/mnt/nfs1/f.qcow2')


def create_from_door(host):
    make(host, f'{IMAGES}/g.qcow2', 'zero')
    create_from(host, 'g.qcow2.repair-all.json', 'g.qcow2 --inputpool default')
    report = json.loads(host.do(f'cat {IMAGES}/g.qcow2.repair-all.json'))
    same('the verdict', report['verdict'], 'repaired')
    host.do(f'qemu-img check -q -f qcow2 {IMAGES}/g.qcow2')


def stock_clients_and_control_door(host):
    says(host.do(f'{PAYLOAD}/client.py "<vol-repair request=\'capabilities\'/>"'), "usable='yes'", "<door name='stream'/>")
    make(host, f'{IMAGES}/h.qcow2', 'zero')
    report = report_of(host.do(f'{PAYLOAD}/client.py default h.qcow2 all'))
    same('the verdict', report['verdict'], 'repaired')
    jobs = host.do(f'{PAYLOAD}/client.py "<vol-repair request=\'jobs\'/>"')
    matches(jobs, r"volume='h\.qcow2' state='done'")


def events(host):
    make(host, f'{IMAGES}/i.qcow2', 'zero')
    watch = host.start('timeout 40 virsh pool-event --event refresh --loop')
    time.sleep(5)
    ended(repair(host, 'default i.qcow2', 'all'), 0)
    said = watch.communicate()[0]
    assert said.count('pool vol-repair') >= 2 or said.count("pool 'vol-repair'") >= 2, said
    matches(said, r"pool '?default")


def running_and_paused_domains(host):
    path = f'{IMAGES}/j.qcow2'
    make(host, path, 'leak')
    domain(host, 'dj', path)
    try:
        for state in ('start', 'suspend'):
            host.do(f'virsh -q {state} dj')
            before = checksum(host, path)
            said = repair(host, 'default j.qcow2', 'all')
            ended(said, 1)
            matches(said, r'lock|use|running')
            same('the image', checksum(host, path), before)
        host.do('virsh -q destroy dj')
        ended(repair(host, 'default j.qcow2', 'all'), 0)
    finally:
        forget_domain(host, 'dj')


def nfs_in_use_is_refused_everywhere(host):
    path = '/mnt/nfs1/k.qcow2'
    make(host, path, 'leak')
    domain(host, 'dk', path)
    host.do('virsh -q start dk')
    try:
        before = checksum(host, path)
        ended(repair(host, 'nfs1 k.qcow2', 'all'), 1)
        ended(host.type('vol-repair --mode=all -f qcow2 /srv/nfs1/k.qcow2'), 1)
        same('the image', checksum(host, path), before)
    finally:
        forget_domain(host, 'dk')


def symbolic_link_is_refused(host):
    make(host, '/srv/fs/away.qcow2', 'zero')
    host.do(f'ln -s /srv/fs/away.qcow2 {IMAGES}/link.qcow2; virsh -q pool-refresh default')
    before = checksum(host, '/srv/fs/away.qcow2')
    said = repair(host, 'default link.qcow2', 'all')
    ended(said, 1)
    says(said, 'symbolic link')
    same('the image', checksum(host, '/srv/fs/away.qcow2'), before)
    host.do(f'rm {IMAGES}/link.qcow2; virsh -q pool-refresh default')


def socket_activation(host):
    host.do(f'systemctl stop {host.daemon}; systemctl start {host.daemon}.socket')
    make(host, f'{IMAGES}/l.qcow2', 'zero')
    ended(repair(host, 'default l.qcow2', 'all'), 0)


def upgrade_of_libvirt(host):
    """The packages of libvirt are unpacked and set up once more, as an upgrade does; the extension is in use afterwards."""
    host.do('DEBIAN_FRONTEND=noninteractive dpkg -i /root/debs/libvirt*.deb', timeout=600)
    pools_are_well(host)
    make(host, f'{IMAGES}/m.qcow2', 'zero')
    ended(repair(host, 'default m.qcow2', 'all'), 0)


def modular_daemons(host):
    """virtstoraged and virtqemud in libvirtd's place."""
    if host.type('command -v virtstoraged virtqemud').code != 0:
        raise Skip('this release packages no virtstoraged and virtqemud')
    host.do('systemctl disable --now libvirtd.service libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket; '
            'systemctl enable --now virtqemud.socket virtstoraged.socket virtstoraged-ro.socket', timeout=400)
    host.daemon = 'virtstoraged'
    try:
        make(host, f'{IMAGES}/n.qcow2', 'zero')
        clears_and_undoes(host, 'default n.qcow2', f'{IMAGES}/n.qcow2')
    finally:
        host.do('systemctl disable --now virtqemud.socket virtqemud.service virtstoraged.socket virtstoraged-ro.socket '
                'virtstoraged.service; systemctl enable --now libvirtd.socket libvirtd-ro.socket libvirtd.service', timeout=400)
        host.daemon = 'libvirtd'


def man_pages_and_completion(host):
    says(host.do('man -P cat vol-repair'), 'UNDO JOURNALS')
    says(host.do('man -P cat virt-vol-repair'), 'EXAMPLES')
    for words in ('virsh vol-rep', 'virt-vol-repair --mo'):
        typed = host.do(f"bash -ic 'source /usr/share/bash-completion/bash_completion; w=({words}); _completion_loader ${{w[0]}}; "
                        'COMP_WORDS=("${w[@]}") COMP_CWORD=1 COMP_LINE="${w[*]}" COMP_POINT=${#COMP_LINE}; '
                        "f=$(complete -p ${w[0]} | sed \"s/.*-F //; s/ .*//\"); $f ${w[0]} ${w[1]} ${w[0]}; echo \"found: ${COMPREPLY[*]}\"' 2>/dev/null")
        matches(typed, r'found: .*(vol-repair|--mode)')


TESTS = [directory_pool_as_root, directory_pool_as_group_libvirt, strangers_are_refused, leaks_refused_with_advice, confinement,
         without_dev_kvm, file_system_pool, nfs_pool, create_from_door, stock_clients_and_control_door, events,
         running_and_paused_domains, nfs_in_use_is_refused_everywhere, symbolic_link_is_refused, socket_activation,
         man_pages_and_completion, upgrade_of_libvirt, modular_daemons, apparmor_denies_nothing]
