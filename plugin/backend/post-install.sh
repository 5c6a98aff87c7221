#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Says, after an installation, what makes libvirt use the extension, and what makes virsh know the command.
bindir=$1
moduledir=$2
unitdir=$3
# In a package's staging directory nobody reads it.
[ -z "$DESTDIR" ] && [ -z "$MESON_INSTALL_QUIET" ] || exit 0
# Meson keeps what a script prints to itself; its own output is what the user sees.
[ -w "/proc/$PPID/fd/1" ] && exec >>"/proc/$PPID/fd/1"
cat <<END

vol-repair: libvirt's storage daemon loads the extension once it has been restarted:
    systemctl daemon-reload && systemctl try-restart libvirtd        (or virtstoraged)
END
case $unitdir in
/usr/lib/systemd/system | /lib/systemd/system | /usr/local/lib/systemd/system | /etc/systemd/system) ;;
*)
    cat <<END
systemd does not look into $unitdir by itself: copy
{libvirtd,virtstoraged}.service.d from there to /etc/systemd/system before that, or set -Dsystemdunitdir.
END
    ;;
esac
# The places that the profile of libvirtd lets it run programs in.
profile=/etc/apparmor.d/usr.sbin.libvirtd
local=/etc/apparmor.d/local/usr.sbin.libvirtd
case $bindir in
/usr/bin | /bin | /usr/sbin | /sbin) ;;
*)
    if [ -e $profile ] && ! grep -qs "^ *$bindir/vol-repair [PU]*x," $local; then
        cat <<END
AppArmor does not let libvirtd run $bindir/vol-repair; this does:
    echo '$bindir/vol-repair PUx,' >>$local && apparmor_parser -r $profile
END
    fi
    ;;
esac
cat <<END
virsh knows the command 'vol-repair' where PATH begins with the front end's directory (virt-vol-repair always works):
    PATH=$moduledir/bin:\$PATH
To remove all of it: ninja -C BUILD uninstall, remove /run/vol-repair, then the first line again.
END
