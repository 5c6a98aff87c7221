#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# Stands in for LVM's programs where the kernel has no device mapper: a volume group is a directory of udev's links.
"""
Started as one of PROGRAMS (a symbolic link), with the arguments that libvirt gives. An LV is a link /dev/VG/LV to a
block device, ../dm-N; a new one gets the device /dev/spare. Anything else is an error, so that nothing passes unseen.
"""
import os
import sys
from pathlib import Path

LV_FIELDS = 'lv_name,origin,uuid,devices,segtype,stripes,seg_size,vg_extent_size,size,lv_attr'
VG_FIELDS = 'vg_size,vg_free'
EXTENT = 4 << 20


def size_of(link):
    with open(link, 'rb') as device:
        return device.seek(0, os.SEEK_END)


def group(name):
    path = Path('/dev') / name
    if not path.is_dir():
        sys.exit(f'  Volume group "{name}" not found')
    return path


def option(args, name):
    return args[args.index(name) + 1]


def lvs(args):
    assert option(args, '--options') == LV_FIELDS and option(args, '--units') == 'b', args
    mark = option(args, '--separator')
    for link in sorted(group(args[-1]).iterdir()):
        size = size_of(link)
        fields = [link.name, '', f'uuid-of-{link.name}', f'{os.path.realpath(link)}(0)', 'linear', '1', size, EXTENT,
                  size, '-wi-a-----']
        print('  ' + mark.join(map(str, fields)))


def vgs(args):
    assert option(args, '--options') == VG_FIELDS, args
    used = sum(size_of(link) for link in group(args[-1]).iterdir())
    print('  ' + option(args, '--separator').join([str(used + (1 << 30)), str(1 << 30)]))


def pvs(args):
    assert args == ['--noheadings', '-o', 'pv_name,vg_name'], args
    print('  /dev/dm-0 vg1')


def vgscan(args):
    assert not args, args


def change(args):
    group(args[-1].removeprefix('/dev/').split('/')[0])


def lvremove(args):
    Path(args[-1]).unlink()


def lvcreate(args):
    assert args[-1] == '--yes', args
    (group(args[-2]) / option(args, '--name')).symlink_to('../spare')


PROGRAMS = {'pvs': pvs, 'vgscan': vgscan, 'lvs': lvs, 'vgs': vgs, 'vgchange': change, 'lvchange': change,
            'lvremove': lvremove, 'lvcreate': lvcreate}

if __name__ == '__main__':
    PROGRAMS[Path(sys.argv[0]).name](sys.argv[1:])
