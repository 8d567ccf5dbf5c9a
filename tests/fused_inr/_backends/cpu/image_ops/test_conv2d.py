"""The native weight gradient of a convolution: against float64, on every instruction set that supports it."""

import ctypes

import pytest
import torch

from fused_inr._backends.cpu import image_ops, native
from fused_inr.ops.dispatch import backends
from fused_inr.primitives.conv2d import pytorch_weight

if backends()["cpu"] != "ready":
    pytest.skip(backends()["cpu"], allow_module_level=True)

# batch, inputs, outputs, (height, width), kernel, stride, padding. Inputs and outputs leave every remainder of vectors
# and rows; some rows are longer than a panel, and some panels hold many images.
GEOMETRIES = {
    "N2-I5-O7-H9-W8-k3-pad1": (2, 5, 7, (9, 8), 3, 1, 1),
    "N3-I70-O100-H12-W11-k3-stride2": (3, 70, 100, (12, 11), 3, 2, 0),
    "N2-I33-O13-H3-W300-k3-pad1": (2, 33, 13, (3, 300), 3, 1, 1),
    "N1-I2-O1-H2-W1-k3-pad1": (1, 2, 1, (2, 1), 3, 1, 1),
    "N40-I18-O9-H4-W3-k1": (40, 18, 9, (4, 3), 1, 1, 0),
    "N2-I130-O6-H7-W63-k3-stride2-pad1": (2, 130, 6, (7, 63), 3, 2, 1),
    "N1-I3-O8-H5-W6-k5-pad4": (1, 3, 8, (5, 6), 5, 1, 4),
    "N1-I4-O5-H6-W7-k2-stride3": (1, 4, 5, (6, 7), 2, 3, 0),
}
# Measured: 4.2e-7 and 1.9e-3 at most.
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3}
by_geometry = pytest.mark.parametrize("geometry", GEOMETRIES)


@pytest.fixture(params=[name for number, name in enumerate(native.ISAS) if number <= native.best_isa()])
def isa(request):
    """Use every instruction set in turn, and the kernel even where oneDNN is faster."""
    native.use_isa(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_ops, "_MIN_ISA", {torch.float32: 0, torch.bfloat16: 0})
        patch.setattr(image_ops, "_MIN_INPUTS", {torch.float32: 1, torch.bfloat16: 1})
        yield request.param
    native.use_isa(None)


def tensors_of(geometry: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, list[int], int, int]:
    """Return x and dy in channels_last, and the other arguments of the op."""
    batch, inputs, outputs, size, k, stride, padding = GEOMETRIES[geometry]
    out = [(side + 2 * padding - k) // stride + 1 for side in size]
    generator = torch.Generator().manual_seed(0)
    tensors = (torch.randn(batch, c, *s, generator=generator) for c, s in ((inputs, size), (outputs, out)))
    x, dy = (tensor.to(dtype, memory_format=torch.channels_last) for tensor in tensors)
    return x, dy, [k, k], stride, padding


def relative_difference(actual: torch.Tensor, exact: torch.Tensor) -> float:
    return ((actual.double() - exact).norm() / exact.norm()).item()


@by_geometry
@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype)[6:])
def test_against_float64(geometry, dtype, isa):
    x, dy, *options = tensors_of(geometry, dtype)
    actual = torch.ops.fused_inr.conv2d_weight(x, dy, *options)
    assert actual.dtype == dtype
    assert actual.is_contiguous(memory_format=torch.channels_last)
    exact = pytorch_weight(x.double(), dy.double(), *options)
    assert relative_difference(actual, exact) <= TOLERANCE[dtype]


def test_sums_of_many_pixels_lose_no_precision(isa):
    x = torch.full([1, 2, 400, 400], 0.1).to(memory_format=torch.channels_last)
    actual = torch.ops.fused_inr.conv2d_weight(x, x, [1, 1], 1, 0)
    exact = 160000 * x[0, 0, 0, 0].double() ** 2
    assert ((actual.double() - exact) / exact).abs().max() < 2e-5  # measured: 1.5e-5; a single running sum: 1.4e-3


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_the_number_of_threads_changes_no_bit(threads):
    x, dy, *options = tensors_of("N3-I70-O100-H12-W11-k3-stride2", torch.float32)
    expected = torch.ops.fused_inr.conv2d_weight(x, dy, *options)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(torch.ops.fused_inr.conv2d_weight(x, dy, *options), expected)
    finally:
        torch.set_num_threads(before)


@by_geometry
def test_every_element_is_written(geometry, isa):
    x, dy, kernel, stride, padding = tensors_of(geometry, torch.float32)
    out = torch.full([dy.shape[1], *kernel, x.shape[1]], torch.nan)
    call = native.ConvolutionWeightStruct(
        batch=len(x),
        inputs=x.shape[1],
        outputs=dy.shape[1],
        height=x.shape[2],
        width=x.shape[3],
        out_height=dy.shape[2],
        out_width=dy.shape[3],
        kernel_y=kernel[0],
        kernel_x=kernel[1],
        stride=stride,
        padding=padding,
        type=0,
        threads=3,
        x=x.data_ptr(),
        gradient=dy.data_ptr(),
        out=out.data_ptr(),
    )
    native.run(native.load()[0].fused_inr_convolution_weight, call)
    assert out.isfinite().all()
    assert ctypes.sizeof(call) == 7 * 8 + 6 * 4 + 3 * 8


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=lambda d: str(d)[6:]
)
@pytest.mark.parametrize("together", [False, True], ids=["contiguous", "channels_last"])
def test_opcheck(dtype, together):
    x, dy, *options = tensors_of("N2-I5-O7-H9-W8-k3-pad1", torch.float32)
    layout = torch.channels_last if together else torch.contiguous_format
    x, dy = (tensor.to(dtype).contiguous(memory_format=layout) for tensor in (x, dy))
    torch.library.opcheck(torch.ops.fused_inr.conv2d_weight, (x, dy, *options))
    assert torch.ops.fused_inr.conv2d_weight(x, dy, *options).is_contiguous(memory_format=layout)


def test_images_of_two_layouts():
    x, dy, *options = tensors_of("N2-I5-O7-H9-W8-k3-pad1", torch.float32)
    exact = pytorch_weight(x.double(), dy.double(), *options)
    for pair in ((x.contiguous(), dy), (x, dy.contiguous())):
        assert relative_difference(torch.ops.fused_inr.conv2d_weight(*pair, *options), exact) <= 1e-6
