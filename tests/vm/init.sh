#!/bin/busybox sh
# The first process of the bare machine: runs the tests.
busybox=/bin/busybox
applets=/vm/applets

# runc's pivot_root(2) refuses the initial file system. What is mounted over it will do.
if [ "$1" != again ]; then
    $busybox mount -t proc none /proc
    $busybox mkdir -p /again
    $busybox mount --bind / /again
    cd /again || exit 1
    $busybox mount --move . /
    exec $busybox chroot . /init again
fi

# Applets stand behind the programs of their names.
$busybox mkdir -p $applets
$busybox --install -s $applets
export PATH=/usr/sbin:/usr/bin:/sbin:/bin:$applets HOME=/root

mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts none /dev/pts
mount -t tmpfs none /dev/shm
mount -t cgroup2 none /sys/fs/cgroup
ip link set lo up

# In the order of their dependencies.
for module in /vm/modules/*; do
    insmod "$module" || echo "vm: insmod $module failed"
done

/vm/run-tests
poweroff -f
