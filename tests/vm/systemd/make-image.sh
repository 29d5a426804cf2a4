#!/bin/sh
# The image of the lab's unit of podman, with what mcrun needs for its containers.
set -e
mcrun setup podman
root=$(mktemp -d)
mkdir -p "$root/bin" "$root/dev" "$root/proc" "$root/sys" "$root/etc" "$root/tmp"
cp /bin/busybox "$root/bin"
for applet in sh sleep true; do
    ln -s busybox "$root/bin/$applet"
done
tar -C "$root" -c . | podman import - localhost/lab:1
rm -rf "$root"
