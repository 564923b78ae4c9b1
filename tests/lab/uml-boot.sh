#!/bin/sh
# uml-boot.sh CGROUP KERNEL IMAGE OPTION...: boot the root file system IMAGE with the kernel of the folder KERNEL.
#
# The kernel is a program that wants the libraries it was built with, so it runs in a chroot; its memory is a file in a
# tmpfs. It is a member of CGROUP, and `cgroup.kill` ends it; all mounts are of a namespace of its own and end with it.
set -eu
echo $$ >"$1/cgroup.procs"
shift
exec unshare --mount --propagation private sh -euc '
    kernel=$1 image=$2
    shift 2
    mount -t proc proc "$kernel/proc"
    mount --rbind /dev "$kernel/dev"
    mount -t tmpfs tmpfs "$kernel/tmp"
    touch "$kernel/tmp/disk"
    mount --bind "$image" "$kernel/tmp/disk"
    exec env -i PATH="$PATH" HOME=/tmp TMPDIR=/tmp chroot "$kernel" /usr/bin/linux.uml uml_dir=/tmp/ ubd0=/tmp/disk \
        root=/dev/ubda rw con0=null,fd:1 con=null noreboot "$@"
' sh "$@"
