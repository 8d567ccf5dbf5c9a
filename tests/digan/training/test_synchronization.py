"""Between two lines of the log the host never waits for the device, so that the device never waits for the host."""

import math

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.utils._python_dispatch import TorchDispatchMode

from digan.training.trainer import Trainer

ITERATIONS = 2
EVERYTHING = dict(pl_weight=2.0, style_mixing=0.5, gamma=1.0, aug="color,translation,cutout", batch_gpu=4)


class Copies(TorchDispatchMode):
    """Remembers copies from the host to the device for which the host waits."""

    def __init__(self, device):
        super().__init__()
        self.device, self.waited, self.passed = device, [], 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        result = op(*args, **(kwargs or {}))
        here = [a for a in args if isinstance(a, torch.Tensor) and a.device.type == "cpu" and a.ndim]
        there = isinstance(result, torch.Tensor) and result.device.type == self.device
        if here and there:
            waits = op is not torch.ops.aten._to_copy.default or not kwargs.get("non_blocking")
            self.waited += [str(op)] if waits else []
            self.passed += not waits
        return result


def iterations(trainer, batch):
    """What the training loop does between two lines of its log."""
    for _ in range(ITERATIONS):
        reals = [trainer.reals({k: v[m :: trainer.micro_batches] for k, v in batch.items()}) for m in range(2)]
        trainer.update_g(reals)
        trainer.update_path_length(reals)
        trainer.update_d(reals)
        trainer.update_r1(reals)
        trainer.update_ema()
        trainer.advance()


@pytest.fixture
def valueless(monkeypatch):
    """Training on "meta", whose tensors have no values: whatever asks for one raises."""
    monkeypatch.setattr(Accelerator, "device", torch.device("meta"))
    return Accelerator(cpu=True, mixed_precision="no")


def test_no_value_is_asked_of_the_device(tiny, valueless, real_batch, monkeypatch):
    trainer = Trainer(tiny(**EVERYTHING), valueless, num_classes=3)
    made, make = [], torch.tensor

    def tensor(*args, device=None, **options):
        made.append(device)  # a copy that no mode sees
        return make(*args, device=device, **options)

    monkeypatch.setattr(torch, "tensor", tensor)
    with Copies("meta") as copies:
        iterations(trainer, real_batch(8, 0, classes=3))
    assert set(map(str, made)) <= {"None", "cpu"}
    assert trainer.iteration == ITERATIONS
    assert copies.passed >= 10 * ITERATIONS
    assert not copies.waited
    with pytest.raises(RuntimeError, match="meta"):
        trainer.collect_statistics()  # the line of the log does ask, so the device would have told


def test_copies_that_wait_are_seen():
    with Copies("meta") as copies:
        x = torch.zeros(3).to("meta", non_blocking=True)
        assert not copies.waited
        x + torch.zeros(3).to("meta")
        x.copy_(torch.ones(3))
    assert (copies.passed, len(copies.waited)) == (1, 2)


@pytest.fixture
def gpu():
    """An accelerator on the GPU; afterwards tests may have one on the CPU again."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(mixed_precision="no")
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bfloat16"])
def test_the_gpu_is_never_waited_for(tiny, gpu, real_batch, dtype):
    trainer = Trainer(tiny(**EVERYTHING), gpu)
    trainer.dtype = trainer.penalty_dtype = dtype
    batch = {name: tensor.to(trainer.device) for name, tensor in real_batch(8, 0).items()}
    iterations(trainer, batch)  # kernels are chosen and memory is taken
    trainer.collect_statistics()
    torch.cuda.set_sync_debug_mode("error")
    try:
        iterations(trainer, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(map(math.isfinite, trainer.collect_statistics().values()))
