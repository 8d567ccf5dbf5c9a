"""Published networks, written as their authors do, folded into the arguments of `mlp` and `siren`."""

from itertools import pairwise

import pytest
import torch
from torch import nn

import fused_inr as fi


class ModulatedSiren(nn.Module):
    """A SIREN whose angles are modulated layer by layer; the last layer is linear."""

    def __init__(self, sizes: tuple[int, ...], omega: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes)).double()
        self.omega = omega

    def film(self, x: torch.Tensor, gammas: list[torch.Tensor], betas: list[torch.Tensor]) -> torch.Tensor:
        """Return sin(gamma (W x + b) + beta) at points `[P, K]`; gamma, beta `[O]` per layer (FiLM-SIREN, pi-GAN)."""
        for layer, gamma, beta in zip(self.layers, gammas, betas, strict=False):
            x = torch.sin(gamma * layer(x) + beta)
        return self.layers[-1](x)

    def shift(self, x: torch.Tensor, shifts: list[torch.Tensor]) -> torch.Tensor:
        """Return sin(omega (W x + b + shift)) of points `[P, K]`, with a shift `[O]` per layer (Functa)."""
        for layer, shift in zip(self.layers, shifts, strict=False):
            x = torch.sin(self.omega * (layer(x) + shift))
        return self.layers[-1](x)


@pytest.fixture
def network() -> ModulatedSiren:
    torch.manual_seed(0)
    return ModulatedSiren((2, 24, 16, 3), omega=5.0)


def modulations(scale: float, offset: float = 0.0) -> list[torch.Tensor]:
    """Return one tensor `[N, O]` per sine layer of the network."""
    return [offset + scale * torch.randn(4, size, dtype=torch.float64) for size in (24, 16)]


def test_film_siren(network, assert_close):
    coords, gammas, betas = torch.rand(33, 2).double(), modulations(2.0, offset=15.0), modulations(1.0)
    layers, last = network.layers[:-1], network.layers[-1]

    weights = [gamma[:, :, None] * layer.weight for layer, gamma in zip(layers, gammas, strict=True)]
    biases = [gamma * layer.bias + beta for layer, gamma, beta in zip(layers, gammas, betas, strict=True)]
    actual = fi.siren(coords, [*weights, last.weight], [*biases, last.bias], omega=1.0)

    samples = [network.film(coords, [gamma[n] for gamma in gammas], [beta[n] for beta in betas]) for n in range(4)]
    # Measured in float64 on an AVX-512 CPU: 5.6e-15.
    assert_close("values", torch.stack(samples), actual, 1e-13)


def test_shift_modulated_siren(network, assert_close):
    coords, shifts = torch.rand(33, 2).double(), modulations(0.3)
    layers, last = network.layers[:-1], network.layers[-1]

    weights = [layer.weight for layer in layers]  # shared by all samples
    biases = [layer.bias + shift for layer, shift in zip(layers, shifts, strict=True)]
    actual = fi.siren(coords, [*weights, last.weight], [*biases, last.bias], omega=network.omega)

    samples = [network.shift(coords, [shift[n] for shift in shifts]) for n in range(4)]
    # Measured in float64 on an AVX-512 CPU: 5.6e-16.
    assert_close("values", torch.stack(samples), actual, 1e-13)


def test_gradients_reach_the_modulations(network, assert_close):
    coords = torch.rand(33, 2).double()
    gammas, betas = ([tensor.requires_grad_() for tensor in modulations(1.0, offset)] for offset in (5.0, 0.0))
    layers, last = network.layers[:-1], network.layers[-1]

    weights = [gamma[:, :, None] * layer.weight for layer, gamma in zip(layers, gammas, strict=True)]
    biases = [gamma * layer.bias + beta for layer, gamma, beta in zip(layers, gammas, betas, strict=True)]
    actual = fi.siren(coords, [*weights, last.weight], [*biases, last.bias], omega=1.0)

    samples = [network.film(coords, [gamma[n] for gamma in gammas], [beta[n] for beta in betas]) for n in range(4)]
    leaves = [*gammas, *betas, *network.parameters()]
    expected = torch.autograd.grad(torch.stack(samples).square().sum(), leaves)
    for index, pair in enumerate(zip(expected, torch.autograd.grad(actual.square().sum(), leaves), strict=True)):
        # Measured on an AVX-512 CPU: 8e-16.
        assert_close(f"gradient {index}", *pair, 1e-13)


def test_fourier_feature_network(assert_close):
    """Fourier features of Gaussian frequencies, then a relu network (Tancik et al., NeurIPS 2020)."""
    d, x, gaussian = 8, torch.rand(33, 2).double(), torch.randn(8, 2).double()
    net = nn.Sequential(nn.Linear(2 * d, 16), nn.ReLU(), nn.Linear(16, 3)).double()
    projection = 2 * torch.pi * x @ gaussian.T
    expected = net(torch.cat([projection.sin(), projection.cos()], dim=1))

    frequencies, layers = 2 * torch.pi * gaussian, [net[0], net[2]]
    weights = [torch.cat([frequencies, frequencies]), *(layer.weight for layer in layers)]
    biases = [frequencies.new_tensor([0, torch.pi / 2]).repeat_interleave(d), *(layer.bias for layer in layers)]
    actual = fi.mlp(x, weights, biases, activations=["sine", "relu", "linear"])[0]
    # Measured in float64 on an AVX-512 CPU: 5.6e-16.
    assert_close("values", expected, actual, 1e-13)


def positional_encoding(x: torch.Tensor, octaves: int) -> torch.Tensor:
    """Return x, sin(x), cos(x), sin(2 x), cos(2 x), ... as NeRF does: `[P, 3 (1 + 2 octaves)]`."""
    parts = [x]
    for octave in range(octaves):
        parts += [torch.sin(2**octave * x), torch.cos(2**octave * x)]
    return torch.cat(parts, dim=1)


def test_nerf(assert_close):
    """The trunk of NeRF (ECCV 2020): relu layers on an encoding, which one of them sees again, before its inputs."""
    x, skip, width = positional_encoding(torch.rand(33, 3).double(), octaves=4), 3, 16
    k = x.shape[1]
    layers = [nn.Linear(k if i == 0 else width + (k if i == skip else 0), width).double() for i in range(6)]
    y = x
    for index, layer in enumerate(layers):
        y = torch.relu(layer(torch.cat([x, y], dim=1) if index == skip else y))

    weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
    weights[skip] = weights[skip].roll(-k, -1)
    actual = fi.mlp(x, weights, biases, activations=["relu"] * 6, skips=[skip])[0]
    # Measured in float64 on an AVX-512 CPU: 2.4e-16.
    assert_close("values", y, actual, 1e-13)


def test_finer(network, assert_close):
    """FINER (CVPR 2024): sines whose frequency grows with the distance from zero."""
    x = coords = torch.rand(33, 2).double()
    for layer in network.layers[:-1]:
        z = layer(x)
        x = torch.sin(network.omega * (z.abs() + 1) * z)
    layers = network.layers
    weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
    actual = fi.mlp(coords, weights, biases, activations=["finer", "finer", "linear"], omegas=network.omega)[0]
    # Measured in float64 on an AVX-512 CPU: 5.8e-16.
    assert_close("values", network.layers[-1](x), actual, 1e-13)


def test_per_sample_weights_after_an_inner_step(network, assert_close):
    """MAML: each sample's weights are a step of gradient descent from the shared ones, and so are their gradients."""
    coords, targets = torch.rand(33, 2).double(), torch.rand(4, 33, 3).double()
    count, parameters = len(network.layers), list(network.parameters())
    parameters = parameters[::2] + parameters[1::2]  # weights, then biases

    def inner_loss(parameters: list[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        values = fi.siren(coords, parameters[:count], parameters[count:], omega=network.omega)[0]
        return (values - target).square().mean()

    steps = torch.func.vmap(torch.func.grad(inner_loss), (None, 0))(parameters, targets)
    adapted = [parameter - 0.1 * step for parameter, step in zip(parameters, steps, strict=True)]  # [N, ...] each
    actual = fi.siren(coords, adapted[:count], adapted[count:], omega=network.omega)

    samples = []
    for target in targets:
        loss = (network.shift(coords, [0.0] * (count - 1)) - target).square().mean()
        names, leaves = zip(*network.named_parameters(), strict=True)
        steps = torch.autograd.grad(loss, leaves, create_graph=True)
        tensors = {name: leaf - 0.1 * step for name, leaf, step in zip(names, leaves, steps, strict=True)}
        layers = [(tensors[f"layers.{i}.weight"], tensors[f"layers.{i}.bias"]) for i in range(count)]
        x = coords
        for weight, bias in layers[:-1]:
            x = torch.sin(network.omega * (x @ weight.T + bias))
        samples.append(x @ layers[-1][0].T + layers[-1][1])
    # Measured in float64 on an AVX-512 CPU: 5.9e-16.
    assert_close("values", torch.stack(samples), actual, 1e-13)
    expected = torch.autograd.grad((torch.stack(samples) - targets).square().sum(), parameters)
    gradients = torch.autograd.grad((actual - targets).square().sum(), parameters)
    for index, pair in enumerate(zip(expected, gradients, strict=True)):
        # Measured in float64 on an AVX-512 CPU: 3.6e-16.
        assert_close(f"gradient {index}", *pair, 1e-13)


def image_of(net, height: int, width: int, backend: str | None = None) -> torch.Tensor:
    """Return the image `[1, C, H, W]` that `siren_pytorch.SirenWrapper` renders, from the tensors of its network."""
    rows, columns = (torch.linspace(-1, 1, size) for size in (height, width))  # both ends included, row first
    coords = torch.cartesian_prod(rows, columns)
    layers = [*net.layers, net.last_layer]
    options = dict(omega=net.layers[-1].activation.w0, first_omega=net.layers[0].activation.w0, backend=backend)
    values = fi.siren(coords, [layer.weight for layer in layers], [layer.bias for layer in layers], **options)
    return values.mT.unflatten(2, (height, width))


@pytest.mark.parametrize("depth", [2, 5])
def test_weights_of_siren_pytorch(depth, assert_close):
    siren_pytorch = pytest.importorskip("siren_pytorch")
    torch.manual_seed(0)
    net = siren_pytorch.SirenNet(dim_in=2, dim_hidden=64, dim_out=3, num_layers=depth, w0=1.0, w0_initial=30.0)
    with torch.no_grad():
        expected = siren_pytorch.SirenWrapper(net, image_width=31, image_height=20)()
        # Measured on an AVX-512 CPU: 3.4e-7.
        assert_close("image", expected, image_of(net, 20, 31), 2e-6)


def test_latents_of_siren_pytorch(assert_close):
    """The modulator scales each layer's outputs, which equals scaling the columns of the next layer's weight."""
    siren_pytorch = pytest.importorskip("siren_pytorch")
    torch.manual_seed(0)
    net = siren_pytorch.SirenNet(dim_in=2, dim_hidden=32, dim_out=3, num_layers=3, w0=1.0, w0_initial=30.0)
    wrapper = siren_pytorch.SirenWrapper(net, image_width=9, image_height=7, latent_dim=8)
    layers, latents = [*net.layers, net.last_layer], torch.randn(4, 8)
    with torch.no_grad():
        expected = torch.cat([wrapper(latent=latent) for latent in latents])
        factors = list(map(torch.stack, zip(*map(wrapper.modulator, latents), strict=True)))  # [N, O] each
        weights = [layers[0].weight, *(layer.weight * f[:, None] for layer, f in zip(layers[1:], factors, strict=True))]
        actual = fi.siren(wrapper.grid, weights, [layer.bias for layer in layers], omega=1.0, first_omega=30.0)
    # Measured on an AVX-512 CPU: 4.1e-8.
    assert_close("images", expected, actual.mT.unflatten(2, (7, 9)), 2e-6)
