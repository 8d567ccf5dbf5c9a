"""The generator: maps latents and times to an implicit neural representation of each clip (DIGAN, ICLR 2022)."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from torch import Tensor, nn

import fused_inr as fi
from digan.config import GeneratorConfig, check_values
from digan.models.hub import CONFIG_FILE, WEIGHTS_FILE, filled, find_network, not_a_generator, read_network
from digan.models.layers import FullyConnected, channels_at
from digan.models.mapping import Mapping
from digan.models.model_card import MODEL_CARD, card_values
from digan.tensor_files import write_tensors

_RESOLUTIONS = (32, 64, 128, 256, 512)
_MOTION_SLOPE = 0.01  # the motion code's own leaky ReLU, not the 0.2 of every other layer


class FourierHead(nn.Module):
    """Fourier features of one stage: content sets their frequencies, content and motion set their phases.

    frequency = space_frequency * A(w); phase = B(w) + MLP(leaky_relu(C([w, z_motion]) * t * time_frequency)). At t = 0
    the motion term is MLP(0), and t is not clamped, so t > 1 extrapolates.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        dim = config.fourier_dim
        self.space_frequency = config.space_frequency
        self.time_frequency = config.time_frequency
        self.content = FullyConnected(config.w_dim, 3 * dim)
        self.motion = FullyConnected(config.w_dim + config.z_dim, dim)
        self.motion_mlp = nn.Sequential(FullyConnected(dim, dim, activation="lrelu"), FullyConnected(dim, dim))

    def forward(self, w: Tensor, z_motion: Tensor, times: Tensor) -> fi.Fourier:
        """Return frequency [N, D, 2] and phase [N, T, D] for w [N, w_dim], z_motion [N, z_dim] and times [N, T]."""
        content = self.content(w)  # [N, 3D]
        frequency, phase = content.tensor_split([content.shape[1] // 3 * 2], dim=1)  # [N, 2D], [N, D]
        motion = self.motion(torch.cat([w, z_motion], dim=1))  # [N, D]
        motion = motion.unsqueeze(1) * (times * self.time_frequency).unsqueeze(2)  # [N, T, D]
        motion = self.motion_mlp(F.leaky_relu(motion, _MOTION_SLOPE))
        return fi.Fourier(self.space_frequency * frequency.unflatten(1, (-1, 2)), phase.unsqueeze(1) + motion)


class FMMLayer(nn.Module):
    """INR layer whose weight each clip modulates with a low-rank factor (FMM, INR-GAN, CVPR 2021)."""

    def __init__(self, in_channels: int, out_channels: int, config: GeneratorConfig) -> None:
        super().__init__()
        self.rank = config.fmm_rank
        self.affine = FullyConnected(config.w_dim, (in_channels + out_channels) * self.rank)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, w: Tensor) -> Tensor:
        """Return each clip's weight [N, O, I] for w [N, w_dim]."""
        out_channels = self.weight.shape[0]
        left, right = self.affine(w).tensor_split([out_channels * self.rank], dim=1)
        left = left.unflatten(1, (out_channels, self.rank))  # [N, O, rank]
        right = right.unflatten(1, (self.rank, -1))  # [N, rank, I]
        return fi.fmm_weight(self.weight, left, right, demodulate=True)


class ToRGB(nn.Module):
    """RGB read-out of a block: a [3, I] weight, scaled per input channel by the style, not demodulated (StyleGAN2)."""

    def __init__(self, in_channels: int, config: GeneratorConfig) -> None:
        super().__init__()
        self.affine = FullyConnected(config.w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(3, in_channels))
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return weight [N, 3, I] and bias [3] for w [N, w_dim]."""
        style = self.affine(w) / math.sqrt(self.weight.shape[1])  # [N, I]
        return self.weight * style.unsqueeze(1), self.bias


class SynthesisBlock(nn.Module):
    """Everything of one resolution: optional Fourier features, the FMM layers, and the read-out after the last one."""

    def __init__(
        self, in_channels: int, out_channels: int, layers: int, fourier: bool, config: GeneratorConfig
    ) -> None:
        super().__init__()
        self.fourier = FourierHead(config) if fourier else None
        widths = [in_channels + (2 * config.fourier_dim if fourier else 0)] + [out_channels] * layers
        self.layers = nn.ModuleList(FMMLayer(i, o, config) for i, o in pairwise(widths))
        self.to_rgb = ToRGB(out_channels, config)

    def forward(self, slots: Tensor) -> list[fi.Layer]:
        """Return the INR layers for slots [N, len(layers) + 1, w_dim]: a w per layer, then one for the read-out."""
        layers = []
        for i, head in enumerate(cast(Iterable[FMMLayer], self.layers)):
            to_rgb = self.to_rgb(slots[:, i + 1]) if i + 1 == len(self.layers) else None
            layers.append(fi.Layer(head(slots[:, i]), head.bias, to_rgb=to_rgb))
        return layers


class Generator(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="digan",
    tags=["digan", "video-generation", "implicit-neural-representation"],
    model_card_template=MODEL_CARD,
):
    """DIGAN's generator: maps (z_content, z_motion) to an INR, which renders the video at any (x, y, t).

    Blocks of resolution 4, 8, ..., `config.resolution` consume the slots of w in order; each read-out shares the slot
    of the next block's first layer. The blocks up to `config.base_resolution` run on one grid of that size. Weights and
    frequencies depend on content alone and are computed once per clip.

    Raises:
        ValueError: a value is of the wrong type, the resolution is not 32, 64, 128, 256 or 512, or the base resolution
            is not a power of two from 4 to the resolution.
    """

    def __init__(self, config: GeneratorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or GeneratorConfig()
        _check_config(config)
        self.metadata: dict[str, Any] = {}  # set by from_pretrained: the file's metadata except the configuration
        self.source: Path | None = None  # set by from_pretrained: the file
        self.mapping = Mapping(
            config.z_dim,
            config.w_dim,
            config.mapping_layers,
            config.mapping_lr_mult,
            num_classes=config.num_classes,
            w_avg_beta=config.w_avg_beta,
        )
        self.blocks = nn.ModuleDict()
        channels = 0
        resolution = 4
        while resolution <= config.resolution:
            layers = 1 if resolution == 4 else 2
            layers += resolution >= config.extra_layers_from
            width = channels_at(config, resolution)
            fourier = resolution == 4 or resolution > config.base_resolution
            self.blocks[str(resolution)] = SynthesisBlock(channels, width, layers, fourier, config)
            channels, resolution = width, resolution * 2

    @property
    def num_slots(self) -> int:
        """Number of w slots: one per layer, and one for the last read-out."""
        return sum(len(block.layers) for _, block in self._named_blocks()) + 1

    def _named_blocks(self) -> Iterable[tuple[str, SynthesisBlock]]:
        return cast(Iterable[tuple[str, SynthesisBlock]], self.blocks.items())

    def broadcast(self, w: Tensor) -> Tensor:
        """Return w [N, w_dim] in every slot, [N, num_slots, w_dim]."""
        return w.unsqueeze(1).expand(-1, self.num_slots, -1)

    def grid(
        self,
        resolution: int | None = None,
        x: tuple[float, float] = (-1.0, 1.0),
        y: tuple[float, float] = (-1.0, 1.0),
    ) -> fi.Grid:
        """Return the base grid whose rendered frames are `resolution` pixels per side.

        Args:
            resolution: pixels per side of a frame, a multiple of config.resolution / config.base_resolution; default
                config.resolution.
            x: range of X from the left to the right edge; beyond (-1, 1) extrapolates, within it zooms.
            y: range of Y from the bottom to the top edge.

        Raises:
            ValueError: the resolution is not such a multiple.
        """
        resolution = self.config.resolution if resolution is None else resolution
        scale = self.config.resolution // self.config.base_resolution
        if resolution < scale or resolution % scale:
            raise ValueError(f"resolution must be a positive multiple of {scale} for this generator, got {resolution}.")
        return fi.Grid(resolution // scale, resolution // scale, x=x, y=y)

    def inr_from_slots(self, slots: Tensor, z_motion: Tensor, times: Tensor) -> fi.INR:
        """Return the INR of w slots, differentiable in all arguments (for style mixing and path length).

        Args:
            slots: [N, num_slots, w_dim] float.
            z_motion: [N, z_dim] float, standard normal.
            times: [N, T], or [T] for all clips; [0, 1] spans a training clip, other values extrapolate.

        Returns:
            INR of N clips and T times; fi.render(inr, self.grid()) gives frames [N, T, 3, R, R].

        Raises:
            ValueError: an argument has the wrong shape.
        """
        times = self._check_inputs(slots, z_motion, times)
        stages: list[tuple[int, list[fi.Layer], fi.Fourier | None]] = []
        for name, block, block_slots in self._blocks_with_slots(slots):
            layers = block(block_slots)
            scale = max(int(name) // self.config.base_resolution, 1)
            if stages and scale == stages[-1][0]:
                stages[-1][1].extend(layers)
            else:
                stages.append((scale, layers, block.fourier(block_slots[:, 0], z_motion, times)))
        return fi.INR([fi.Stage(scale, layers, fourier) for scale, layers, fourier in stages])

    def with_motion(self, inr: fi.INR, slots: Tensor, z_motion: Tensor, times: Tensor) -> fi.INR:
        """Return the INR with another motion or other times, whose weights are those of `inr`.

        Args:
            inr: what `inr_from_slots` returned for the same slots.
            slots, z_motion, times: as for `inr_from_slots`, which returns the same INR but computes the weights again.
        """
        times = self._check_inputs(slots, z_motion, times)
        heads = [(block.fourier, block_slots) for _, block, block_slots in self._blocks_with_slots(slots)]
        fouriers = [head(block_slots[:, 0], z_motion, times) for head, block_slots in heads if head is not None]
        return fi.INR([replace(stage, fourier=fourier) for stage, fourier in zip(inr.stages, fouriers, strict=True)])

    def _blocks_with_slots(self, slots: Tensor) -> Iterator[tuple[str, SynthesisBlock, Tensor]]:
        """Yield each block's name, the block, and its slots [N, layers + 1, w_dim]."""
        slot = 0
        for name, block in self._named_blocks():
            yield name, block, slots[:, slot : slot + len(block.layers) + 1]
            slot += len(block.layers)

    def inr(
        self, z_content: Tensor, z_motion: Tensor, times: Tensor, labels: Tensor | None = None, psi: float = 1.0
    ) -> fi.INR:
        """Return the INR of the clips, plain data for fused_inr; arguments as in `forward`."""
        w = self.mapping(z_content, labels, psi)
        return self.inr_from_slots(self.broadcast(w), z_motion, times)

    def forward(
        self,
        z_content: Tensor,
        z_motion: Tensor,
        times: Tensor,
        labels: Tensor | None = None,
        psi: float = 1.0,
        resolution: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Generate frames.

        Args:
            z_content: [N, z_dim] float, standard normal; determines appearance.
            z_motion: [N, z_dim] float, standard normal; determines movement.
            times: [N, T], or [T] for all clips; [0, 1] spans a training clip, other values extrapolate.
            labels: [N] int64 class indices, for a conditional generator.
            psi: truncation of w towards its average; 1 is none.
            resolution: pixels per side, see `grid`.
            dtype: compute type of the matrix products, None for the parameters' own.

        Returns:
            Frames [N, T, 3, R, R] in about [-1, 1].
        """
        inr = self.inr(z_content, z_motion, times, labels, psi)
        return fi.render(inr, self.grid(resolution), dtype=dtype)

    def _check_inputs(self, slots: Tensor, z_motion: Tensor, times: Tensor) -> Tensor:
        n = slots.shape[0]
        if slots.shape != (n, self.num_slots, self.config.w_dim):
            raise ValueError(
                f"slots must be [N, {self.num_slots}, {self.config.w_dim}] for this generator, got {list(slots.shape)}."
            )
        if z_motion.shape != (n, self.config.z_dim):
            raise ValueError(f"z_motion must be [{n}, {self.config.z_dim}], got {list(z_motion.shape)}.")
        if times.ndim == 1:
            times = times.expand(n, -1)
        if times.ndim != 2 or times.shape[0] != n:
            raise ValueError(f"times must be [T] or [{n}, T], got {list(times.shape)}.")
        return times.to(slots)

    def save(self, path: str | os.PathLike[str], dtype: torch.dtype = torch.float32, /, **metadata: Any) -> None:
        """Write state, configuration and `metadata` (JSON values) to a safetensors file, atomically.

        The bytes of the file depend on these alone, and include a checksum that `from_pretrained` compares.

        Args:
            path: the file.
            dtype: type in which the weights are stored: float32, or float16 or bfloat16 for a file of half the size.
            metadata: further values of the file's header, of any name but `config`.

        Raises:
            ValueError: a finite weight is beyond the range of `dtype`.
            OSError: the file cannot be written.
        """
        state = self.state_dict()
        for name, tensor in state.items():
            state[name] = tensor.to(dtype)
            if state[name] is not tensor and not torch.equal(tensor.isfinite(), state[name].isfinite()):
                raise ValueError(f"{name} holds values beyond the range of {str(dtype).removeprefix('torch.')}")
        header = {"config": asdict(self.config), **metadata}
        write_tensors(path, state, {key: json.dumps(value) for key, value in header.items()})

    @classmethod
    def from_pretrained(  # type: ignore[override] # the file holds the configuration: it takes no model_kwargs
        cls,
        path: str | os.PathLike[str],
        *,
        which: str = "latest",
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> Generator:
        """Load a generator written by `save` or `save_pretrained`; local files need no network access.

        Args:
            path: a safetensors file; a run folder or its snapshots folder, of which a network-snapshot is loaded; a
                folder with model.safetensors; the name of a network that comes with this package, such as `sky-64`; or
                `owner/name` of a repository on the Hugging Face hub.
            which: the snapshot of a run: "latest", or "best" by the first metric of the run, as best.json names it.
            revision: branch, tag or commit of the repository; this and the options below do not affect local files.
            token: for a private repository; default the one of `hf auth login`.
            cache_dir: folder for downloads; default the hub's cache.
            force_download: download even files that are in the cache.
            local_files_only: use the cache only, without contacting the hub.

        Returns:
            The generator on the CPU in evaluation mode; the file's other metadata is in `metadata`.

        Raises:
            NetworkNotFound: the path does not exist, and no repository of that name can be reached; or no snapshot of
                the run has a result, so that none is the best.
            NetworkError: the file is not a generator written by this project.
        """
        file = find_network(
            path,
            which,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
        )
        return cls.from_file(file)

    @classmethod
    def from_file(cls, file: Path, finite: bool = True) -> Generator:
        """Load a generator from a safetensors file; `finite=False` accepts weights that are not finite.

        Raises:
            NetworkError: the file is not a generator written by this project.
        """
        network = read_network(file)
        try:
            generator = filled(lambda: cls(network.config), network.tensors, finite)
        except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
            raise not_a_generator(file, str(error)) from error
        generator.metadata, generator.source = network.metadata, file
        return generator

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the files of `save_pretrained` and `push_to_hub` in the hub's layout."""
        (save_directory / CONFIG_FILE).write_text(json.dumps(asdict(self.config), indent=2))
        self.save(save_directory / WEIGHTS_FILE, **self.metadata)

    def generate_model_card(self, **values: Any) -> ModelCard:
        """Return the README.md of `save_pretrained` and `push_to_hub`.

        Args:
            values: `title`, `dataset`, `limits` and `license`, as text; `repo_id`, which the example loads; and others
                of `digan.models.model_card`, in place of what is known about the generator.
        """
        values = {"repo_id": "owner/name", **card_values(self.source, self.metadata), **values}
        card = super().generate_model_card(config=self.config, **values)
        if "license" in values:
            card.data["license"] = values["license"]
        return card

    def push_to_hub(self, repo_id: str, *, model_card_kwargs: dict[str, Any] | None = None, **options: Any) -> str:
        """Upload to a repository on the Hugging Face hub, creating it if needed; run `hf auth login` first.

        Args:
            repo_id: owner/name.
            model_card_kwargs: values of `generate_model_card`.
            options: passed to `huggingface_hub.ModelHubMixin.push_to_hub`: private, branch, commit_message, ...

        Returns:
            The URL of the commit.
        """
        values = {"repo_id": repo_id, **(model_card_kwargs or {})}
        return super().push_to_hub(repo_id, model_card_kwargs=values, **options)


def _check_config(config: GeneratorConfig) -> None:
    check_values(config)
    if config.resolution not in _RESOLUTIONS:
        raise ValueError(f"resolution must be one of {', '.join(map(str, _RESOLUTIONS))}, got {config.resolution}.")
    base = config.base_resolution
    if base < 4 or base & (base - 1) or base > config.resolution:
        raise ValueError(f"base_resolution must be a power of two from 4 to {config.resolution}, got {base}.")
