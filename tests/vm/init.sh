#!/bin/busybox sh
# The first process of the virtual machine: runs the tests of /vm/test that /vm/tests names, one at a
# time, and writes what they print to the port that the host reads.
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

# The only port of the only virtio-serial device.
port=/dev/$(cd /sys/class/virtio-ports && echo *)
export MCRUN_TEST_GUEST=1
{
    while read -r name; do
        # What is printed may end without a newline.
        printf '\n=== begin %s\n' "$name"
        timeout "$(cat /vm/limit)" /vm/test --exact "$name" --include-ignored --nocapture </dev/null 2>&1
        printf '\n=== end %s %d\n' "$name" $?
    done </vm/tests
    echo '=== all'
} >"$port"
poweroff -f
