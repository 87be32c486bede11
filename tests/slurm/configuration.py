"""The configuration files of the cluster, as templates, and the function that writes them.

All waiting times have the shortest values that Slurm accepts.
"""

import os
import stat
from pathlib import Path

from tests.slurm.system import free_ports

HEAD = "head"
CPUS = 4
MEMORY = 6000
"""The memory of a node, in MB."""
GPUS = 2

SLURM = """\
ClusterName=test
SlurmctldHost={head}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A job is requeued only after its credential has expired: 120 s by default, less than 5 is refused.
AuthInfo=socket={folder}/run/munge.sock,cred_expire=5
# Loopback only.
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny

StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
SlurmctldDebug=verbose
SlurmdDebug=verbose
MailProg=/bin/true

AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={accounting_port}
AccountingStoragePass={folder}/run/munge.sock
AccountingStorageTRES=gres/gpu
JobAcctGatherType=jobacct_gather/none

# Control groups are not at hand everywhere.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none

SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# The warning signal of --signal is sent before a preemption, too.
PreemptParameters=send_user_signal
JobRequeue=1

# A node that takes longer than SlurmdTimeout to answer is given up; with 15 s, healthy ones were.
SlurmdTimeout=30
SlurmctldTimeout=10
# Between SIGTERM and SIGKILL: time to save for a training on a busy machine.
KillWait=20
CompleteWait=0
InactiveLimit=0
OverTimeLimit=0
# Finished jobs stay in the controller's memory for the length of any test.
MinJobAge=86400

GresTypes=gpu
DefMemPerCPU=100
# Believe the sizes below rather than those of the machine.
SlurmdParameters=config_overrides
ReturnToService=2
{nodes}

PartitionName=DEFAULT Nodes=ALL State=UP MaxTime=1:00:00 DefaultTime=10 PreemptMode=OFF
PartitionName=normal PriorityTier=10 Default=YES
PartitionName=low PriorityTier=1 PreemptMode=REQUEUE GraceTime=10
PartitionName=low-now PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=high PriorityTier=100
PartitionName=short PriorityTier=10 MaxTime=1 DefaultTime=1
"""

NODE = (
    "NodeName={name} NodeHostname={name} NodeAddr=127.0.0.1 Port={port} "
    f"CPUs={CPUS} RealMemory={MEMORY} Gres=gpu:fake:{GPUS} State=UNKNOWN"
)

GRES = f"""\
AutoDetect=off
Name=gpu Type=fake File={{folder}}/gpu/[0-{GPUS - 1}]
"""

CGROUP = """\
CgroupPlugin=disabled
"""

ACCOUNTING = """\
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock
DbdHost={head}
DbdAddr=127.0.0.1
DbdPort={accounting_port}
SlurmUser=root
PidFile={folder}/run/slurmdbd.pid
LogFile={folder}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=accounting
CommunicationParameters=NoInAddrAny
# Write at once: tests ask right after a job has ended.
CommitDelay=0
"""


def write_configuration(folder: Path, nodes: list[str]) -> None:
    """Write the files of a cluster of `nodes` to FOLDER/etc; make the folders they name.

    The cluster listens on ports that are free now.
    """
    etc = folder / "etc"
    for name in ("etc", "run", "log", "state", "gpu", *(f"spool/{node}" for node in nodes)):
        (folder / name).mkdir(parents=True)
    controller_port, accounting_port, *node_ports = free_ports(2 + len(nodes))
    values = {
        "folder": folder,
        "head": HEAD,
        "controller_port": controller_port,
        "accounting_port": accounting_port,
        "nodes": "\n".join(
            NODE.format(name=name, port=port) for name, port in zip(nodes, node_ports, strict=True)
        ),
    }
    (etc / "slurm.conf").write_text(SLURM.format(**values))
    (etc / "gres.conf").write_text(GRES.format(**values))
    (etc / "cgroup.conf").write_text(CGROUP)
    _write_secret(etc / "slurmdbd.conf", ACCOUNTING.format(**values).encode())
    _write_secret(etc / "munge.key", os.urandom(1024))
    # Ranks of a job meet at the name of their first node.
    names = " ".join((HEAD, *nodes))
    (etc / "hosts").write_text(f"127.0.0.1 {names}\n{Path('/etc/hosts').read_text()}")
    # slurmd ignores a GPU that is not a device, so the GPUs are copies of /dev/null.
    for number in range(GPUS):
        os.mknod(folder / "gpu" / str(number), 0o666 | stat.S_IFCHR, os.makedev(1, 3))


def _write_secret(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
