"""What the tests of backends share: the instruction sets of this processor, threads, and INRs of any shape."""

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch

import fused_inr as fi
from fused_inr.backends.cpu import native

_LIBRARY, _STATE = native.load()
_ISAS = native.ISAS[: native.best_isa() + 1] if _LIBRARY else [pytest.param("none", marks=pytest.mark.skip(_STATE))]


@pytest.fixture(params=_ISAS)
def instruction_set(request) -> Iterator[str]:
    """Runs a test once for every instruction set that this processor has."""
    native.use_isa(request.param)
    yield request.param
    native.use_isa(None)


@pytest.fixture
def compiled_library():
    """The native library; a test that needs it is skipped where it is not built, and says why."""
    if _LIBRARY is None:
        pytest.skip(_STATE)
    return _LIBRARY


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """`torch.set_num_threads`, undone after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def layered_inr(
    n: int = 2,
    t: int = 3,
    *,
    scales: Sequence[int] = (1, 2, 4),
    widths: Sequence[int] = (20, 21, 19),
    features: int = 6,
    parts: str = "sincos",
    activation: str = "lrelu",
    bias: str = "O",
    shared: bool = False,
    rgb: bool = True,
    bare: int | None = None,
    gain: float = 2**0.5,
    seed: int = 0,
) -> fi.INR:
    """An INR of seeded normal float32 tensors: in each stage a layer of every width, read out at all but the first.

    Args:
        features: D of every stage but the one with index `bare`, which has no Fourier features.
        shared: frequencies, and weights and biases of every other layer, are shared by all clips.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    def layer(index: int, outputs: int, inputs: int) -> fi.Layer:
        clips = 1 if shared and index % 2 == 0 else n
        offset = 0.2 * normal(*{"O": (outputs,), "NO": (clips, outputs), "NTO": (clips, t, outputs)}[bias])
        to_rgb = (normal(clips, 3, outputs) / outputs**0.5, normal(3)) if rgb and index else None
        return fi.Layer(normal(clips, outputs, inputs) / inputs**0.5, offset, activation, gain, 1.5, to_rgb)

    stages, before = [], 0
    for index, scale in enumerate(scales):
        fourier = None
        if index != bare:
            fourier = fi.Fourier(3 * normal(1 if shared else n, features, 2), normal(n, t, features), parts)
        inputs = [before + (fourier.features if fourier else 0), *widths[:-1]]
        stages.append(
            fi.Stage(scale, [layer(i, *sizes) for i, sizes in enumerate(zip(widths, inputs, strict=True))], fourier)
        )
        before = widths[-1]
    return fi.INR(stages)


@pytest.fixture(scope="session")
def make_layered_inr() -> Callable[..., fi.INR]:
    return layered_inr
