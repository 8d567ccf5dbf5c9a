"""siren and mlp: against hand-written layers, shared and own tensors, gradients of two orders, errors."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import fused_inr as fi


class Sine(nn.Module):
    def __init__(self, omega: float) -> None:
        super().__init__()
        self.omega = omega

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(self.omega * x)


def networks(n: int, sizes: list[int], omegas: list[float], last_sine: bool = False) -> list[nn.Sequential]:
    torch.manual_seed(0)
    result = []
    for _ in range(n):
        modules: list[nn.Module] = []
        for index, (inputs, outputs) in enumerate(pairwise(sizes)):
            modules.append(nn.Linear(inputs, outputs))
            if index < len(sizes) - 2 or last_sine:
                modules.append(Sine(omegas[index]))
        result.append(nn.Sequential(*modules).double())
    return result


def stacked(modules: list[nn.Sequential]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    linear = [[module for module in network if isinstance(module, nn.Linear)] for network in modules]
    layers = list(zip(*linear, strict=True))
    return (
        [torch.stack([module.weight.detach() for module in layer]) for layer in layers],
        [torch.stack([module.bias.detach() for module in layer]) for layer in layers],
    )


@pytest.mark.parametrize("own_points", [False, True], ids=["PK", "NPK"])
@pytest.mark.parametrize(("n", "points", "k"), [(1, 1, 1), (3, 63, 2), (2, 100, 5)], ids=lambda value: str(value))
def test_equals_sequential_modules(assert_close, n, points, k, own_points):
    modules = networks(n, [k, 7, 6, 3], [11.0, 4.0, 4.0])
    weights, biases = stacked(modules)
    coords = torch.rand(n, points, k).double() if own_points else torch.rand(points, k).double()
    expected = torch.stack([net(coords[i] if own_points else coords) for i, net in enumerate(modules)]).detach()
    actual = fi.siren(coords, weights, biases, omega=4.0, first_omega=11.0)
    assert_close("values", expected, actual, 1e-13)


def test_final_sine_and_the_default_omegas(assert_close):
    modules = networks(2, [2, 4, 3], [30.0, 30.0], last_sine=True)
    weights, biases = stacked(modules)
    coords = torch.rand(9, 2).double()
    expected = torch.stack([network(coords) for network in modules]).detach()
    assert_close("values", expected, fi.siren(coords, weights, biases, final="sine"), 1e-12)


def test_shared_tensors(assert_close):
    weights, biases = stacked(networks(3, [2, 4, 3], [30.0, 30.0]))
    coords = torch.rand(5, 2).double()
    mixed = fi.siren(coords, [weights[0][0], weights[1]], [biases[0], biases[1][:1]])
    own = fi.siren(coords, [weights[0][:1].expand(3, -1, -1), weights[1]], [biases[0], biases[1][:1].expand(3, -1)])
    assert mixed.shape == (3, 5, 3)
    assert_close("values", own, mixed, 1e-14)
    alone = fi.siren(coords, [weight[0] for weight in weights], [bias[0] for bias in biases])
    assert alone.shape == (1, 5, 3)


@pytest.mark.parametrize(("n", "points"), [(0, 4), (2, 0)], ids=["B0", "P0"])
def test_empty(n, points):
    out = fi.siren(torch.zeros(points, 2), [torch.zeros(n, 3, 2)], [torch.zeros(n, 3)])
    assert out.shape == (n, points, 3)


def test_half_precision_products(assert_close):
    weights, biases = stacked(networks(2, [2, 32, 3], [3.0, 3.0]))
    arguments = torch.rand(50, 2), [weight.float() for weight in weights], [bias.float() for bias in biases]
    half = fi.siren(*arguments, omega=3.0, dtype=torch.bfloat16)
    # Measured on an AVX-512 CPU: 4.4e-3.
    assert_close("values", fi.siren(*arguments, omega=3.0), half, 2e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fi.siren(*arguments, omega=3.0), half)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
def test_dtype_of_the_products_and_of_the_result(half):
    weights, biases = stacked(networks(2, [2, 32, 3], [3.0, 3.0]))
    coords, weights, biases = torch.rand(50, 2), [w.to(half) for w in weights], [b.to(half) for b in biases]
    result = fi.siren(coords.to(half), weights, biases, omega=3.0)
    assert result.dtype == half
    wide = [weight.float() for weight in weights], [bias.float() for bias in biases]
    assert torch.equal(result, fi.siren(coords.to(half).float(), *wide, omega=3.0, dtype=half).to(half))
    mixed = fi.siren(coords, weights, biases, omega=3.0)  # promoted to float32, as by PyTorch
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, fi.siren(coords, *wide, omega=3.0))
    assert fi.siren(coords.to(half), weights, biases, dtype=torch.float32).dtype == half


def test_one_frequency_serves_the_layers_that_have_one(assert_close):
    weights, biases = stacked(networks(2, [2, 4, 4, 3], [1.0] * 3))
    coords, activations = torch.rand(5, 2).double(), ["sine", "gauss", "linear"]

    def evaluate(omegas):
        return fi.mlp(coords, weights, biases, activations=activations, omegas=omegas)

    hidden = torch.sin(3 * (coords @ weights[0].mT + biases[0][:, None]))
    hidden = torch.exp(-((3 * (hidden @ weights[1].mT + biases[1][:, None])) ** 2))
    assert_close("values", hidden @ weights[2].mT + biases[2][:, None], evaluate(3.0), 1e-13)
    assert torch.equal(evaluate([3.0, 3.0, None]), evaluate(3.0))
    assert torch.equal(evaluate(None), evaluate(1.0))


@pytest.mark.parametrize("backend", ["reference", None])
@pytest.mark.parametrize("activation", ["sine", "gauss"])
def test_frequencies_that_are_learned_fold_into_weights_and_biases(activation, backend):
    generator = torch.Generator().manual_seed(0)
    coords, first, last, bias = (torch.randn(s, generator=generator) for s in [(7, 2), (3, 5, 2), (3, 1, 5), (3, 5)])
    omega = torch.tensor([0.5, 1.5, 2.0], requires_grad=True)

    def network(weight: torch.Tensor, bias: torch.Tensor, **options) -> torch.Tensor:
        biases = [bias, last.new_zeros(1)]
        return fi.mlp(coords, [weight, last], biases, activations=[activation, "linear"], backend=backend, **options)

    def folded(omega: torch.Tensor) -> torch.Tensor:
        return network(first * omega[:, None, None], bias * omega[:, None], omegas=1.0)

    values = folded(omega)
    loop = [network(first, bias, omegas=number)[index] for index, number in enumerate(omega.tolist())]
    torch.testing.assert_close(values, torch.stack(loop), rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(values.sum(), omega)
    step = 1e-2
    differences = (folded(omega + step) - folded(omega - step)).sum((1, 2)) / (2 * step)
    # Of central differences, measured on an AMD EPYC: 2e-3.
    torch.testing.assert_close(gradient, differences, rtol=2e-2, atol=2e-2)


def test_every_layer_but_the_first_may_see_the_coordinates_again(assert_close):
    weights, biases = stacked(networks(2, [2, 3, 5], [1.0] * 2))
    weights[1] = torch.rand(2, 5, 3 + 2).double()
    coords = torch.rand(4, 2).double()
    hidden = torch.tanh(coords @ weights[0].mT + biases[0][:, None])  # [2, 4, 3]
    inputs = torch.cat([hidden, coords.expand(2, -1, -1)], dim=2)  # [2, 4, 5]
    values = fi.mlp(coords, weights, biases, activations=["tanh", "linear"], skips=(1,))
    assert_close("values", inputs @ weights[1].mT + biases[1][:, None], values, 1e-13)


def test_gradients():
    weights, biases = stacked(networks(2, [2, 3, 2], [2.0, 2.0]))
    leaves = [tensor.requires_grad_() for tensor in (torch.rand(3, 2).double(), *weights, *biases)]

    def evaluate(coords, *tensors):
        return fi.siren(coords, tensors[:2], tensors[2:], omega=2.0)

    assert gradcheck(evaluate, leaves)
    assert gradgradcheck(evaluate, leaves)


X, W, B = torch.zeros(4, 2), torch.zeros(3, 5, 2), torch.zeros(3, 5)
MANY = X[:1].expand(2**60, 2)


def jet(**options):
    return fi.mlp_jet(MANY, [W], [B], activations=["linear"], **options)


ERRORS = {
    "final": (lambda: fi.siren(X, [W], [B], final="tanh"), "final must be one of linear, sine, not 'tanh'"),
    "no-layers": (lambda: fi.siren(X, [], []), "needs weights and biases, one per weight, not 0 and 0"),
    "counts": (lambda: fi.siren(X, [W], [B, B]), "needs weights and biases, one per weight, not 1 and 2"),
    "coords": (lambda: fi.siren(X[0], [W], [B]), "siren coords must be floating point with 2 or 3 axes"),
    "inputs": (lambda: fi.siren(X, [W, W], [B, B]), r"siren weights\[1\] must have 5 columns, one per input, not 2"),
    "bias": (lambda: fi.siren(X, [W], [B[:, :4]]), r"siren biases\[0\] must have 5 entries, one per row, not 4"),
    "batches": (lambda: fi.siren(X, [W], [B[:2]]), r"must agree in N \(or be shared, 1\), not have \[2, 3\]"),
    "size": (lambda: fi.siren(MANY, [W], [B]), rf"siren: a result of shape \[3, {2**60}, 5\] exceeds all memory"),
    "jacobian": (jet, rf"mlp_jet: a result of shape \[3, {2**60}, 5, 2\] exceeds all memory"),
    "hessian": (
        lambda: jet(order=2, hessian=True),
        rf"mlp_jet: a result of shape \[3, {2**60}, 5, 2, 2\] exceeds all memory; use smaller coords or weights",
    ),
    "skips-0": (
        lambda: fi.mlp(X, [W], [B], activations=["linear"], skips=(0,)),
        "mlp skips must be an integer of at least 1, not 0",
    ),
    "skips-count": (
        lambda: fi.mlp(X, [W], [B], activations=["linear"], skips=(1,)),
        "mlp skips must be less than the number of layers, 1, not 1",
    ),
    "devices": (lambda: fi.siren(X.to("meta"), [W], [B]), r"on one device, not \['cpu', 'meta'\]"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_one_sentence(case):
    make, sentence = ERRORS[case]
    with pytest.raises(ValueError, match=sentence) as caught:
        make()
    assert str(caught.value).endswith(".")
