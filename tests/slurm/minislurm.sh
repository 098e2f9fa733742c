#!/bin/bash
# A real multi-node Slurm on this machine, for tests: munged, slurmctld, and one slurmd per fake node with two fake GPUs.
#
#   minislurm.sh up|down|conf BASE [NODES] [none|dbd]     any user; loopback only; neither systemd nor cgroups
#   minislurm.sh start-controller BASE                    slurmctld again, after it was killed
#   minislurm.sh start-node BASE NAME                     slurmd of one node again, after it was killed
#
# "dbd" adds MariaDB and slurmdbd (sacct works), with one account: lab. Environment: MINISLURM_PORT (slurmctld; +1 slurmdbd; +11... slurmd),
# MINISLURM_MAXARRAY (MaxArraySize), MINISLURM_PROLOG (a script that nodes run before each job). Clients need SLURM_CONF=BASE/etc/slurm.conf.
set -u
CMD=$1; B=$2; N=${3:-4}; ACCT=${4:-none}
PORT=${MINISLURM_PORT:-16800}
ME=$(id -un); export SLURM_CONF=$B/etc/slurm.conf
PATH=$PATH:/usr/sbin:/sbin
conf() {
  mkdir -p $B/{etc,state,log,run,spool}; chmod 755 $B $B/run
  [ -f $B/etc/munge.key ] || { (umask 077; head -c 1024 /dev/urandom > $B/etc/munge.key); chmod 400 $B/etc/munge.key; }
  cat > $B/etc/slurm.conf <<EOF
ClusterName=mini
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$PORT
SlurmUser=$ME
SlurmdUser=$ME
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$B/run/munge.sock,cred_expire=5
StateSaveLocation=$B/state
SlurmdSpoolDir=$B/spool/%n
SlurmctldPidFile=$B/run/slurmctld.pid
SlurmdPidFile=$B/run/slurmd-%n.pid
SlurmctldLogFile=$B/log/slurmctld.log
SlurmdLogFile=$B/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
MailProg=/bin/true
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=10
MinJobAge=300
KillWait=5
JobRequeue=1
MaxArraySize=${MINISLURM_MAXARRAY:-1001}
GresTypes=gpu
NodeName=n[1-$N] NodeHostname=localhost NodeAddr=127.0.0.1 Port=$((PORT+11))-$((PORT+10+N)) CPUs=4 RealMemory=4000 Gres=gpu:2
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=15
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
EOF
  if [ -n "${MINISLURM_PROLOG:-}" ]; then echo "Prolog=$MINISLURM_PROLOG" >> $B/etc/slurm.conf; fi
  echo "NodeName=n[1-$N] Name=gpu File=/dev/null,/dev/zero" > $B/etc/gres.conf
  if [ $ACCT = dbd ]; then
    cat >> $B/etc/slurm.conf <<EOF
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((PORT+1))
AccountingStoragePass=$B/run/munge.sock
AccountingStorageTRES=gres/gpu
AccountingStorageEnforce=associations
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
EOF
    (umask 077; cat > $B/etc/slurmdbd.conf <<EOF
AuthType=auth/munge
AuthInfo=socket=$B/run/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((PORT+1))
SlurmUser=$ME
PidFile=$B/run/slurmdbd.pid
LogFile=$B/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=$ME
StorageLoc=slurm_acct_db
EOF
)
  else
    echo "AccountingStorageType=accounting_storage/none" >> $B/etc/slurm.conf
    echo "JobAcctGatherType=jobacct_gather/none" >> $B/etc/slurm.conf
  fi
}
try() { local n=$1; shift; for _ in $(seq $n); do "$@" >/dev/null 2>&1 && return 0; sleep 0.1; done; echo "timed out: $*" >&2; return 1; }
idle() { [ "$(timeout 3 sinfo -h -N -p main -o %T | grep -c '^idle$')" -ge $N ]; }
up() {
  conf
  munged --key-file=$B/etc/munge.key --socket=$B/run/munge.sock --pid-file=$B/run/munged.pid \
     --log-file=$B/log/munged.log --seed-file=$B/run/munge.seed --num-threads=4 || return 1
  if [ $ACCT = dbd ]; then
    [ -d $B/db/mysql ] || mariadb-install-db --no-defaults --user=$ME --datadir=$B/db --auth-root-authentication-method=socket \
        --auth-root-socket-user=$ME --skip-test-db > $B/log/dbinst.log 2>&1 || return 1
    setsid mariadbd --no-defaults --user=$ME --datadir=$B/db --socket=$B/run/mysql.sock --pid-file=$B/run/mariadbd.pid --skip-networking \
        --innodb-buffer-pool-size=64M --innodb-flush-log-at-trx-commit=0 --innodb-lock-wait-timeout=900 > $B/log/mariadb.log 2>&1 < /dev/null &
    try 100 mariadb-admin --no-defaults -u $ME -S $B/run/mysql.sock ping || return 1
    mariadb --no-defaults -u $ME -S $B/run/mysql.sock -e "create database if not exists slurm_acct_db"
    MYSQL_UNIX_PORT=$B/run/mysql.sock slurmdbd || return 1
    try 100 timeout 5 sacctmgr -n -i list cluster || return 1
    timeout 20 sacctmgr -i add cluster mini >/dev/null 2>&1
    timeout 20 sacctmgr -i add account lab cluster=mini >/dev/null 2>&1
    timeout 20 sacctmgr -i add user $ME account=lab cluster=mini >/dev/null 2>&1
  fi
  slurmctld || return 1
  for i in $(seq $N); do slurmd -N n$i || return 1; done
  try 300 idle || { sinfo -N -o '%N %T %E' >&2; return 1; }
}
alive() { [ -r /proc/$1/status ] && ! grep -q '^State:.Z' /proc/$1/status; }   # a zombie counts as gone
stop() { local f p pids=()                                # read the pids first: daemons remove their pid files
  for f in "$@"; do [ -s "$f" ] && pids+=($(cat "$f")); done
  for p in "${pids[@]}"; do kill $p 2>/dev/null; done
  for p in "${pids[@]}"; do
    for _ in $(seq 100); do alive $p || continue 2; sleep 0.1; done
    echo "KILL -9 $p" >&2; kill -9 $p; done; }
down() { shopt -s nullglob
  timeout 10 scancel -u $ME 2>/dev/null; for _ in $(seq 50); do [ -z "$(timeout 3 squeue -h 2>/dev/null)" ] && break; sleep 0.1; done
  # slurmds first and while munged is up: an slurmd that cannot authenticate takes minutes to die
  stop $B/run/slurmd-*.pid; stop $B/run/slurmctld.pid; stop $B/run/slurmdbd.pid; stop $B/run/mariadbd.pid; stop $B/run/munged.pid; }
case $CMD in
  up|down|conf) $CMD ;;
  start-controller) slurmctld ;;
  start-node) slurmd -N "$3" ;;
  *) echo "usage: minislurm.sh up|down|conf|start-controller|start-node BASE ..." >&2; exit 2 ;;
esac
