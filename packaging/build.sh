#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# build.sh: makes packages from a copy of the tree, into build/packages. Called by `./run package`; needs no network.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

kind=deb lintian=yes
for word in "$@"; do
    case $word in
    --rpm) kind=rpm ;;
    --no-lintian) lintian=no ;;
    *)
        echo "usage: ./run package [--rpm] [--no-lintian]" >&2
        exit 2
        ;;
    esac
done

out=$PWD/build/packages
version=$(sed -n "s/^  version: '\(.*\)',$/\1/p" meson.build)
tree=$out/$kind/vol-repair-$version

# The files of the tree: as git knows them, or all but what was built.
list_files() {
    git ls-files -co --exclude-standard -z 2>/dev/null || find . -path ./build -prune -o -type f -print0
}

# A file that git still lists and that is gone is no file of the tree.
present() {
    local file
    while IFS= read -r -d '' file; do
        [ ! -e "$file" ] || printf '%s\0' "$file"
    done
}

copy_tree() {
    rm -rf "${out:?}/$kind"
    mkdir -p "$tree"
    list_files | present | tar -c --null -T - | tar -x -C "$tree"
}

build_deb() {
    cp -r packaging/debian "$tree/debian"
    # Packages of debugging symbols only where they are asked for.
    export DEB_BUILD_OPTIONS="${DEB_BUILD_OPTIONS-noautodbgsym}"
    if ! (cd "$tree" && dpkg-buildpackage -us -uc -b) >"$out/build.log" 2>&1; then
        tail -n 60 "$out/build.log" >&2
        echo "run: the packages could not be built; all of it is in build/packages/build.log" >&2
        exit 1
    fi
    [ "$lintian" = no ] || look_at_debs
    # What a host wants is by itself, so that a pattern can name it.
    rm -rf "$out"/*.deb "$out/dev"
    mkdir "$out/dev"
    mv "$out"/deb/*-dev_*.deb "$out/dev"
    mv "$out"/deb/*.deb "$out"
    rm -rf "${out:?}/deb"
    (cd "$out" && ls -- *.deb dev/*.deb)
    echo "run: as root, apt-get install ./build/packages/*.deb"
}

# At its default level, where nothing may be said.
look_at_debs() {
    local said root=()
    [ "$(id -u)" != 0 ] || root=(--allow-root)
    said=$(lintian "${root[@]}" --tag-display-limit 0 "$out"/deb/*.changes 2>&1) || true
    [ -z "$said" ] || {
        echo "$said" >&2
        echo "run: lintian has something to say of the packages" >&2
        exit 1
    }
    echo "run: lintian has nothing to say"
}

build_rpm() {
    local top=$out/rpm/top
    mkdir -p "$top/SOURCES"
    tar -C "$out/rpm" -czf "$top/SOURCES/vol-repair-$version.tar.gz" "vol-repair-$version"
    # Debian's rpm has no database of what is installed; meson asks for the libraries itself.
    if ! rpmbuild --nodeps --define "_topdir $top" -bb packaging/rpm/vol-repair.spec >"$out/rpm.log" 2>&1; then
        tail -n 60 "$out/rpm.log" >&2
        echo "run: the RPMs could not be built; all of it is in build/packages/rpm.log" >&2
        exit 1
    fi
    rm -f "$out"/*.rpm
    mv "$top"/RPMS/*/*.rpm "$out"
    rm -rf "${out:?}/rpm"
    (cd "$out" && ls -- *.rpm)
}

copy_tree
"build_$kind"
