#!/bin/busybox sh
# The first process of the machine with systemd: puts the programs under test and the lab's units on the
# disk, and hands over to systemd there.
busybox=/bin/busybox
applets=/vm/applets
$busybox mkdir -p $applets
$busybox --install -s $applets
export PATH=$applets

mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
# In the order of their dependencies.
for module in /vm/modules/*; do
    insmod "$module" || echo "vm: insmod $module failed"
done
mkdir /disk
mount -t ext4 /dev/vda /disk || { echo "vm: no disk"; poweroff -f; }

mkdir -p /disk/vm
mount --bind /vm /disk/vm
# Where `make install` puts them, and where the tests look for them.
for directory in /usr/local/bin "$(cat /vm/directory)"; do
    mkdir -p "/disk$directory"
    mount --bind /vm/bin "/disk$directory"
done
cp -R /vm/files/. /disk/

# What nobody asks for here costs time. tmp.mount would hide the programs of a directory below /tmp.
for unit in docker.service docker.socket lxc.service lxc-net.service lxc-monitord.service tmp.mount \
    e2scrub_all.timer e2scrub_reap.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
    fstrim.timer getty.target systemd-pstore.service netavark-dhcp-proxy.service \
    netavark-dhcp-proxy.socket systemd-hwdb-update.service; do
    ln -sf /dev/null "/disk/etc/systemd/system/$unit"
done
# A test starts it.
rm -f /disk/etc/systemd/system/*.wants/incus* /disk/etc/systemd/system/*.wants/lxcfs.service
wants=/disk/etc/systemd/system/multi-user.target.wants
ln -sf /etc/systemd/system/lab-lan.service "$wants/lab-lan.service"
ln -sf /usr/local/lib/systemd/system/mcrun-keeper.service "$wants/mcrun-keeper.service"
# A machine without its id is one at its first boot, where systemd enables what Debian does not.
echo 5d2c9e1f0b7a4c3e8f6a1b2c3d4e5f60 >/disk/etc/machine-id

mount --move /dev /disk/dev
umount /proc /sys
cd /disk
mount --move . /
exec chroot . /sbin/init
