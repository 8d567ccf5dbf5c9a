"""Networks as modules: their initialisations, parameters and results, and that they are ordinary modules."""

import copy
import math
import pickle

import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import nn
from torch.func import functional_call

import fused_inr as fi

WIDE = dict(dtype=torch.float64)
# Name: a network without and one with an axis of three networks, with equal options.
KINDS = {
    "siren": lambda batch: fi.nn.Siren(2, 3, (16, 12), first_omega=20.0, omega=10.0, batch=batch, **WIDE),
    "relu": lambda batch: fi.nn.MLP(2, 3, (16, 12, 8), skips=(2,), batch=batch, **WIDE),
    "finer": lambda batch: fi.nn.MLP(
        2, 3, (16, 12), activation="finer", omega=5.0, first_bias=2.0, batch=batch, **WIDE
    ),
    "fourier": lambda batch: fi.nn.FourierMLP(2, 3, (16, 12), features=10, scale=0.5, batch=batch, **WIDE),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def coords(points: int = 21) -> torch.Tensor:
    return torch.rand(points, 2, dtype=torch.float64) * 2 - 1


def by_hand(net, x: torch.Tensor, index: int | None = None) -> torch.Tensor:
    """Return the values of one network at points `[P, K]`, layer by layer."""
    pick = (lambda tensor: tensor) if index is None else (lambda tensor: tensor[index])
    points = x
    if isinstance(net, fi.nn.FourierMLP):
        angles = x @ pick(net.frequencies).T
        x = torch.cat([angles.sin(), angles.cos()], dim=1)
    for i, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True)):
        if i in net.skips:
            x = torch.cat([x, points], dim=1)
        x = x @ pick(weight).T + pick(bias)
        omega, name = net.omegas[i], net.activations[i]
        x = {
            "sine": lambda z, w: torch.sin(w * z),
            "finer": lambda z, w: torch.sin(w * (z.abs() + 1) * z),
            "relu": lambda z, w: z.relu(),
            "linear": lambda z, w: z,
        }[name](x, omega)
    return x


def test_values_of_one_network(kind, assert_close):
    net, x = kind(None), coords()
    assert net(x).shape == (21, 3)
    # Measured in float64 on an AVX-512 CPU: 2.6e-16.
    assert_close("values", by_hand(net, x), net(x), 1e-13)


def test_values_of_independent_networks(kind, assert_close):
    net, x = kind(3), coords()
    expected = torch.stack([by_hand(net, x, index) for index in range(3)])
    assert not torch.equal(expected[0], expected[1])
    # Measured in float64 on an AVX-512 CPU: 2.6e-16.
    assert_close("values", expected, net(x), 1e-13)
    assert net(x.expand(3, -1, -1)).shape == (3, 21, 3)


def test_points_of_each_sample_have_an_axis(kind):
    net = kind(None)
    assert net(coords().expand(4, -1, -1)).shape == (4, 21, 3)
    assert [result.shape for result in net.jet(coords().expand(4, -1, -1), order=1)] == [(4, 21, 3), (4, 21, 3, 2)]


def test_jet(kind, assert_close):
    net, x = kind(None), coords(5)
    values, jacobian, laplacian, hessian = net.jet(x, hessian=True)
    expected = torch.stack([torch.func.jacfwd(lambda p: by_hand(net, p[None])[0])(point) for point in x])
    second = torch.stack([torch.func.hessian(lambda p: by_hand(net, p[None])[0])(point) for point in x])
    # Measured in float64 on an AVX-512 CPU: 1.7e-15 for the Jacobian of FINER.
    assert_close("values", net(x), values, 1e-13)
    assert_close("jacobian", expected, jacobian, 1e-13)
    assert_close("laplacian", second.diagonal(dim1=2, dim2=3).sum(2), laplacian, 1e-13)
    assert_close("hessian", second, hessian, 1e-13)
    assert [result.shape for result in kind(3).jet(x, order=1)] == [(3, 5, 3), (3, 5, 3, 2)]


def test_modulations(kind, assert_close):
    net, x = kind(None), coords()
    scales = [1 + torch.rand(4, width, dtype=torch.float64) for width in net.hidden]
    shifts = [torch.rand(width, dtype=torch.float64) for width in net.hidden]
    scales[0] = shifts[-1] = None
    samples = []
    for index in range(4):
        other = copy.deepcopy(net)
        with torch.no_grad():
            for i, (scale, shift) in enumerate(zip(scales, shifts, strict=True)):
                scale, shift = 1 if scale is None else scale[index], 0 if shift is None else shift
                other.weights[i].copy_((net.weights[i].T * scale).T)
                other.biases[i].copy_(net.biases[i] * scale + shift)
        samples.append(other(x))
    # Measured in float64 on an AVX-512 CPU: no difference; other orders of summation give about 1e-15.
    assert_close("values", torch.stack(samples), net(x, scales=scales, shifts=shifts), 1e-13)
    shared = [None if tensor is None else tensor[0] for tensor in scales]
    assert_close("values", samples[0], net(x, scales=shared, shifts=shifts), 1e-13)
    jets = net.jet(x, order=1, scales=scales, shifts=shifts)
    assert_close("values", torch.stack(samples), jets[0], 1e-13)


def test_flat_vectors(kind, assert_close):
    net, many = kind(None), kind(3)
    assert net.flatten().shape == (net.flat_size,)
    assert net.flat_size == sum(tensor.numel() for tensor in (*net.weights, *net.biases))
    assert net.flat_size == many.flat_size
    for network in (net, many):
        weights, biases = network.split(network.flatten())
        for mine, split in zip([*network.weights, *network.biases], [*weights, *biases], strict=True):
            assert torch.equal(mine, split)
    flat = torch.randn(5, net.flat_size, dtype=torch.float64) / 4
    x = coords()
    values, jacobian = net.jet(x, flat, order=1)
    assert (values.shape, jacobian.shape) == ((5, 21, 3), (5, 21, 3, 2))
    rows = [net(x, row) for row in flat]
    assert rows[0].shape == (21, 3)
    # Measured in float64 on an AVX-512 CPU: no difference; other orders of summation give about 1e-15.
    assert_close("values", torch.stack(rows), net(x, flat), 1e-13)
    assert_close("values", torch.stack(rows), values, 1e-13)


def test_flat_vectors_get_gradients():
    target = fi.nn.Siren(2, 1, (8, 8), own_parameters=False)
    hypernetwork = nn.Linear(4, target.flat_size)
    target(torch.rand(9, 2), hypernetwork(torch.randn(3, 4))).square().sum().backward()
    assert hypernetwork.weight.grad.abs().amin(dim=1).gt(0).float().mean() > 0.9


TARGETS = {
    "siren": lambda **options: fi.nn.Siren(2, 1, (8, 8), **options),
    "mlp": lambda **options: fi.nn.MLP(2, 1, (8, 8), activation="finer", first_bias=2.0, **options),
    "fourier": lambda **options: fi.nn.FourierMLP(2, 1, (8, 8), features=6, **options),
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_has_no_parameters_and_can_be_a_part_of_a_module(name, tmp_path):
    """A module with parts on the meta device can be neither moved nor saved."""

    class HyperNetwork(nn.Module):
        def __init__(self, target: nn.Module) -> None:
            super().__init__()
            self.target, self.writer = target, nn.Linear(4, target.flat_size)

        def forward(self, latents: torch.Tensor) -> torch.Tensor:
            return self.target(x, self.writer(latents))

    x, own, target = coords().float(), TARGETS[name](), TARGETS[name](own_parameters=False)
    network = HyperNetwork(target).to("cpu").to(torch.float32)
    names = {key for key, _ in network.named_parameters()} - {"target.frequencies"}
    assert names == {"writer.weight", "writer.bias"}
    assert "own_parameters=False" in repr(target)
    if name == "fourier":
        own.frequencies.data.copy_(target.frequencies)
    latents = torch.randn(3, 4)
    assert torch.equal(network(latents), own(x, network.writer(latents)))
    save_model(network, tmp_path / "network.safetensors")
    other = HyperNetwork(TARGETS[name](own_parameters=False))
    load_model(other, tmp_path / "network.safetensors")
    assert torch.equal(other(latents), network(latents))
    for call in (lambda: target(x), target.flatten, lambda: target.jet(x)):
        with pytest.raises(ValueError, match=r"was created with own_parameters=False: give flat vectors\.$"):
            call()


def test_siren_initialisation():
    torch.manual_seed(0)
    net = fi.nn.Siren(3, 2, (64, 32), omega=15.0, first_omega=40.0, batch=50)
    bounds = [1 / 3, (6 / 64) ** 0.5 / 15, (6 / 32) ** 0.5 / 15]
    for weight, bias, bound in zip(net.weights, net.biases, bounds, strict=True):
        assert 0.97 * bound < weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
        assert 0.9 * weight.shape[-1] ** -0.5 < bias.abs().max() <= weight.shape[-1] ** -0.5
    angles = 40 * (torch.rand(1000, 3) * 2 - 1) @ net.weights[0].mT + 40 * net.biases[0][:, None]
    hidden = torch.sin(angles)
    second = 15 * (hidden @ net.weights[1].mT)
    # The aim of the initialisation: angles of the later layers have a variance of about 1.
    assert second.std().item() == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("activation", ["relu", "gelu", "gauss"])
def test_other_networks_are_initialised_as_linear_layers(activation):
    net = fi.nn.MLP(3, 2, (64, 32), activation=activation, batch=50)
    for weight, bias in zip(net.weights, net.biases, strict=True):
        bound = weight.shape[-1] ** -0.5
        assert 0.97 * bound < weight.abs().max() <= bound
        assert 0.9 * bound < bias.abs().max() <= bound
    torch.manual_seed(3)
    layer = nn.Linear(3, 64)
    assert net.weights[0].std().item() == pytest.approx(layer.weight.std().item(), rel=0.1)


def test_finer_initialisation():
    net = fi.nn.MLP(2, 2, (64, 32), activation="finer", first_bias=5.0, batch=50)
    assert 4.9 < net.biases[0].abs().max() <= 5
    assert net.biases[1].abs().max() <= 1 / 8
    assert 0.97 / 2 < net.weights[0].abs().max() <= 1 / 2
    assert 0.97 < net.weights[1].abs().max() / ((6 / 64) ** 0.5 / 30) <= 1
    assert net.omegas == (30.0, 30.0, None)


def test_gauss_has_the_published_width():
    net = fi.nn.MLP(1, 1, (8,), activation="gauss", **WIDE)
    z = torch.tensor(0.1, **WIDE)  # one standard deviation
    assert torch.exp(-((net.omegas[0] * z) ** 2)).item() == pytest.approx(math.exp(-0.5))


def test_fourier_initialisation():
    net = fi.nn.FourierMLP(2, 1, (8,), features=4000, scale=3.0, batch=2)
    assert net.frequencies.shape == (2, 4000, 2)
    assert net.frequencies.std().item() == pytest.approx(6 * math.pi, rel=0.05)
    assert net.weights[0].shape == (2, 8, 8000)
    assert not net.frequencies.requires_grad
    assert net(torch.rand(5, 2)).sum().backward() is None
    assert net.frequencies.grad is None
    assert net.weights[0].grad is not None
    trained = fi.nn.FourierMLP(2, 1, (8,), features=4, trainable=True)
    trained(torch.rand(5, 2)).sum().backward()
    assert trained.frequencies.grad.abs().sum() > 0


def test_reset_draws_each_network_again(kind):
    net = kind(3)
    before = net.flatten().clone()
    torch.manual_seed(5)
    net.reset_parameters()
    assert (before != net.flatten()).all()
    assert (net.weights[0][0] != net.weights[0][1]).all()


def test_state_dict(kind):
    net, other = kind(3), kind(3)
    layers = range(len(net.hidden) + 1)
    names = [*(f"weights.{i}" for i in layers), *(f"biases.{i}" for i in layers)]
    state = net.state_dict()
    assert {name for name in state if name != "frequencies"} == set(names)
    assert ("frequencies" in state) == isinstance(net, fi.nn.FourierMLP)
    other.load_state_dict(state)
    x = coords()
    assert torch.equal(net(x), other(x))


def test_copies(kind):
    net, x = kind(3), coords()
    with torch.no_grad():
        expected = net(x)
        for clone in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            assert torch.equal(clone(x), expected)
            clone.weights[0].zero_()
        assert torch.equal(net(x), expected)
        single = {name: tensor[1] for name, tensor in net.state_dict().items()}
        # Products of one network and of several are summed in another order.
        torch.testing.assert_close(functional_call(kind(None), single, (x,)), expected[1], rtol=1e-12, atol=1e-12)


def test_representation():
    text = repr(fi.nn.Siren(2, 3, (16, 12), batch=4))
    assert text.startswith(
        "Siren(\n  2, 3, hidden=(16, 12), activation=sine, final=linear, omegas=(30.0, 30.0, None), batch=4"
    )
    assert "skips=(2,)" in repr(fi.nn.MLP(2, 3, (16, 12), skips=(2,)))
    assert "omegas" not in repr(fi.nn.MLP(2, 3, (16, 12)))
    assert "features=7, scale=2.0, trainable=False" in repr(fi.nn.FourierMLP(2, 3, (4,), features=7, scale=2.0))


def test_compiles_without_graph_breaks(assert_close):
    net, x = fi.nn.Siren(2, 3, (16, 12), batch=3), torch.rand(9, 2)
    shifts = [torch.rand(3, width) for width in net.hidden]
    compiled = torch.compile(net, fullgraph=True)
    # Measured on an AVX-512 CPU: no difference; other kernels round differently.
    assert_close("values", net(x, shifts=shifts), compiled(x, shifts=shifts), 2e-6)


def test_autocast_sets_the_type_of_the_products():
    net, x = fi.nn.Siren(2, 3, (64, 64), batch=3), torch.rand(90, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        rounded = net(x)
    with torch.no_grad():
        assert rounded.dtype == torch.float32
        assert torch.equal(rounded, net(x, dtype=torch.bfloat16))
        assert not torch.equal(rounded, net(x))


def test_the_layer_after_one_hidden_layer_has_the_bound_of_omega():
    net = fi.nn.Siren(2, 1, (4096,), omega=30.0, first_omega=3000.0)
    bound = (6 / 4096) ** 0.5 / 30
    assert 0.9 * bound < net.weights[1].abs().max() <= bound


def test_a_siren_without_hidden_layers_is_linear(assert_close):
    net, x = fi.nn.Siren(2, 3, hidden=()), torch.rand(7, 2)
    assert_close("values", (x @ net.weights[0].mT + net.biases[0]).detach(), net(x).detach(), 1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(in_features=0), "MLP in_features must be an integer of at least 1, not 0"),
        (dict(hidden=64), "MLP hidden must be the widths of the hidden layers, not 64"),
        (dict(hidden=(64, 0)), "MLP hidden must be an integer of at least 1, not 0"),
        (dict(batch=0), "MLP batch must be an integer of at least 1, not 0"),
        (dict(activation="swish"), "MLP activation must be one of linear, lrelu"),
        (dict(omega=30.0), "MLP omega is for sine, gauss, finer, not for relu; leave it out"),
        (dict(activation="sine", omega=0.0), "MLP omega must not be 0"),
        (dict(final="sine", first_omega=3.0), "MLP first_omega is for sine, gauss, finer, not for relu; leave it out"),
        (dict(skips=(5,)), "MLP skips must be an integer of at most 4, not 5"),
        (dict(first_bias=-1.0), r"MLP first_bias must be at least 0\.0, not -1"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        fi.nn.MLP(**{"in_features": 2, "out_features": 3, **options})


def test_bad_arguments():
    net, x = fi.nn.Siren(2, 3, (8, 6)), torch.rand(5, 2)
    with pytest.raises(ValueError, match=r"Siren shifts must be one per hidden layer, 2, not 1"):
        net(x, shifts=[torch.rand(8)])
    with pytest.raises(ValueError, match=r"Siren scales\[1\] must be \[N, 6\] or \[6\], not \[4, 8\]"):
        net(x, scales=[None, torch.rand(4, 8)])
    with pytest.raises(
        ValueError, match=rf"Siren flat must be \[N, {net.flat_size}\] or \[{net.flat_size}\], not \[7\]"
    ):
        net(x, torch.rand(7))
    with pytest.raises(ValueError, match=r"mlp weights\[0\] must have 3 columns"):
        net(torch.rand(5, 3))
    with pytest.raises(ValueError, match="final must be one of linear, sine, not 'relu'"):
        fi.nn.Siren(2, 3, final="relu")
