"""The Triton backend through the public ops on a GPU; the folder `kernels` tests each kernel."""

import pytest
import torch

import fused_inr as fi
from fused_inr import reference
from fused_inr.ops.dispatch import service

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
TYPES = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:]
)
# Relative difference (2-norm) after a chain of four ops, each of which rounds its result; 10 times as much for a
# penalty on gradients. The CPU kernels have 9e-8, 3.7e-3 and 5e-4, and for the penalty 1e-6, 5.1e-2 and 7.1e-3.
TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8


def augmented(x: torch.Tensor) -> torch.Tensor:
    """Augment images [2 N, C, H, W] as clips of two frames; the draw depends only on N."""
    steps = torch.arange(x.shape[0] // 2, device=x.device)
    amounts = 0.5 + steps / len(steps)
    places = torch.stack([steps - 2, 3 - 2 * steps], dim=1)
    colors = {"brightness": amounts - 1, "saturation": amounts, "contrast": amounts}
    clips = fi.augment(x.unflatten(0, (-1, 2)), **colors, translation=places, cutout=places, cutout_size=(12, 10))
    return clips.flatten(0, 1)


def block(x: torch.Tensor, bias: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    """Apply every op once, as a discriminator chains them."""
    y = fi.bias_act(augmented(x), bias, "lrelu", clamp=256)
    y = fi.downsample2d(y, taps)
    y = fi.bias_act(y, act="linear", gain=0.5, residual=y)
    return fi.minibatch_stddev(y)


def results(x: torch.Tensor, bias: torch.Tensor, weight: torch.Tensor, taps: torch.Tensor) -> list[torch.Tensor]:
    """Return the output of the block, its gradients, and the gradient of a penalty on these."""
    x, bias = x.detach().requires_grad_(), bias.detach().requires_grad_()
    y = block(x, bias, taps)
    dx, dbias = torch.autograd.grad(y, [x, bias], weight.to(y), create_graph=True)
    again = torch.autograd.grad(dx.float().square().sum() + dbias.square().sum(), x)[0]
    return [y, dx, dbias, again]


def image(dtype: torch.dtype, channels_last: bool) -> tuple[torch.Tensor, ...]:
    """Return the arguments of `results`."""
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(8, 32, 24, 20, device="cuda").to(dtype, memory_format=layout)
    return x, torch.randn(32, device="cuda"), torch.randn(8, 33, 12, 10, device="cuda"), TAPS.cuda()


def test_triton_runs_the_ops_of_a_discriminator():
    served = service("cuda")
    for op in ("bias_act", "upfirdn2d", "minibatch_stddev", "augment"):
        assert served[op][0] == "triton"


@TYPES
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_values_and_derivatives(channels_last, dtype):
    arguments = image(dtype, channels_last)
    with fi.backend("triton"):
        actual = results(*arguments)
    with fi.backend("reference"):
        exact = results(*(t.cpu().double() for t in arguments))
    for name, a, b in zip(("y", "dx", "dbias", "penalty"), actual, exact, strict=True):
        error = (a.detach().cpu().double() - b.detach()).norm() / b.detach().norm()
        assert error <= TOLERANCES[dtype] * (10 if name == "penalty" else 1), name


@TYPES
def test_same_bits_every_time(dtype):
    arguments = image(dtype, True)
    first, second = results(*arguments), results(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_cuda_graph(channels_last):
    x, *others = image(torch.bfloat16, channels_last)
    results(x, *others)  # compiles
    static = x.clone()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        results(static, *others)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = results(static, *others)
    for image_again in (x, x.flip(0)):
        static.copy_(image_again)
        graph.replay()
        expected = results(image_again.clone(), *others)
        assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))


def test_compiled_without_graph_breaks():
    x, bias, weight, taps = image(torch.float32, True)
    leaves = [x.requires_grad_(), bias.requires_grad_()]
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    outputs = [function(*leaves, taps) for function in (block, compiled)]
    gradients = [torch.autograd.grad(y, leaves, weight) for y in outputs]
    torch.testing.assert_close(*outputs)
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_tensors_on_a_device_other_than_the_current_one():
    x = torch.randn(2, 3, 5, 5, device="cuda:1")
    actual = fi.bias_act(x, act="lrelu")
    assert actual.device == x.device
    torch.testing.assert_close(actual, reference.bias_act(x, None, "lrelu", 0.2, 2**0.5, None, 1))
