#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# The guest's first process. The host's root is mounted read-only by 9p; a tmpfs is laid over it, so
# that programs may write where they like and the host sees none of it. Then guest.py takes over.
set -e
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
cd /mnt/root
mkdir -p mnt/old
pivot_root . mnt/old
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tracefs tracefs /sys/kernel/tracing
mkdir -p /run/ext4 /run/share /run/tmpfs
mount -t tmpfs -o mode=1777 tmpfs /run/tmpfs
mount -t ext4 /dev/vda /run/ext4
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 share /run/share
swapon /dev/vdb
exec "$GUEST_PYTHON" -u "$GUEST_TREE/kernel/vm/guest.py" </dev/null >/dev/console 2>&1
