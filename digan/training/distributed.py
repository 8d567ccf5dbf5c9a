"""The processes of a run: Accelerate, on whatever devices there are, with one sentence where that cannot work."""

from __future__ import annotations

import os

import torch

# Binds the default process group as default arguments, whenever it is first imported; Adam imports it. Once a group
# exists it would be kept for ever, and its threads with it: one of them, still dropping the last gradient when the
# interpreter ends, aborts the process. Imported before, it binds None.
import torch.distributed.nn
from accelerate import Accelerator
from accelerate.utils import DistributedType, GradScalerKwargs, parse_flag_from_env

from digan.errors import ConfigError

COMPUTE_TYPES = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def make_accelerator(mixed_precision: str = "no", threads: int | None = None) -> Accelerator:
    """The accelerator of a run; end it with `end_training`.

    Args:
        mixed_precision: a key of COMPUTE_TYPES.
        threads: of each process; without a number the cores of the machine are shared out where there is no GPU.

    Raises:
        ConfigError: a way of distributing that these networks do not need, or a precision that the device lacks.
    """
    cpu = not torch.cuda.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU")
    if cpu and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        raise ConfigError(
            "accelerate starts several processes with --cpu only through MPI; on CPUs launch with --multi_gpu "
            "--num_processes N in its place, which starts them without a GPU as well."
        )
    try:
        # The published system trains in half precision without loss scaling: activations are clamped instead.
        scaler = GradScalerKwargs(enabled=False)
        accelerator = Accelerator(cpu=cpu, mixed_precision=mixed_precision, kwargs_handlers=[scaler])
    except ValueError as error:
        raise ConfigError(f"--mixed-precision {mixed_precision}: {error}") from None
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise ConfigError(
            f"{accelerator.distributed_type.value} is set up in accelerate, but 120 million parameters need no "
            "sharding and the penalties need second derivatives: launch with plain multi-GPU."
        )
    if accelerator.mixed_precision not in COMPUTE_TYPES:
        raise ConfigError(
            f"--mixed-precision {accelerator.mixed_precision} is not one of {', '.join(COMPUTE_TYPES)}; it may come "
            "from accelerate's configuration."
        )
    if cpu:
        # Launchers set one thread for each process, which would leave the other cores idle.
        torch.set_num_threads(threads or max(1, (os.cpu_count() or 1) // accelerator.num_processes))
    elif threads:
        torch.set_num_threads(threads)
    return accelerator


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the host on `device`, without waiting for the copy."""
    if device.type == "cuda":
        tensor = tensor.contiguous().pin_memory()  # the host would wait for a copy from memory that may move
    return tensor.to(device, non_blocking=True)


class LaterSum:
    """Sums a number over the processes and tells the sum a call later, so that none waits for the others' devices.

    All processes must call it together.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._sum: torch.Tensor | None = None
        self._arrived: torch.cuda.Event | None = None

    def __call__(self, value: float) -> float:
        """Gives `value`, and returns the sum of what was given in the call before; 0 in the first."""
        before, device = self._take(), self._accelerator.device
        total = self._accelerator.reduce(torch.full([], value, device=device), "sum")
        self._sum = total.to("cpu", non_blocking=True)
        if device.type == "cuda":
            self._arrived = torch.cuda.current_stream(device).record_event()
        return before

    def _take(self) -> float:
        if self._sum is None:
            return 0.0
        if self._arrived is not None:
            self._arrived.synchronize()
        return float(self._sum)
