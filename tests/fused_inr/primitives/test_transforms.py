"""Every public op under every function transform, on every backend, against the float64 reference."""

import contextlib
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.autograd.functional import hessian as torch_hessian
from torch.autograd.functional import jacobian
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

import fused_inr as fi

Function = Callable[..., Tensor]

NOT_OPS = {  # public names that compute nothing differentiable
    *("INR", "Fourier", "Grid", "Layer", "Stage", "__version__", "backend", "backends"),
    *("no_weight_gradients", "store_activations"),
    "nn",  # modules on these ops
    "render_chunks",  # runs without gradients by definition
}


def _render(activation: str) -> Function:
    def render(*tensors: Tensor) -> Tensor:
        frequency, phase, first, first_bias, last, last_bias, rgb, rgb_bias = tensors
        stages = [
            fi.Stage(1, [fi.Layer(first, first_bias, activation)], fi.Fourier(frequency, phase)),
            fi.Stage(2, [fi.Layer(last, last_bias, to_rgb=(rgb, rgb_bias))]),
        ]
        return fi.render(fi.INR(stages), fi.Grid(2, 3))

    return render


def _siren(coords: Tensor, first: Tensor, last: Tensor, first_bias: Tensor, last_bias: Tensor) -> Tensor:
    return fi.siren(coords, [first, last], [first_bias, last_bias], omega=2.0)


def _mlp(*activations: str) -> Function:
    def mlp(coords: Tensor, *tensors: Tensor) -> Tensor:
        weights = [0.5 * weight for weight in tensors[:3]]  # which keeps the derivatives of finer near 1
        return fi.mlp(coords, weights, tensors[3:], activations=activations, omegas=0.7, skips=[1])

    return mlp


def _jet(result: int, **options: object) -> Function:
    def jet(coords: Tensor, first: Tensor, last: Tensor, first_bias: Tensor, last_bias: Tensor) -> Tensor:
        arguments = coords, [first, last], [first_bias, last_bias]
        return fi.mlp_jet(*arguments, activations=["sine", "silu"], omegas=1.5, **options)[result]

    return jet


_SIREN = [(2, 3, 2), (2, 4, 2), (2, 2, 4), (2, 4), (2,)]
_MLP = [(3, 2), (2, 3, 2), (2, 3, 5), (2, 3), (2, 3), (1, 3), (2,)]  # shared coordinates, and a skip connection
_INR = [(2, 2, 2), (1, 2, 2), (2, 3, 4), (3,), (2, 2, 3), (2, 2, 2), (1, 2, 2), (2,)]  # some tensors are shared

CASES: dict[str, tuple[Function, list[tuple[int, ...]]]] = {  # id: (function, shapes of its tensors)
    "render-lrelu": (_render("lrelu"), _INR),
    "render-sine": (_render("sine"), _INR),
    "siren": (_siren, [(2, 3, 2), (2, 4, 2), (2, 4), (2, 4), (2,)]),
    "mlp-sine-finer-gauss": (_mlp("sine", "finer", "gauss"), _MLP),
    "mlp-gelu-silu-tanh": (_mlp("gelu", "silu", "tanh"), _MLP),
    "mlp-relu-lrelu-linear": (_mlp("relu", "lrelu", "linear"), _MLP),
    "mlp_jet-jacobian": (_jet(1, order=1), _SIREN),
    "mlp_jet-laplacian": (_jet(2), _SIREN),
    "mlp_jet-hessian": (_jet(3, hessian=True), _SIREN),
    "fmm_weight": (fi.fmm_weight, [(3, 2), (2, 3, 2), (2, 2, 2)]),
    "bias_act-lrelu": (lambda x, b: fi.bias_act(x, b, "lrelu", clamp=1.0), [(2, 3, 2, 2), (3,)]),
    "bias_act-swish": (lambda x, b, r: fi.bias_act(x, b, "swish", residual=r), [(2, 3, 2), (3,), (2, 3, 2)]),
    "bias_act-first-axis": (lambda x, b: fi.bias_act(x, b, "relu", dim=0), [(3, 2), (3,)]),
    "bias_act-number": (lambda x: fi.bias_act(x, act="tanh"), [()]),
    "upfirdn2d": (lambda x, f: fi.upfirdn2d(x, f, up=2, down=(1, 3), padding=(2, 1, 1, 0)), [(2, 2, 3, 4), (2, 3)]),
    "downsample2d": (fi.downsample2d, [(1, 2, 4, 4), (4,)]),
    "upsample2d": (fi.upsample2d, [(1, 2, 2, 3), (4,)]),
    "minibatch_stddev": (lambda x: fi.minibatch_stddev(x, 2, 2), [(4, 2, 2, 2)]),
    "conv2d": (lambda x, w: fi.conv2d(x, w, 2, 1), [(2, 2, 3, 4), (3, 2, 3, 3)]),
    "augment": (
        lambda x, b, s, c: fi.augment(
            x,
            brightness=b,
            saturation=s,
            contrast=c,
            translation=torch.tensor([[1, 0], [-1, 1]], device=x.device),
            cutout=torch.tensor([[0, 1], [2, 2]], device=x.device),
            cutout_size=(1, 2),
        ),
        [(2, 1, 3, 3, 3), (2,), (2,), (2,)],
    ),
}


def test_every_public_op_has_a_case():
    ops = {name.split("-")[0] for name in CASES}
    missing = set(fi.__all__) - NOT_OPS - ops
    assert not missing, f"add a case for {missing} to CASES, or name it in NOT_OPS"


class _Module(torch.nn.Module):
    def __init__(self, function: Function, tensors: Sequence[Tensor]) -> None:
        super().__init__()
        self.function = function
        self.tensors = torch.nn.ParameterList(tensors)

    def forward(self) -> Tensor:
        return self.function(*self.tensors)


def _loss(function: Function) -> Function:
    """Return a number with non-zero first and second derivatives."""

    def loss(*tensors: Tensor) -> Tensor:
        y = function(*tensors).double()
        weight = torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype, device=y.device).reshape(y.shape)
        return (weight * y + y.square()).sum()

    return loss


def _all(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(range(len(tensors)))


def _stacked(tensors: Sequence[Tensor], dim: int = 0) -> list[Tensor]:
    return [torch.stack([t, 0.5 * t, 0.25 - t], dim if dim >= 0 else t.ndim) for t in tensors]


def _tangents(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(0.1 + 0.5 * t for t in tensors)


def _dual(function: Function, tensors: Sequence[Tensor]) -> list[Tensor]:
    with forward_ad.dual_level():
        y = function(*map(forward_ad.make_dual, tensors, _tangents(tensors)))
        return list(forward_ad.unpack_dual(y))


def _dual_gradient(function: Function, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the tangents of gradients, from a tangent of the gradient of the result."""
    leaves = [t.clone().requires_grad_() for t in tensors]
    y = function(*leaves)
    with forward_ad.dual_level():
        upstream = forward_ad.make_dual(torch.ones_like(y), torch.linspace(0, 1, y.numel()).to(y).reshape(y.shape))
        gradients = torch.autograd.grad(y, leaves, upstream)
        return [forward_ad.unpack_dual(g).tangent for g in gradients]


def _batched_backward(function: Function, tensors: Sequence[Tensor]) -> list[Tensor]:
    leaves = [t.clone().requires_grad_() for t in tensors]
    y = function(*leaves)
    upstream = torch.stack([torch.ones_like(y), torch.linspace(0, 1, y.numel()).to(y).reshape(y.shape)])
    return list(torch.autograd.grad(y, leaves, upstream, is_grads_batched=True))


def _each_axis(function: Function, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Map over each tensor alone, along its first and a last axis."""
    results = []
    for index, tensor in enumerate(tensors):
        for dim in (0, -1):
            (stacked,) = _stacked([tensor], dim)
            dims = [None] * len(tensors)
            dims[index] = dim
            results.append(vmap(function, tuple(dims))(*tensors[:index], stacked, *tensors[index + 1 :]))
    return results


def _functional_call(function: Function, tensors: Sequence[Tensor]) -> list[Tensor]:
    module = _Module(function, [torch.zeros_like(t) for t in tensors])
    names = [name for name, _ in module.named_parameters()]
    loss = _loss(lambda *ts: functional_call(module, dict(zip(names, ts, strict=True))))
    return list(grad(loss, _all(tensors))(*tensors))


TRANSFORMS: dict[str, Callable[[Function, Sequence[Tensor]], list[Tensor]]] = {
    "vmap-each-axis": _each_axis,
    "vmap": lambda f, ts: [vmap(f)(*_stacked(ts))],
    "vmap-twice": lambda f, ts: [vmap(vmap(f))(*_stacked(_stacked(ts)))],
    "grad": lambda f, ts: list(grad(_loss(f), _all(ts))(*ts)),
    "vjp": lambda f, ts: list(vjp(f, *ts)[1](torch.ones_like(f(*ts)))),
    "jacrev": lambda f, ts: list(jacrev(f, _all(ts))(*ts)),
    "jvp": lambda f, ts: list(jvp(f, tuple(ts), _tangents(ts))),
    "jacfwd": lambda f, ts: list(jacfwd(f, _all(ts))(*ts)),
    "hessian": lambda f, ts: [h for row in hessian(_loss(f), _all(ts))(*ts) for h in row],
    "functional_call": _functional_call,
    "forward_ad": _dual,
    "forward_ad-of-backward": _dual_gradient,
    "vmap-of-grad": lambda f, ts: list(vmap(grad(_loss(f), _all(ts)))(*_stacked(ts))),
    "vmap-of-grad-of-one": lambda f, ts: [vmap(grad(_loss(f)), (0, *[None] * len(ts[1:])))(*_stacked(ts[:1]), *ts[1:])],
    "grad-of-vmap": lambda f, ts: list(grad(_loss(vmap(f)), _all(ts))(*_stacked(ts))),
    "grad-of-grad": lambda f, ts: list(grad(lambda *x: _loss(grad(_loss(f)))(*x), _all(ts))(*ts)),
    "jacfwd-of-grad": lambda f, ts: [h for row in jacfwd(grad(_loss(f), _all(ts)), _all(ts))(*ts) for h in row],
    "batched-backward": _batched_backward,
    "vectorized-jacobian": lambda f, ts: list(jacobian(f, tuple(ts), vectorize=True)),
    "vectorized-hessian": lambda f, ts: [h for row in torch_hessian(_loss(f), tuple(ts), vectorize=True) for h in row],
    "vmap-of-hessian": lambda f, ts: [vmap(hessian(_loss(f)))(*_stacked(ts))],
}
HALF = ("vmap", "grad", "jvp", "grad-of-vmap")  # transforms that are also tried on bfloat16 tensors


def _tensors(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, device: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]


RUNS = [
    *((transform, dtype) for dtype in (torch.float32, torch.float64) for transform in TRANSFORMS),
    *((transform, torch.bfloat16) for transform in HALF),
]
# Measured on an AMD EPYC: 2e-6 in float32; in bfloat16 2e-2, and 9e-2 for tangents through two layers of sines.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 1.5e-1}


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton", "cuda"])
@pytest.mark.parametrize(("transform", "dtype"), RUNS, ids=[f"{name}-{str(dtype)[6:]}" for name, dtype in RUNS])
@pytest.mark.parametrize("case", CASES)
def test_transform(case, transform, dtype, backend):
    if fi.backends()[backend] != "ready":
        pytest.skip(f"{backend}: {fi.backends()[backend]}")
    function, shapes = CASES[case]
    device = "cuda" if backend in ("triton", "cuda") else "cpu"
    tensors = _tensors(shapes, dtype, device)
    with fi.backend("reference"):
        expected = TRANSFORMS[transform](function, [t.double() for t in tensors])
    if backend == "reference":
        with fi.backend("reference"):
            actual = TRANSFORMS[transform](function, tensors)
    else:  # the reference serves the ops that the backend lacks
        actual = TRANSFORMS[transform](function, tensors)
    tolerance = TOLERANCE[dtype]
    assert len(actual) == len(expected)
    # The blocks of a Hessian are sums of terms of one size; those that cancel keep the rounding errors of the terms.
    least = max(1e-2, 1e-3 * max(e.norm().item() for e in expected))
    for index, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert a.shape == e.shape, f"tensor {index}: {list(a.shape)} instead of {list(e.shape)}"
        difference = (a.double() - e).norm().item()
        assert difference <= tolerance * max(e.norm().item(), least), f"tensor {index}: {difference:.1e}"


class _Calls(TorchDispatchMode):
    """The calls of the kernels of `fused_inr`, and of PyTorch's convolutions, that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if op.namespace == "fused_inr" or op is torch.ops.aten.convolution.default:
            self.names.append(op.name())
        return op(*args, **(kwargs or {}))


# What serves a call of each family on the CPU backend; conv2d is PyTorch's.
SERVES = {
    **{name: f"fused_inr::{name}" for name in ("bias_act", "minibatch_stddev", "augment")},
    **dict.fromkeys(("upfirdn2d", "downsample2d", "upsample2d"), "fused_inr::upfirdn2d"),
    **{name: f"fused_inr::cpu_{kernel}" for name, kernel in [("siren", "mlp"), ("mlp", "mlp"), ("mlp_jet", "mlp_jet")]},
    "render": "fused_inr::cpu_render",
    "conv2d": "aten::convolution",
}
# Under a transform, PyTorch calls serve render with a sine layer, as in `fi.render` with gradients; and fmm_weight.
MAPPED = [case for case in CASES if case not in ("render-sine", "fmm_weight")]


@pytest.mark.parametrize("case", MAPPED)
def test_vmap_calls_the_kernel_once(case):
    """There is no loop, whether one of the tensors has the additional axis or all of them."""
    if fi.backends()["cpu"] != "ready":
        pytest.skip(f"cpu: {fi.backends()['cpu']}")
    function, shapes = CASES[case]
    tensors, family = _tensors(shapes, torch.float32, "cpu"), case.split("-")[0]
    dims = [[0 if index == only else None for index in range(len(shapes))] for only in range(len(shapes))]
    for mapped in [*dims, [0] * len(shapes)]:
        arguments = [t if dim is None else _stacked([t])[0] for t, dim in zip(tensors, mapped, strict=True)]
        with _Calls() as calls:
            vmap(function, tuple(mapped))(*arguments)
        # A kernel has one filter for all images: a filter of each is one grouped convolution.
        filters = SERVES[family] == "fused_inr::upfirdn2d" and mapped[1] is not None
        assert calls.names == ["aten::convolution" if filters else SERVES[family]]


# vmap of PyTorch's own convolution, of which the others are made in part, refuses an empty axis.
@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("case", [c for c in CASES if c not in ("conv2d", "upfirdn2d", "downsample2d", "upsample2d")])
def test_an_empty_additional_axis(case, backend):
    function, shapes = CASES[case]
    tensors = _tensors(shapes, torch.float32, "cpu")
    stacked = [t.expand(0, *t.shape) for t in tensors]
    with fi.backend(backend) if backend == "reference" else contextlib.nullcontext():
        shape = function(*tensors).shape
        assert vmap(function)(*stacked).shape == (0, *shape)
        gradients = vmap(grad(lambda *ts: function(*ts).sum(), _all(tensors)))(*stacked)
    assert [g.shape for g in gradients] == [t.shape for t in stacked]


@pytest.mark.ci
@pytest.mark.parametrize("transform", ["vmap-of-grad", "jvp"])
@pytest.mark.parametrize("case", CASES)
def test_compiled_transform(case, transform):
    function, shapes = CASES[case]
    tensors = _tensors(shapes, torch.float32, "cpu")
    torch._dynamo.reset()
    compiled = torch.compile(lambda *ts: TRANSFORMS[transform](function, ts), backend="eager", fullgraph=True)
    expected = TRANSFORMS[transform](function, tensors)
    # Measured on an AMD EPYC: 2e-6.
    torch.testing.assert_close(compiled(*tensors), expected, rtol=1e-4, atol=1e-5)


def test_vmap_over_read_out_biases_alone_evaluates_once():
    fourier = fi.Fourier(torch.randn(1, 2, 2), torch.randn(1, 3, 2))
    weight, bias, rgb = torch.randn(1, 5, 4), torch.randn(5), torch.randn(1, 2, 5)

    def render(offset: Tensor) -> Tensor:
        layer = fi.Layer(weight, bias, to_rgb=(rgb, offset))
        return fi.render(fi.INR([fi.Stage(1, [layer], fourier)]), fi.Grid(2, 3))

    offsets = torch.randn(6, 2)
    expected = torch.stack([render(offset) for offset in offsets])
    torch.testing.assert_close(torch.vmap(render)(offsets), expected, rtol=1e-6, atol=1e-6)
    gradients = torch.vmap(torch.func.grad(lambda offset: render(offset).square().sum()))(offsets)
    wanted = torch.stack([torch.func.grad(lambda offset: render(offset).square().sum())(one) for one in offsets])
    torch.testing.assert_close(gradients, wanted, rtol=1e-5, atol=1e-5)
