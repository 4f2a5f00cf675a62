#!/usr/bin/env bash
# Start a SLURM of one node, run a study through it and stop it again: a test of the profile. Needs root.
#
#   apt-get install --yes slurm-wlm munge && .venv/bin/pip install --requirement envs/slurm.txt
#   profiles/slurm/one-node.sh config/test.yaml
#
# SLURM writes into a temporary folder only; an installed SLURM is not touched. PYTHON names another interpreter than that
# of .venv.
set -euo pipefail
cd "$(dirname "$0")/../.."
config=${1:?name a config, such as config/test.yaml}
python=${PYTHON:-.venv/bin/python}
for program in munged slurmctld slurmd srun "$python"; do
    if ! command -v "$program" > /dev/null; then
        echo "error: $program is missing here: see the first lines of profiles/slurm/one-node.sh." >&2
        exit 1
    fi
done
folder=$(mktemp -d /tmp/one-node.XXXXXX)
node=$(hostname -s)
cores=$(getconf _NPROCESSORS_ONLN)

stop() {
    for daemon in slurmd slurmctld munged; do
        if [ -s "$folder/$daemon.pid" ]; then
            pid=$(cat "$folder/$daemon.pid")
            kill "$pid" 2>/dev/null || true
            for _ in $(seq 100); do  # it saves its state before it ends
                kill -0 "$pid" 2>/dev/null || break
                sleep 0.1
            done
        fi
    done
    rm -rf "$folder"
}
trap stop EXIT

echo "a SLURM of one node in $folder"

free_ports() {
    "$python" -c "
import socket
sockets = [socket.socket() for _ in range(2)]
for one in sockets:
    one.bind(('127.0.0.1', 0))
print(*(one.getsockname()[1] for one in sockets))"
}
read -r controller_port node_port < <(free_ports)

# Authentication between the daemons: a separate munge.
dd if=/dev/urandom of="$folder/munge.key" bs=1024 count=1 status=none
chmod 400 "$folder/munge.key"
chmod 711 "$folder"
munged --force --key-file "$folder/munge.key" --socket "$folder/munge.socket" --pid-file "$folder/munged.pid" \
    --log-file "$folder/munged.log" --seed-file "$folder/munge.seed"

memory_mb=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
cat > "$folder/slurm.conf" <<END
ClusterName=one
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=$controller_port
SlurmdPort=$node_port
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
NodeName=$node NodeAddr=127.0.0.1 CPUs=$cores RealMemory=$memory_mb State=UNKNOWN
PartitionName=one Nodes=$node Default=YES MaxTime=INFINITE State=UP
END
mkdir "$folder/state" "$folder/spool" "$folder/bin"
export SLURM_CONF="$folder/slurm.conf"

# A job's own steps do not see SLURM_CONF.
printf '#!/bin/sh\nexport SLURM_CONF=%s\nexec %s "$@"\n' "$SLURM_CONF" "$(command -v srun)" > "$folder/bin/srun"
chmod 755 "$folder/bin/srun"
export PATH="$folder/bin:$PATH"

slurmctld -c -f "$SLURM_CONF"
slurmd -c -f "$SLURM_CONF" -N "$node"
for _ in $(seq 60); do
    if [ "$(sinfo --noheader --format=%T 2>/dev/null)" = idle ]; then break; fi
    sleep 0.5
done
if [ "$(sinfo --noheader --format=%T)" != idle ]; then
    echo "error: the node did not start; the end of its log:" >&2
    tail "$folder/slurmctld.log" "$folder/slurmd.log" >&2
    exit 1
fi

"$python" -m study.slurm --config "$config" --machine cpu --out "$folder/profile"
start=$SECONDS
# There is no accounting database: squeue gives the state of jobs, and no account is charged.
"$python" -m snakemake --configfile "$config" --workflow-profile "$folder/profile" \
    --default-resources slurm_partition=one mem_mb=2000 runtime=10 --slurm-no-account --slurm-status-command squeue \
    --slurm-init-seconds-before-status-checks 3 --slurm-keep-successful-logs --latency-wait 5 \
    "${@:2}"
jobs=$(grep -c "_slurm_rpc_submit_batch_job: JobId=" "$folder/slurmctld.log" || true)
echo "$jobs jobs went through SLURM in $((SECONDS - start)) s"
