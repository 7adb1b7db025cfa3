"""A Slurm of one node on this machine: its own configuration, ports, keys and folders, beside any other Slurm that is there.

Needs Debian's `slurm-wlm` and `munge`; neither systemd nor cgroups nor root. Its GPUs are two devices that every machine has: that
Slurm hands out each of them once is real, and nothing computes on them.
"""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "sinfo")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
CPUS, MB = 2, 64000
GPUS = ("/dev/null", "/dev/zero")
CONFIGURATION = """
ClusterName=posttrain
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# A job that is requeued waits until its credential has expired, by default for two minutes.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdSpoolDir={folder}/spool
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ReturnToService=2
MinJobAge=3600
OverTimeLimit=0
# The node may have more memory than this machine: nothing here needs what it asks for.
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={mb} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=main Nodes=node1 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=30
PartitionName=urgent Nodes=node1 MaxTime=60 State=UP PriorityTier=10 PreemptMode=OFF
"""


def missing() -> str | None:
    """Why there can be no such cluster here; None where there can."""
    absent = [program for program in PROGRAMS if not shutil.which(program, path=PATH)]
    if absent:
        return f"no {', '.join(absent)} here: apt-get install slurm-wlm munge"
    if not importlib.util.find_spec("snakemake_executor_plugin_slurm"):
        return "no snakemake-executor-plugin-slurm here: make test-slurm"
    return None


class Cluster:
    """Starts and stops the daemons; commands are run with `environment`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        user, host = subprocess.check_output(["id", "-un"], text=True).strip(), socket.gethostname().split(".")[0]
        machine = {"folder": self.folder, "user": user, "host": host, "cpus": CPUS, "mb": MB, "gpus": len(GPUS)}
        ports = {"controller_port": free_port(), "node_port": free_port()}
        (self.folder / "slurm.conf").write_text(CONFIGURATION.format(**machine, **ports))
        gpus = "".join(f"NodeName=node1 Name=gpu File={device}\n" for device in GPUS)
        (self.folder / "gres.conf").write_text(gpus)
        for name in ("spool", "state", "bin"):
            (self.folder / name).mkdir()
        # The plugin's job step drops every variable that begins with SLURM_.
        srun = self.folder / "bin/srun"
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {shutil.which("srun", path=PATH)} "$@"\n')
        srun.chmod(0o755)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)

    @property
    def environment(self) -> dict[str, str]:
        """In which Slurm's commands find this cluster."""
        own = {"PATH": f"{self.folder}/bin:{PATH}", "SLURM_CONF": f"{self.folder}/slurm.conf"}
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("POSTTRAIN", "SLURM", "MLFLOW"))}
        return kept | own | {"OMP_NUM_THREADS": "1"}

    def start(self) -> None:
        """Start everything, and wait until the node takes jobs."""
        files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munged.pid"}
        files |= {"log-file": "munged.log", "seed-file": "munged.seed"}
        self.run("munged", "--force", *(f"--{option}={self.folder / file}" for option, file in files.items()))
        self.run("slurmctld")
        self.run("slurmd", "-N", "node1")
        self.wait(lambda: "idle" in self.run("sinfo", "-h", "-o", "%T"), 60)

    def stop(self) -> None:
        """End the jobs and the daemons, and remove the folder."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self.run("scancel", "--state=PENDING")
            self.run("scancel", "--state=RUNNING")
            self.wait(lambda: not self.run("squeue", "-h"), 60)
        for name in ("slurmd", "slurmctld", "munged"):
            self.end(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def end(self, daemon: str) -> None:
        """End one daemon, by the file with its process's number."""
        file = self.folder / f"{daemon}.pid"
        if not file.exists():
            return
        process = int(file.read_text())
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
            self.wait(lambda: not is_alive(process), 30)

    def run(self, *command: str) -> str:
        """Run one of Slurm's commands, or a daemon, which goes to the background."""
        return subprocess.run(
            command, env=self.environment, check=True, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        ).stdout.strip()

    def jobs(self) -> dict[str, tuple[str, str]]:
        """What each job is: its number, then its comment, by which Snakemake's plugin says its rule, and its state."""
        lines = self.run("squeue", "-h", "--states=all", "-o", "%i|%k|%T").splitlines()
        return {job: (comment, state) for job, comment, state in (line.split("|") for line in lines)}

    def wait(self, until, seconds: float) -> None:
        """Wait for something to become true."""
        end = time.monotonic() + seconds
        while not until():
            if time.monotonic() > end:
                raise TimeoutError(f"not after {seconds} s; {self.folder} has the daemons' logs")
            time.sleep(0.5)


def is_alive(process: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def running() -> Iterator[Cluster]:
    """A cluster, for as long as the context lasts."""
    cluster = Cluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


if __name__ == "__main__":  # a cluster to try commands in: python tests/slurm/cluster.py
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with running() as cluster, contextlib.suppress(KeyboardInterrupt):
        print(f"export SLURM_CONF={cluster.folder}/slurm.conf PATH={cluster.folder}/bin:$PATH", flush=True)
        signal.pause()
