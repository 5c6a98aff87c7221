#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# make-large.sh FILE-OR-DEVICE SIZE CLUSTER: an image with all of its metadata and COPIED cleared everywhere: a long repair.
set -e
qemu-img create -q -f qcow2 -o cluster_size="$3",preallocation=metadata "$1" "$2"
python3 "$(dirname "$0")/damage.py" "$1" copied
sync "$1"
