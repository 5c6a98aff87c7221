#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# domain.sh NAME FILE-OR-DEVICE: defines a machine without a system in it that has the volume as its disk.
set -e
type=file attribute=file
[ -b "$2" ] && type=block attribute=dev
cat >"/tmp/$1.xml" <<X
<domain type='qemu'><name>$1</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type><boot dev='hd'/></os>
<devices><disk type='$type' device='disk'><driver name='qemu' type='qcow2'/><source $attribute='$2'/><target dev='vda' bus='virtio'/></disk>
<memballoon model='none'/></devices></domain>
X
virsh -q define "/tmp/$1.xml"
