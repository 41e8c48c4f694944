# Boots the Debian below $1 as machine $2: its systemd is the first process of namespaces of its own.
#
# Begun twice: outside, in a mount namespace, to make a cgroup; and as the first process inside.
set -e
root=$1 name=$2
if [ "$3" != inside ]; then
    # Whatever hierarchies the host has, this one can be mounted beside them.
    mount -t cgroup2 cgroup2 "$root/mnt"
    mkdir -p "$root/mnt/standin-container-$name"
    echo $$ > "$root/mnt/standin-container-$name/cgroup.procs"
    umount "$root/mnt"
    exec unshare --cgroup --net --pid --mount --uts --ipc --propagation private --fork --kill-child \
        /bin/sh "$0" "$root" "$name" inside
fi
hostname "$name"
ip link set lo up
# The cable is plugged in from outside.
for _ in $(seq 500); do ip link show eth0 > /dev/null 2>&1 && break; sleep 0.01; done
mount --bind "$root" "$root"
cd "$root"
mount -t proc proc proc
# Read-only, so that network daemons don't wait for udev.
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for node in null zero full random urandom tty; do
    touch "dev/$node"
    mount --bind "/dev/$node" "dev/$node"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
pivot_root . mnt
umount -l /mnt
exec env -i container=standin PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system \
    < /dev/null > /dev/null 2>&1
