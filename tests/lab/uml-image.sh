#!/bin/sh
# uml-image.sh ROOT FILES DEB IMAGE: make IMAGE, an ext4 file system of ROOT with FILES copied over it and DEB installed.
#
# ROOT stays as it is: this works on an overlay, in a mount namespace of its own.
set -eu
exec unshare --mount --propagation private sh -euc '
    mount -t tmpfs -o mode=755 tmpfs /mnt
    mkdir /mnt/upper /mnt/work /mnt/root
    mount -t overlay overlay -o "lowerdir=$1,upperdir=/mnt/upper,workdir=/mnt/work" /mnt/root
    cp -r --preserve=mode "$2/." /mnt/root
    cp "$3" /mnt/root/root/llamad.deb
    mount -t proc proc /mnt/root/proc
    chroot /mnt/root dpkg --install /root/llamad.deb
    chroot /mnt/root systemctl disable llamad.service
    chroot /mnt/root systemctl enable lab-agent.service
    chroot /mnt/root systemctl set-default multi-user.target
    umount /mnt/root/proc
    truncate -s 1G "$4"
    mke2fs -q -t ext4 -O ^has_journal -d /mnt/root "$4"
' sh "$@"
