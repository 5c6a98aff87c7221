#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# make.sh FILE-OR-DEVICE SIZE KIND...: a qcow2 image with 8 MiB of data in it, then damaged by damage.py.
set -e
target=$1 size=$2
shift 2
qemu-img create -q -f qcow2 "$target" "$size"
qemu-io -f qcow2 -c 'write -q -P 0x5a 0 8M' "$target"
[ $# = 0 ] || python3 "$(dirname "$0")/damage.py" "$target" "$@"
sync "$target"
