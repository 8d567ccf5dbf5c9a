"""What started this process: its place among the processes of a launch, from the variables of the launcher or of Slurm.

`accelerate launch` and `torchrun` set the variables of `torch.distributed`. Under `srun`, each task is one process; its
place is translated to the same variables, which Accelerate reads.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

import psutil
from accelerate.utils.environment import get_cpu_distributed_information

from digan.errors import ConfigError

_SLURM_PORTS = range(20000, 29000)  # below the default port of torch.distributed, 29500


@dataclass(frozen=True)
class Place:
    """The place of a process in its launch."""

    rank: int = 0
    world: int = 1
    address: str = ""  # host and port of the store at which the processes meet
    port: int = 0
    hosts_store: bool = False  # whether this process has to host that store; the agent of an elastic launcher does
    attempt: int = 0  # how often the launcher has restarted the processes


def find_place() -> Place:
    """Return the place of this process; under `srun`, first set the variables of `torch.distributed`.

    Raises:
        ConfigError: there are several machines, and no variable names the first of them.
    """
    environment = os.environ
    if "RANK" not in environment:
        environment.update(_slurm_variables(environment))
    information = get_cpu_distributed_information()
    rank, world = information.rank, information.world_size
    attempt = int(environment.get("TORCHELASTIC_RESTART_COUNT", 0))
    if world == 1:
        return Place(attempt=attempt)
    if not environment.get("MASTER_ADDR") and information.local_world_size != world:
        raise ConfigError(f"{world} processes on several machines need MASTER_ADDR, the address of the first one.")
    return Place(
        rank,
        world,
        environment.setdefault("MASTER_ADDR", "127.0.0.1"),
        int(environment.setdefault("MASTER_PORT", "29500")),
        hosts_store=rank == 0 and environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
        attempt=attempt,
    )


def launch_identity(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return a text that names the launch of this process and stays the same when its launcher restarts the processes.

    It is None without a launcher that restarts processes.
    """
    name = environment.get("TORCHELASTIC_RUN_ID")
    if name is None:
        return None
    if name != "none":  # the user, or torchrun --standalone, named the job
        return f"job {name}"
    launcher = psutil.Process().parent()
    return f"launcher {socket.gethostname()} {launcher.pid} {launcher.create_time()}" if launcher else None


def has_launcher(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether the parent of this process is `accelerate launch` or `torchrun`."""
    return "ACCELERATE_MIXED_PRECISION" in environment or "TORCHELASTIC_RUN_ID" in environment


def _slurm_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of `torch.distributed` for a task of `srun`, or none for anything else.

    A batch script, which runs before `srun`, has a `SLURM_PROCID` too. A step has its own number of tasks, or else the
    user names the first machine, as for every launch of several processes.
    """
    meant = "SLURM_STEP_ID" in environment or "MASTER_ADDR" in environment
    tasks = environment.get("SLURM_STEP_NUM_TASKS") or (environment.get("SLURM_NTASKS") if meant else None)
    if "SLURM_PROCID" not in environment or int(tasks or 1) < 2:
        return {}
    nodes = int(environment.get("SLURM_STEP_NUM_NODES") or environment.get("SLURM_NNODES") or 1)
    node_list = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST") or "127.0.0.1"
    job = int(environment.get("SLURM_JOB_ID", 0)) + int(environment.get("SLURM_STEP_ID", 0))
    local = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("SLURM_NTASKS_PER_NODE") or ""
    per_node = re.match(r"\d+", local)
    variables = {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": str(tasks),
        "LOCAL_RANK": environment.get("SLURM_LOCALID", "0"),
        "LOCAL_WORLD_SIZE": per_node.group() if per_node else str(int(tasks or 1) // nodes),
    }
    defaults = {
        "MASTER_ADDR": first_node(node_list),
        "MASTER_PORT": str(_SLURM_PORTS[job % len(_SLURM_PORTS)]),
        "OMP_NUM_THREADS": "1",  # as the launchers set; `make_accelerator` divides the cores among the processes
    }
    return {**{name: environment.get(name, value) for name, value in defaults.items()}, **variables}


def first_node(node_list: str) -> str:
    """Return the first host of Slurm's compressed list, such as "gpu[03-05,9],cpu1" -> "gpu03"."""
    head, bracket, rest = re.match(r"([^\[,]*)(\[?)(.*)", node_list).groups()
    if not bracket:
        return head
    number = re.match(r"\d+", rest).group()
    tail = re.match(r"[^,\[]*", rest.partition("]")[2]).group()
    return head + number + tail
