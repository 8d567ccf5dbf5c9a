"""Networks as modules: one network, or a batch of independent ones, initialised as published and evaluated by `mlp`.

The parameters of layer i are `weights.i` and `biases.i`, `[O, I]` and `[O]`; with `batch=N`, `[N, O, I]` and `[N, O]`.
These are the names in a `state_dict`, and those that `torch.func.functional_call` takes.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from fused_inr import checks, siren_pytorch
from fused_inr.ops.mlp import mlp, mlp_jet
from fused_inr.primitives.mlp import ACTIVATIONS, FREQUENCIES

__all__ = ["MLP", "FourierMLP", "Siren"]

OMEGAS = {"sine": 30.0, "finer": 30.0, "gauss": 10 * 0.5**0.5}
"""Published frequencies and scales; "gauss" has a standard deviation of 0.1."""

Modulations = Sequence[Tensor | None] | None


class _Network(nn.Module):
    """Fully connected layers on some features of the coordinates; subclasses say which, and reset the parameters."""

    def __init__(
        self,
        in_features: int,
        inputs: int,
        out_features: int,
        hidden: Sequence[int],
        activation: str,
        final: str,
        omega: float | None,
        first_omega: float | None,
        skips: Sequence[int],
        batch: int | None,
        own_parameters: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        self.in_features = checks.integer(owner, "in_features", in_features, 1)
        self.out_features = checks.integer(owner, "out_features", out_features, 1)
        if isinstance(hidden, str) or not isinstance(hidden, Iterable):
            raise ValueError(f"{owner} hidden must be the widths of the hidden layers, not {checks.described(hidden)}.")
        self.hidden = tuple(checks.integer(owner, "hidden", width, 1) for width in hidden)
        self.batch = None if batch is None else checks.integer(owner, "batch", batch, 1)
        checks.choice(owner, "activation", activation, ACTIVATIONS)
        checks.choice(owner, "final", final, ACTIVATIONS)
        self.activations = (*[activation] * len(self.hidden), final)
        self.omegas = _omegas(owner, self.activations, omega, first_omega)
        self._omega = OMEGAS.get(activation, OMEGAS.get(final)) if omega is None else omega  # after the first layer
        self.skips = tuple(checks.integer(owner, "skips", skip, 1, len(self.hidden)) for skip in skips)
        widths = [inputs, *self.hidden, self.out_features]
        self.layer_shapes = tuple(
            (outputs, width + (self.in_features if index in self.skips else 0))
            for index, (width, outputs) in enumerate(itertools.pairwise(widths))
        )
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.own_parameters = checks.flag(owner, "own_parameters", own_parameters)
        shapes = [(self._lead() + shape, self._lead() + shape[:1]) for shape in self.layer_shapes if own_parameters]
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(weight, **options)) for weight, _ in shapes)
        self.biases = nn.ParameterList(nn.Parameter(torch.empty(bias, **options)) for _, bias in shapes)

    @property
    def flat_size(self) -> int:
        """Return the number of parameters of one network, the length of a flat vector."""
        return sum(rows * (columns + 1) for rows, columns in self.layer_shapes)

    def split(self, flat: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Split flat vectors, such as the output of a hypernetwork, into weights and biases; these are views.

        Args:
            flat: `[N, S]` or `[S]`, with S = `flat_size`: weight 0 row by row, bias 0, weight 1, bias 1, ...

        Returns:
            (weights, biases), lists of `[N, O, I]` and `[N, O]`, or `[O, I]` and `[O]`, as `fi.mlp` takes them.

        Raises:
            ValueError: the vectors have another length.
        """
        owner = type(self).__name__
        checks.floating(owner, "flat", flat)
        if flat.ndim not in (1, 2) or flat.shape[-1] != self.flat_size:
            raise ValueError(
                f"{owner} flat must be [N, {self.flat_size}] or [{self.flat_size}], not {list(flat.shape)}."
            )
        sizes = [size for rows, columns in self.layer_shapes for size in (rows * columns, rows)]
        parts = flat.split(sizes, -1)
        weights = [part.unflatten(-1, shape) for part, shape in zip(parts[::2], self.layer_shapes, strict=True)]
        return weights, list(parts[1::2])

    def flatten(self) -> Tensor:
        """Return the parameters as flat vectors `[batch, S]` or `[S]`, which `split` takes apart."""
        pairs = zip(*self._own_layers(), strict=True)
        return torch.cat([part for weight, bias in pairs for part in (weight.flatten(-2), bias)], dim=-1)

    def forward(
        self,
        coords: Tensor,
        flat: Tensor | None = None,
        *,
        scales: Modulations = None,
        shifts: Modulations = None,
        dtype: torch.dtype | None = None,
        backend: str | None = None,
    ) -> Tensor:
        """Evaluate the networks at P points.

        Modulations act on z = W x + b of the hidden layers, z <- scale z + shift, before the activation and its
        frequency: sin(omega (scale z + shift)). Shifts alone give the modulation of Functa. The frequencies gamma and
        phases beta of FiLM-SIREN (pi-GAN), sin(gamma z + beta), give scale = gamma / omega and shift = beta / omega.

        Args:
            coords: `[P, K]` shared by all networks, or `[N, P, K]`.
            flat: parameters to use in place of the module's own, `[N, S]` or `[S]`; see `split`.
            scales, shifts: one `[N, O]` or `[O]` per hidden layer, or None for layers that have none.
            dtype, backend: as for `fi.mlp`.

        Returns:
            `[N, P, C]`; `[P, C]` if neither the module nor an argument has an axis of N networks.

        Raises:
            ValueError: the shapes do not match.
            RuntimeError: the requested backend cannot serve this call; the message says why.
        """
        weights, biases = self._layers(flat, scales, shifts)
        values = mlp(coords, weights, biases, **self._options(), dtype=dtype, backend=backend)
        return values if _has_batch(coords, weights, biases) else values[0]

    def jet(
        self,
        coords: Tensor,
        flat: Tensor | None = None,
        *,
        order: int = 2,
        hessian: bool = False,
        scales: Modulations = None,
        shifts: Modulations = None,
        dtype: torch.dtype | None = None,
        backend: str | None = None,
    ) -> tuple[Tensor, ...]:
        """Evaluate the networks and their derivatives with respect to the coordinates at P points.

        Args:
            coords, flat, scales, shifts, dtype, backend: as for `forward`.
            order, hessian: as for `fi.mlp_jet`.

        Returns:
            (values, Jacobians, Laplacians, Hessians) up to the order, as `fi.mlp_jet` returns them; without the axis N
            where `forward` has none.

        Raises:
            ValueError: the shapes do not match.
            RuntimeError: the requested backend cannot serve this call; the message says why.
        """
        weights, biases = self._layers(flat, scales, shifts)
        options: dict[str, Any] = dict(order=order, hessian=hessian, dtype=dtype, backend=backend)
        results = mlp_jet(coords, weights, biases, **self._options(), **options)
        return results if _has_batch(coords, weights, biases) else tuple(result[0] for result in results)

    def extra_repr(self) -> str:
        """Return the constructor's arguments, for `repr`."""
        activation, final = (self.activations[0], self.activations[-1]) if self.hidden else (None, self.activations[-1])
        text = f"{self.in_features}, {self.out_features}, hidden={self.hidden}, activation={activation}, final={final}"
        frequencies = [omega for omega in self.omegas if omega is not None]
        text += f", omegas={self.omegas}" if frequencies else ""
        text += f", skips={self.skips}" if self.skips else ""
        text += "" if self.batch is None else f", batch={self.batch}"
        return text if self.own_parameters else f"{text}, own_parameters=False"

    def _lead(self) -> tuple[int, ...]:
        return () if self.batch is None else (self.batch,)

    def _options(self) -> dict[str, Any]:
        """Return the options of `mlp` that describe the layers."""
        return {"activations": self.activations, "omegas": self.omegas, "skips": self.skips}

    def _own_layers(self) -> tuple[list[Tensor], list[Tensor]]:
        if not self.own_parameters:
            raise ValueError(f"{type(self).__name__} was created with own_parameters=False: give flat vectors.")
        return list(self.weights), list(self.biases)

    def _layers(
        self, flat: Tensor | None, scales: Modulations, shifts: Modulations
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the modulated weights and biases."""
        weights, biases = self._own_layers() if flat is None else self.split(flat)
        for index, scale in enumerate(self._modulations("scales", scales)):
            if scale is not None:
                weights[index], biases[index] = scale[..., None] * weights[index], scale * biases[index]
        for index, shift in enumerate(self._modulations("shifts", shifts)):
            if shift is not None:
                biases[index] = biases[index] + shift
        return weights, biases

    def _modulations(self, name: str, tensors: Modulations) -> list[Tensor | None]:
        if tensors is None:
            return []
        owner, tensors = type(self).__name__, checks.tensors(type(self).__name__, name, tensors)
        if len(tensors) != len(self.hidden):
            raise ValueError(f"{owner} {name} must be one per hidden layer, {len(self.hidden)}, not {len(tensors)}.")
        for index, (tensor, width) in enumerate(zip(tensors, self.hidden, strict=True)):
            if tensor is None:
                continue
            checks.floating(owner, f"{name}[{index}]", tensor)
            if tensor.ndim not in (1, 2) or tensor.shape[-1] != width:
                raise ValueError(
                    f"{owner} {name}[{index}] must be [N, {width}] or [{width}], not {list(tensor.shape)}."
                )
        return tensors

    @torch.no_grad()
    def _reset_layers(self, first_input: bool = True, first_bias: float | None = None) -> None:
        """Initialise each layer as published for its activation.

        Args:
            first_input: whether layer 0 sees the coordinates.
            first_bias: bound of the biases of layer 0; None for that of `nn.Linear`.
        """
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            inputs = weight.shape[-1]
            bound = inputs**-0.5  # Kaiming's for a slope of sqrt(5), the default of `nn.Linear`
            # A linear layer after sine layers is initialised like them.
            source = index if self.activations[index] in ("sine", "finer") else max(index - 1, 0)
            bias.uniform_(-bound, bound)
            if self.activations[source] in ("sine", "finer"):
                bound = 1 / inputs if index == 0 and first_input else (6 / inputs) ** 0.5 / abs(self._omega)
            weight.uniform_(-bound, bound)
        if first_bias is not None and self.own_parameters:
            self.biases[0].uniform_(-first_bias, first_bias)


class MLP(_Network):
    """A network of fully connected layers, or a batch of independent ones.

    Weights of "sine" and "finer" layers, and of the layer after them, are initialised as for SIREN; other layers as
    `nn.Linear`, which the authors of Gaussian activations use too.

    Args:
        in_features: K, the number of coordinates.
        out_features: C, the number of outputs.
        hidden: widths of the hidden layers.
        activation: that of the hidden layers; see `fi.mlp`.
        final: that of the last layer.
        omega: frequency of "sine" and "finer" (None for 30) and scale of "gauss" (None for a standard deviation of
            0.1); other activations have none.
        first_omega: that of the first layer; None for `omega`.
        first_bias: bound k of the first layer's biases, which are uniform in [-k, k]: FINER (CVPR 2024) raises it to
            reach higher frequencies. None for that of `nn.Linear`.
        skips: positions of layers that see the coordinates again, after the output of the layer before.
        batch: number of independent networks; None for one, whose parameters have no axis N.
        own_parameters: False for the target of a hypernetwork, which is evaluated with its vectors (`flat`) alone.
        device, dtype: of the parameters.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden: Sequence[int] = (256,) * 4,
        *,
        activation: str = "relu",
        final: str = "linear",
        omega: float | None = None,
        first_omega: float | None = None,
        first_bias: float | None = None,
        skips: Sequence[int] = (),
        batch: int | None = None,
        own_parameters: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        frequencies = omega, first_omega
        options: dict[str, Any] = dict(own_parameters=own_parameters, device=device, dtype=dtype)
        super().__init__(
            in_features, in_features, out_features, hidden, activation, final, *frequencies, skips, batch, **options
        )
        owner = type(self).__name__
        self.first_bias = None if first_bias is None else checks.number(owner, "first_bias", first_bias, 0.0)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the parameters, each network independently, from PyTorch's default generator."""
        self._reset_layers(first_bias=self.first_bias)


class Siren(MLP):
    """A SIREN (NeurIPS 2020), or a batch of independent ones: x <- sin(omega (W x + b)), and a linear last layer.

    Weights are uniform in [-1/I, 1/I] in the first layer, and in [-b, b] with b = sqrt(6/I)/omega in the others, for I
    inputs; biases are uniform in [-1/sqrt(I), 1/sqrt(I)], as in the authors' code.

    Args:
        in_features, out_features, hidden, final, batch, own_parameters, device, dtype: as for `MLP`; `final` is
            "linear" or "sine".
        omega: frequency of the sines.
        first_omega: that of the first layer; None for `omega`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden: Sequence[int] = (256,) * 4,
        *,
        omega: float = 30.0,
        first_omega: float | None = None,
        final: str = "linear",
        batch: int | None = None,
        own_parameters: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        checks.choice("Siren", "final", final, ("linear", "sine"))
        options: dict[str, Any] = dict(first_omega=first_omega, batch=batch, own_parameters=own_parameters)
        options |= {"device": device, "dtype": dtype}
        if hidden or final == "sine":  # a linear layer alone has no frequency
            options["omega"] = omega
        super().__init__(in_features, out_features, hidden, activation="sine", final=final, **options)

    @classmethod
    def from_siren_pytorch(cls, networks: Any, *, omega: float | None = None, first_omega: float | None = None) -> Self:
        """Return a copy of a `siren_pytorch.SirenNet`, or of a list of them as a batch.

        That package computes sin(w0 (W x + b)) too, with w0 = 1 after the first layer by default, so the weights are
        copied as they are, and `omega` and `first_omega` are its w0 and w0_initial.

        Args:
            networks: a SirenNet or its `state_dict`, or a list of them with equal sizes.
            omega, first_omega: None for those of the SirenNet; a `state_dict` does not hold them, and None stands for
                the defaults of the package, 1 and 30.

        Raises:
            ValueError: a network is not a `SirenNet`, its last layer is neither linear nor a sine, or it
                has dropout that `eval()` has not turned off.
        """
        single = isinstance(networks, (nn.Module, Mapping))
        networks = [networks] if single else list(networks)
        frequencies: dict[str, Any] = {"omega": 1.0, "first_omega": 30.0}
        final = "linear"
        if networks and isinstance(networks[0], nn.Module):
            frequencies, final = siren_pytorch.options_of(networks[0])
            if any(siren_pytorch.options_of(network) != (frequencies, final) for network in networks[1:]):
                raise ValueError("from_siren_pytorch takes networks with the same w0 and the same last activation.")
        given = {"omega": omega, "first_omega": first_omega}
        frequencies |= {name: value for name, value in given.items() if value is not None}
        weights, biases = siren_pytorch.layers_of(networks)
        inputs, hidden = weights[0].shape[2], [weight.shape[1] for weight in weights[:-1]]
        options: dict[str, Any] = dict(
            batch=None if single else len(networks), device=weights[0].device, dtype=weights[0].dtype
        )
        result = cls(inputs, weights[-1].shape[1], hidden, **frequencies, final=final, **options)
        with torch.no_grad():
            for mine, theirs in zip([*result.weights, *result.biases], [*weights, *biases], strict=True):
                mine.copy_(theirs[0] if single else theirs)
        return result


class FourierMLP(_Network):
    """A network on random Fourier features of the coordinates (NeurIPS 2020), or a batch of independent ones.

    The features sin(F x) and cos(F x) are a sine layer whose cosines have a phase of pi/2. The frequencies F are
    Gaussian with a standard deviation of 2 pi `scale`, and frozen unless `trainable`.

    Args:
        in_features, out_features, hidden, activation, final, omega, batch, own_parameters, device, dtype: as for `MLP`;
            `frequencies` is no part of the vectors, and there in any case.
        features: D, the number of frequencies; the first layer sees 2 D features.
        scale: standard deviation of the frequencies, in periods per unit of the coordinates.
        trainable: whether `frequencies`, `[D, K]` or `[batch, D, K]` in radians per unit, has a gradient.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden: Sequence[int] = (256,) * 4,
        *,
        features: int = 256,
        scale: float = 10.0,
        trainable: bool = False,
        activation: str = "relu",
        final: str = "linear",
        omega: float | None = None,
        batch: int | None = None,
        own_parameters: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        features = checks.integer("FourierMLP", "features", features, 1)
        options: dict[str, Any] = dict(own_parameters=own_parameters, device=device, dtype=dtype)
        super().__init__(
            in_features, 2 * features, out_features, hidden, activation, final, omega, None, (), batch, **options
        )
        self.scale = checks.number("FourierMLP", "scale", scale, 0.0)
        frequencies = torch.empty(*self._lead(), features, self.in_features, device=device, dtype=dtype)
        self.frequencies = nn.Parameter(frequencies, requires_grad=checks.flag("FourierMLP", "trainable", trainable))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the parameters, each network independently, from PyTorch's default generator."""
        self._reset_layers(first_input=False)
        nn.init.normal_(self.frequencies, std=2 * math.pi * self.scale)

    def extra_repr(self) -> str:
        """Return the constructor's arguments, for `repr`."""
        trainable = self.frequencies.requires_grad
        features = self.frequencies.shape[-2]
        return f"{super().extra_repr()}, features={features}, scale={self.scale}, trainable={trainable}"

    def _options(self) -> dict[str, Any]:
        return {"activations": ("sine", *self.activations), "omegas": (1.0, *self.omegas)}

    def _layers(
        self, flat: Tensor | None, scales: Modulations, shifts: Modulations
    ) -> tuple[list[Tensor], list[Tensor]]:
        weights, biases = super()._layers(flat, scales, shifts)
        phases = self.frequencies.new_zeros(2 * self.frequencies.shape[-2])
        phases[self.frequencies.shape[-2] :] = math.pi / 2
        return [torch.cat([self.frequencies, self.frequencies], dim=-2), *weights], [phases, *biases]


def _omegas(
    owner: str, activations: Sequence[str], omega: float | None, first_omega: float | None
) -> tuple[float | None, ...]:
    """Return the frequency of each layer, None where the activation has none."""
    if (omega is not None or first_omega is not None) and not set(activations) & set(FREQUENCIES):
        raise ValueError(f"{owner} omega is for {', '.join(FREQUENCIES)}, not for {activations[0]}; leave it out.")
    if first_omega is not None and activations[0] not in FREQUENCIES:
        raise ValueError(
            f"{owner} first_omega is for {', '.join(FREQUENCIES)}, not for {activations[0]}; leave it out."
        )
    values = [(OMEGAS.get(name) if omega is None else omega) if name in FREQUENCIES else None for name in activations]
    if first_omega is not None:
        values[0] = first_omega
    numbers = [None if value is None else checks.number(owner, "omega", value) for value in values]
    if 0 in numbers:
        raise ValueError(f"{owner} omega must not be 0.")
    return tuple(numbers)


def _has_batch(coords: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> bool:
    return any(tensor.ndim == 3 for tensor in (coords, *weights)) or any(bias.ndim == 2 for bias in biases)
