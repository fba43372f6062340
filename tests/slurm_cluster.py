"""A real SLURM of one node on this machine, from Debian's packages: no systemd, no cgroups.

Its configuration has to lie in /etc/slurm, since Snakemake's plugin takes ``SLURM_CONF`` away.
The node says that it has the processors, memory and GPUs that jobs ask for; nothing holds jobs
to them. The GPUs are character devices that answer like /dev/null.
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

CONFIGURATION = Path("/etc/slurm")
MARK = "# of fnsft's tests"
DAEMONS = ("munged", "slurmctld", "slurmd")
N_GPUS = 8

SLURM_CONF = """{mark}
ClusterName=fnsft
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
JobRequeue=1
ReturnToService=2
MinJobAge=3600
KillWait=30
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,default_queue_depth=100
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=128 RealMemory=1000000 Gres=gpu:a100:{gpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Job:
    """What SLURM says of a job; ``rule`` is the comment of Snakemake's plugin."""

    number: int
    rule: str
    state: str
    cpus: int
    memory_mb: int
    minutes: int
    gpus: str
    restarts: int


@dataclass(frozen=True)
class Cluster:
    """A SLURM that runs; its files lie in ``folder``."""

    folder: Path

    def jobs(self, rule: str = "") -> list[Job]:
        """Return all jobs of a rule so far, the oldest first."""
        lines = call("scontrol", "show", "jobs", "--oneliner").splitlines()
        found = [_job(line) for line in lines if line.startswith("JobId=")]
        return sorted((j for j in found if rule in j.rule), key=lambda job: job.number)

    @staticmethod
    def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
        """Look five times a second until a condition holds."""
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                raise TimeoutError(call("scontrol", "show", "jobs"))
            time.sleep(0.2)


def why_not() -> str | None:
    """Say why no SLURM can be brought up here, or None."""
    missing = [name for name in (*DAEMONS, "sinfo") if not shutil.which(name)]
    if os.geteuid() != 0:
        return "SLURM's daemons need root"
    if missing:
        return f"no {missing[0]}: apt-get install --no-install-recommends slurm-wlm munge"
    found = CONFIGURATION / "slurm.conf"
    if found.exists() and MARK not in found.read_text():
        return f"{found} is another SLURM's"
    return None


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Bring SLURM up, and take it down again with all its jobs."""
    host = socket.gethostname().split(".")[0]
    _configure(folder, host)
    pids: list[Path] = []
    try:
        if not _alive(Path("/run/munge/munged.pid")):
            call("setpriv", "--reuid=munge", "--regid=munge", "--clear-groups", "munged")
            pids.append(Path("/run/munge/munged.pid"))
        call("slurmctld")
        call("slurmd", "-N", host)
        _wait_until_idle(folder)
        yield Cluster(folder)
    finally:
        subprocess.run(["scancel", "--user=root", "--signal=KILL", "--full"], capture_output=True)
        subprocess.run(["scontrol", "shutdown"], capture_output=True)
        pids += [folder / "slurmd.pid", folder / "slurmctld.pid"]
        for pid in pids:
            _end(pid)
        for name in ("slurm.conf", "gres.conf"):
            (CONFIGURATION / name).unlink(missing_ok=True)


def call(*command: str) -> str:
    """Run one of SLURM's commands, which must not fail."""
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def _configure(folder: Path, host: str) -> None:
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    for number in range(N_GPUS):
        os.mknod(folder / f"gpu{number}", 0o20666, os.makedev(1, 3))
    CONFIGURATION.mkdir(exist_ok=True)
    text = SLURM_CONF.format(mark=MARK, host=host, folder=folder, gpus=N_GPUS)
    (CONFIGURATION / "slurm.conf").write_text(text)
    gpus = f"NodeName={host} Name=gpu Type=a100 File={folder}/gpu[0-{N_GPUS - 1}]\n"
    (CONFIGURATION / "gres.conf").write_text(gpus)
    munge = Path("/run/munge")
    munge.mkdir(exist_ok=True)
    shutil.chown(munge, "munge", "munge")
    munge.chmod(0o755)


def _wait_until_idle(folder: Path) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True)
        if "idle" in found.stdout:
            return
        time.sleep(0.2)
    raise RuntimeError((folder / "slurmctld.log").read_text()[-2_000:])


def _alive(pid: Path) -> bool:
    try:
        os.kill(int(pid.read_text()), 0)
    except (OSError, ValueError):
        return False
    return True


def _end(pid: Path) -> None:
    until = time.monotonic() + 10
    while _alive(pid) and time.monotonic() < until:
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(pid.read_text()), 15)
        time.sleep(0.2)


def _job(line: str) -> Job:
    found = dict(word.partition("=")[::2] for word in line.split())
    amount, unit = re.fullmatch(r"([\d.]+)([MGT])", found["MinMemoryNode"]).groups()
    days, _, clock = found["TimeLimit"].rpartition("-")
    hours, minutes, _ = map(int, clock.split(":"))
    return Job(
        number=int(found["JobId"]),
        rule=found["Comment"],
        state=found["JobState"],
        cpus=int(found["NumCPUs"]),
        memory_mb=round(float(amount) * {"M": 1, "G": 1024, "T": 1024**2}[unit]),
        minutes=(int(days or 0) * 24 + hours) * 60 + minutes,
        gpus=found.get("TresPerJob", ""),
        restarts=int(found["Restarts"]),
    )
