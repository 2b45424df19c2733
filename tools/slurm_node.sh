#!/bin/sh
# A Slurm cluster of this machine alone, to try `--executor=slurm` on; as root, with
# Debian's packages slurm-wlm and munge. Nothing survives a restart.
#
# > sh tools/slurm_node.sh start    # or stop
set -eu
state=${TMPDIR:-/tmp}/slurm_node
export SLURM_CONF=/etc/slurm/slurm.conf
if [ -f "$SLURM_CONF" ] && ! grep -q "^ClusterName=one$" "$SLURM_CONF"; then
    echo "$SLURM_CONF is another cluster's" && exit 1
fi
if [ "$1" = stop ]; then
    scontrol shutdown || true
    kill "$(cat /run/munge/munged.pid)"
    exit
fi
mkdir -p "$state/ctld" "$state/d" /run/munge /etc/slurm
[ -s /etc/munge/munge.key ] || head -c 1024 /dev/urandom >/etc/munge/munge.key
chown -R munge:munge /etc/munge /run/munge /var/lib/munge /var/log/munge
chmod 400 /etc/munge/munge.key
chmod 755 /run/munge
su -s /bin/sh -c /usr/sbin/munged munge
cat >"$SLURM_CONF" <<CONF
ClusterName=one
SlurmctldHost=$(hostname -s)
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=$state/ctld
SlurmdSpoolDir=$state/d
SlurmctldPidFile=$state/ctld.pid
SlurmdPidFile=$state/d.pid
SlurmctldLogFile=$state/ctld.log
SlurmdLogFile=$state/d.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobRequeue=1
MinJobAge=60
ReturnToService=2
NodeName=$(hostname -s) CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
slurmctld -c
slurmd -c
for _ in 1 2 3 4 5 6 7 8 9 10; do
    sinfo -h -o %T | grep -q idle && sinfo && exit
    sleep 1
done
echo "no idle node; see $state/*.log" && exit 1
