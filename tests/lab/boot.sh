#!/bin/sh
# boot.sh CGROUP MOUNTPOINT ROOT NAME [NSPAWN OPTION...]: boot the systemd of ROOT in a container, in the foreground.
#
# A container wants a cgroup2 hierarchy at /sys/fs/cgroup; a host that still has v1 controllers mounts it elsewhere. So
# this joins CGROUP (a directory of the host's cgroup2 mount), takes a mount namespace of its own, and mounts what it
# needs there: cgroup2, a tmpfs for what nspawn and the container write, an overlay over ROOT, which stays as it is.
# All mounts end with the last process of the namespace, and `cgroup.kill` ends that: nothing is left on the host.
set -eu
echo $$ >"$1/cgroup.procs"
shift
exec unshare --mount --propagation private sh -euc '
    here=$1 root=$2 name=$3
    shift 3
    umount -R /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mount -t tmpfs -o mode=755 tmpfs /run
    mount -t tmpfs -o mode=755 tmpfs "$here"
    mkdir "$here/upper" "$here/work" "$here/root"
    mount -t overlay overlay -o "lowerdir=$root,upperdir=$here/upper,workdir=$here/work" "$here/root"
    export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 SYSTEMD_SECCOMP=0 SYSTEMD_NSPAWN_LOCK=0
    exec systemd-nspawn --directory="$here/root" --machine="$name" --boot --register=no --keep-unit --console=pipe \
        --capability=all --private-network --link-journal=no --resolv-conf=off --timezone=off "$@"
' sh "$@"
