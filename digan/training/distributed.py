"""Distributed training on Accelerate: setting up devices and groups, sums over processes, and stopping on a signal."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Self

import torch

# When first imported, which Adam does, this module binds the default process group as a default argument. If a group
# already exists, it is kept for ever together with its threads; one of them, still releasing the last gradient when the
# interpreter exits, aborts the process. Imported here, before any group exists, the module binds None.
import torch.distributed.nn
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, GradScalerKwargs, parse_flag_from_env

from digan.errors import ConfigError
from digan.training.launch import has_launcher
from digan.training.processes import ALONE, Processes

COMPUTE_TYPES = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def make_accelerator(
    mixed_precision: str = "no", threads: int | None = None, processes: Processes = ALONE
) -> Accelerator:
    """Create the accelerator of a run; the caller must call its `end_training` at the end.

    Args:
        mixed_precision: a key of `COMPUTE_TYPES`.
        threads: number of threads per process; None divides the cores among the processes where there is no GPU.
        processes: the processes of the launch, which have met.

    Raises:
        ConfigError: accelerate is set up for sharding, which these networks do not need, for a precision that the
            device does not support, or not for this launch.
    """
    cpu = device_type() == "cpu"
    if cpu and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        raise ConfigError(
            "accelerate starts several processes with --cpu only through MPI; on CPUs launch with --multi_gpu "
            "--num_processes N instead, which also works without a GPU."
        )
    if not cpu:
        # As in the published system. PyTorch would round the operands of float32 convolutions to 10 bits.
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined] # replaced at import by torch
        torch.backends.cudnn.benchmark = True
    try:
        if processes.world > 1:
            if not cpu:  # not every launcher sets it, and without it Accelerate would run this process alone
                os.environ.setdefault("LOCAL_RANK", str(processes.local_rank))
            # Use the store in which the processes met, where keys of an earlier attempt cannot interfere. The timeout
            # is for slow processes only; `PeerWatch` notices one that has ended.
            PartialState(
                cpu=cpu,
                store=processes.store,
                rank=processes.rank,
                world_size=processes.world,
                timeout=timedelta(days=1),
            )
        # The published system trains in half precision without loss scaling: activations are clamped instead.
        scaler = GradScalerKwargs(enabled=False)
        accelerator = Accelerator(cpu=cpu, mixed_precision=mixed_precision, kwargs_handlers=[scaler])
    except ValueError as error:
        raise ConfigError(f"--mixed-precision {mixed_precision}: {error}") from None
    except NotImplementedError as error:  # GPUs whose driver cannot do what NCCL needs; the text names the remedy
        raise ConfigError(f"accelerate: {' '.join(str(error).split())}") from None
    rank, world = accelerator.process_index, accelerator.num_processes
    if processes.world > 1 and (rank, world) != (processes.rank, processes.world):
        raise ConfigError(
            f"accelerate counts this process as rank {rank} of {world}, but it is rank {processes.rank} of "
            f"{processes.world}: start with `accelerate launch`, `torchrun` or `srun`."
        )
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise ConfigError(
            f"accelerate is configured for {accelerator.distributed_type.value}, but 120 million parameters need no "
            "sharding and the penalties need second derivatives: launch with plain multi-GPU."
        )
    if accelerator.mixed_precision not in COMPUTE_TYPES:
        raise ConfigError(
            f"--mixed-precision {accelerator.mixed_precision} is not one of {', '.join(COMPUTE_TYPES)}; it may come "
            "from accelerate's configuration."
        )
    if cpu:
        # Launchers set one thread per process, which would leave the other cores idle.
        torch.set_num_threads(threads or max(1, (os.cpu_count() or 1) // processes.on_this_machine))
    elif threads:
        torch.set_num_threads(threads)
    return accelerator


def device_type() -> str:
    """Return the type of device that a run of this process uses, "cuda" or "cpu"."""
    return "cpu" if not torch.cuda.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU") else "cuda"


def check_devices(accelerator: Accelerator, processes: Processes) -> None:
    """Check that each process has a device of its own, before the first sum over processes.

    Raises:
        UserError: two of them would use one GPU.
    """
    on_gpu = accelerator.device.type == "cuda"
    own = str(torch.cuda.get_device_properties(accelerator.device).uuid) if on_gpu else None
    pairs = list(zip(processes.hosts, processes.exchange("their devices", own), strict=True))
    for pair in pairs:
        if pair[1] is not None and pairs.count(pair) > 1:
            same = [rank for rank, other in enumerate(pairs) if other == pair]
            processes.refuse(
                f"{processes.name(same)} would share one GPU: start at most as many processes as a machine has GPUs "
                "(`accelerate launch --num_processes N`, `torchrun --nproc_per_node N`)."
            )


def wait_for_all(accelerator: Accelerator) -> None:
    """Wait until all processes are here.

    Not `wait_for_everyone`, which waits on the GPU numbered by the local rank, although the process may see only GPU 0.
    """
    if accelerator.num_processes > 1:
        accelerator.reduce(torch.zeros((), device=accelerator.device)).item()


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a host tensor to `device` without waiting for the copy to finish."""
    if device.type == "cuda":
        tensor = tensor.contiguous().pin_memory()  # a copy from pageable memory would block the host
    return tensor.to(device, non_blocking=True)


class DelayedSum:
    """Sum of a number over the processes, returned one call later so that no process waits for another.

    All processes must make each call.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._sum: torch.Tensor | None = None
        self._copied: torch.cuda.Event | None = None

    def __call__(self, value: float) -> float:
        """Start the sum of `value` over the processes and return the sum of the previous call; 0 in the first call."""
        previous, device = self._previous(), self._accelerator.device
        total = self._accelerator.reduce(torch.full([], value, device=device), "sum")
        self._sum = total.to("cpu", non_blocking=True)
        if device.type == "cuda":
            self._copied = torch.cuda.current_stream(device).record_event()
        return previous

    def _previous(self) -> float:
        if self._sum is None:
            return 0.0
        if self._copied is not None:
            self._copied.synchronize()
        return float(self._sum)


class StopSignal:
    """Turns Ctrl-C, SIGTERM and the end of the launcher into a stop request, which the loop checks every step.

    A context manager: signals are handled as before after the `with` block. A second signal raises `KeyboardInterrupt`.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._received = False
        self._sum: Callable[[float], float] = DelayedSum(accelerator) if accelerator.num_processes > 1 else float
        # The launcher of a single process does not forward SIGTERM: it exits, and the run would continue unnoticed.
        self._launcher = os.getppid() if has_launcher() else None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # no other thread may handle signals
            self._before = {name: signal.signal(name, self._receive) for name in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for name, handler in self._before.items():
            signal.signal(name, signal.SIG_DFL if handler is None else handler)

    def _receive(self, number: int, frame: object) -> None:
        if self._received:
            raise KeyboardInterrupt
        self._received = True

    def requested(self) -> bool:
        """Return whether any process received a stop request. All processes must make each call.

        With several processes the result is that of the previous call, so that no process waits for another.
        """
        orphaned = self._launcher is not None and os.getppid() != self._launcher
        return self._sum(self._received or orphaned) > 0
