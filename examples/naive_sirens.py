"""What `fit_images.py --compare` measures against: SIRENs in plain PyTorch, in a loop, and under vmap.

Each takes the weights of the same `fi.nn.Siren(batch=N)` and the same images, and has the same `values` and `step`.
"""

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

import fused_inr as fi


class Network(nn.Module):
    """A SIREN as written by hand, with the weights of network `index` of a batch."""

    def __init__(self, network: fi.nn.Siren, index: int) -> None:
        super().__init__()
        self.omegas = network.omegas
        self.layers = nn.ModuleList(nn.Linear(columns, rows) for rows, columns in network.layer_shapes)
        with torch.no_grad():
            for layer, weight, bias in zip(self.layers, network.weights, network.biases, strict=True):
                layer.weight.copy_(weight[index])
                layer.bias.copy_(bias[index])

    def forward(self, x: Tensor) -> Tensor:
        """Return the values `[P, C]` at points `[P, K]`."""
        for layer, omega in zip(self.layers[:-1], self.omegas, strict=False):
            x = torch.sin(omega * layer(x))
        return self.layers[-1](x)


def adam(parameters: list[Tensor], lr: float) -> torch.optim.Adam:
    """Return Adam as one kernel for all parameters."""
    return torch.optim.Adam(parameters, lr=lr, fused=True)


class Loop:
    """Every network has its own forward pass, backward pass and optimizer."""

    def __init__(self, network: fi.nn.Siren, coords: Tensor, targets: Tensor, lr: float, half: bool) -> None:
        self.coords, self.targets, self.half = coords, targets, half
        self.networks = [Network(network, index) for index in range(len(targets))]
        self.optimizers = [adam(list(network.parameters()), lr) for network in self.networks]

    def values(self) -> Tensor:
        """Return the values `[N, P, C]`."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            return torch.stack([network(self.coords) for network in self.networks]).float()

    def step(self) -> None:
        """Update every network."""
        for network, optimizer, target in zip(self.networks, self.optimizers, self.targets, strict=True):
            with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
                values = network(self.coords)
            optimizer.zero_grad()
            (values - target).square().mean().backward()
            optimizer.step()


class Vmap:
    """`torch.func.vmap` over the stacked parameters of all networks, with the loss, under torch.compile."""

    def __init__(self, network: fi.nn.Siren, coords: Tensor, targets: Tensor, lr: float, half: bool) -> None:
        networks = [Network(network, index) for index in range(len(targets))]
        skeleton = copy.deepcopy(networks[0]).to("meta")
        parameters, _ = stack_module_state(networks)
        self.parameters = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        self.coords, self.targets, self.half = coords, targets, half
        self.optimizer = adam(list(self.parameters.values()), lr)

        def values(parameters: dict[str, Tensor], coords: Tensor) -> Tensor:
            return functional_call(skeleton, parameters, (coords,))

        self.batched = vmap(values, (0, None))

        def loss(parameters: dict[str, Tensor], coords: Tensor, targets: Tensor) -> Tensor:
            return (self.batched(parameters, coords) - targets).square().mean(dim=(1, 2)).sum()

        self.loss = torch.compile(loss)

    def values(self) -> Tensor:
        """Return the values `[N, P, C]`."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            return self.batched(self.parameters, self.coords).float()

    def step(self) -> None:
        """Update every network."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            loss = self.loss(self.parameters, self.coords, self.targets)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
