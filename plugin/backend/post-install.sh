#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Says, after an installation, what makes libvirt use the extension.
backenddir=$1
unitdir=$2
[ -n "$MESON_INSTALL_QUIET" ] && exit 0
# Meson keeps what a script prints to itself; its own output is what the user sees.
[ -w "/proc/$PPID/fd/1" ] && exec >>"/proc/$PPID/fd/1"
cat <<EOF

vol-repair: libvirt's storage daemon loads the extension when its environment holds
    LIBVIRT_STORAGE_BACKEND_DIR=$backenddir
With systemd the drop-ins in $unitdir/{libvirtd,virtstoraged}.service.d set it; run
    systemctl daemon-reload && systemctl restart libvirtd        (or virtstoraged)
EOF
case $unitdir in
/usr/lib/systemd/system | /lib/systemd/system | /usr/local/lib/systemd/system | /etc/systemd/system) ;;
*)
    echo "systemd does not look there by itself: copy them to /etc/systemd/system, or set -Dsystemdunitdir."
    ;;
esac
