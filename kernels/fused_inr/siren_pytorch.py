"""Read networks of the package siren-pytorch, of which only the names of parts are known here."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def options_of(network: nn.Module) -> tuple[dict[str, float], str]:
    """Return the frequencies and the activation of the last layer of a `SirenNet`."""
    try:
        layers: Any = network.layers
        last: Any = network.last_layer
        rates = [layer.activation.w0 for layer in layers]
    except AttributeError as error:
        raise ValueError(
            f"from_siren_pytorch takes a siren_pytorch.SirenNet, not a {type(network).__name__}."
        ) from error
    if any(isinstance(module, nn.Dropout) and module.p > 0 and module.training for module in network.modules()):
        raise ValueError("from_siren_pytorch does not copy dropout: call `eval()` on the SirenNet first.")
    final = "linear" if isinstance(last.activation, nn.Identity) else "sine"
    if final == "sine":
        rates.append(getattr(last.activation, "w0", None))
    omega = rates[min(1, len(rates) - 1)] if rates else None
    if omega is None or any(rate != omega for rate in rates[1:]):
        raise ValueError("from_siren_pytorch needs the same w0 after the first layer, and a linear or sine last layer.")
    return {"omega": omega, "first_omega": rates[0]}, final


def layers_of(networks: Sequence[Any]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the weights `[N, O, I]` and biases `[N, O]` of a list of SirenNets or their state dicts."""
    states = [network.state_dict() if isinstance(network, nn.Module) else network for network in networks]
    count = sum(name.startswith("layers.") and name.endswith(".weight") for name in states[0]) if states else 0
    names = [*(f"layers.{index}" for index in range(count)), "last_layer"]
    weights: list[Tensor] = []
    biases: list[Tensor] = []
    try:
        for name in names:
            weights.append(torch.stack([state[f"{name}.weight"] for state in states]))
            zeros = weights[-1].new_zeros(weights[-1].shape[1])  # for networks made with use_bias=False
            biases.append(torch.stack([state.get(f"{name}.bias", zeros) for state in states]))
    except (KeyError, RuntimeError) as error:
        raise ValueError("from_siren_pytorch takes a siren_pytorch.SirenNet, or a list of equal-sized ones.") from error
    return weights, biases
