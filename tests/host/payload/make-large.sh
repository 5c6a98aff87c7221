#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# make-large.sh FILE-OR-DEVICE: puts the image of /dev/vdd there (image.py makes it): its repair takes long.
set -e
mkdir -p /srv/large
mountpoint -q /srv/large || mount -o ro /dev/vdd /srv/large
if [ -b "$1" ]; then
    python3 "$(dirname "$0")/datahash.py" --copy /srv/large/large.qcow2 "$1"
else
    cp --sparse=always /srv/large/large.qcow2 "$1"
fi
sync "$1"
