"""`digan invert`: find the latents of a real clip, so that the network renders it at any time, size and window."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from digan.cli.clip_options import COUNT, MAX_CLIPS, class_numbers
from digan.cli.device_options import DTYPES, add_precision, on_device
from digan.cli.options import OptionParser, add_network, number, training_number
from digan.cli.terminal import ProgressBar
from digan.config import FPS, FRACTION, SEED, Range, TrainConfig
from digan.data.decode import FrameReader
from digan.data.index import load_index
from digan.data.video import Video, VideoIndex
from digan.errors import ConfigError, DataError
from digan.files import checksum, write_atomic
from digan.metrics.similarity import psnr, psnr_of_error, ssim
from digan.models.generator import Generator
from digan.models.hub import find_network
from digan.sampling.clip_loss import ClipLoss, load_perceptual
from digan.sampling.clip_plan import videos
from digan.sampling.inversion import Inversion, InversionConfig, invert
from digan.sampling.latents import Latents, paced_times, write_latents
from digan.sampling.render import Sampler
from digan.sampling.writers import Outputs
from digan.wording import counted, first_few

LATENTS = "latents.safetensors"
_C = InversionConfig

EXAMPLES = """\
examples:
  digan invert --network RUN --video my.mp4 --outdir found                    the first frames of a video
  digan invert --network RUN --video my.mp4 --outdir found --start 40 --stride 2
  digan sample --network RUN --outdir out --latents found/latents.safetensors --frames 24 --t1 1.5

The files in --outdir:
  latents.safetensors   w [slots, w_dim], z_motion [z_dim], times [frames], and label of a conditional network
  original.mp4, reconstruction.mp4, comparison.mp4, comparison.png    the latter two show both, the original first
  inversion.json        PSNR and SSIM of every frame, and all settings

--perceptual FILE is a TorchScript module such as LPIPS, called as module(x, y) on rendered and original frames, each
float32 [n, 3, H, W] in [-1, 1]. It returns n distances, as [n] or [n, 1, 1, 1], differentiable in x.
"""


def configure(parser: OptionParser) -> None:
    """Add the options of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    add_network(parser)
    parser.add_argument("--video", required=True, help="video file, or folder of frames")
    parser.add_argument("--outdir", required=True, type=Path, help="folder for the results")

    clip = parser.add_argument_group("the clip")
    clip.add_argument("--name", help="which video of a folder or zip of several")
    clip.add_argument("--start", type=number(int, Range(minimum=0)), default=0, help="first frame, counted from 0 [0]")
    clip.add_argument("--frames", type=training_number("frames"), help="number of frames [a training clip's, or 16]")
    clip.add_argument("--stride", type=training_number("stride"), help="frame stride [the network's, or 1]")
    clip.add_argument("--class", dest="classes", nargs="+", help="class numbers or names to start from [all]")

    search = parser.add_argument_group("search")
    positive, weight = number(float, Range(above=0)), number(float, Range(minimum=0))
    search.add_argument("--steps", type=COUNT, default=_C.steps, help="updates at most [%(default)s]")
    search.add_argument(
        "--restarts",
        type=COUNT,
        default=_C.restarts,
        help="number of parallel searches; the best one is kept [%(default)s]",
    )
    search.add_argument(
        "--draws",
        type=number(int, Range(minimum=0, maximum=MAX_CLIPS)),
        default=_C.draws,
        help="random samples to choose the starting points from, besides the average content [%(default)s]",
    )
    search.add_argument(
        "--lr", type=positive, default=_C.lr, help="learning rate, in standard deviations of w [%(default)s]"
    )
    search.add_argument("--warmup", type=number(float, FRACTION), default=_C.warmup, help=_share("rises"))
    search.add_argument(
        "--shared",
        type=number(float, FRACTION),
        default=_C.shared,
        help="fraction of the steps, from the first, in which all slots share one w [%(default)s]",
    )
    search.add_argument("--decay", type=number(float, FRACTION), default=_C.decay, help=_share("falls to 0"))
    search.add_argument(
        "--patience",
        type=COUNT,
        default=_C.patience,
        help="steps without improvement after which the next stage begins: shared w, own w, decay [%(default)s]",
    )
    search.add_argument(
        "--prior", type=weight, default=_C.prior, help="weight of the distance from the average [%(default)s]"
    )
    search.add_argument("--edges", type=weight, default=1.0, help="weight of the edge term, relative to pixels [1]")
    search.add_argument(
        "--changes", type=weight, default=1.0, help="weight of the motion term, on deviations from the mean frame [1]"
    )
    search.add_argument("--perceptual", type=Path, metavar="FILE", help="perceptual distance to add, see below")
    search.add_argument("--perceptual-weight", type=weight, default=1.0, help="weight of the perceptual distance [1]")
    search.add_argument("--fit-offset", action="store_true", help="also find the time of the first frame [fixed at 0]")
    search.add_argument("--seed", type=number(int, SEED), default=_C.seed, help="seed of the draws [%(default)s]")

    how = parser.add_argument_group("output and speed")
    how.add_argument(
        "--fps",
        type=number(float, FPS),
        help="frames per second of playback [the video's, divided by the stride]",
    )
    add_precision(how, names=("fp32", "bf16"))  # float16 would need loss scaling


def _share(what: str) -> str:
    return f"fraction of the steps in which the learning rate {what} [%(default)s]"


@dataclass(frozen=True)
class _Clip:
    """The clip as read: uint8 [T, 3, R, R], where it comes from, and its times."""

    frames: Tensor
    indices: list[int]
    video: Video
    stride: int
    times: Tensor


def run(args: argparse.Namespace) -> int:
    """Find the latents, write the files and return the exit status."""
    network = find_network(args.network, args.which)
    g = on_device(Generator.from_pretrained(network), args.device)
    data = g.metadata.get("data")
    data = data if isinstance(data, dict) else {}
    classes = class_numbers(args.classes, g.config.num_classes, data.get("class_names") or [])
    clip = _read_clip(args, g.config.resolution, data)
    started = time.monotonic()
    inversion = _search(args, g, clip, classes)
    seconds = time.monotonic() - started
    try:
        scores = _write(args, g, network, clip, inversion, seconds)
    except OSError as error:
        raise ConfigError(f"--outdir {args.outdir} cannot be written: {error.strerror or error}.") from error
    means = f"PSNR {scores['psnr']:.1f} dB, SSIM {scores['ssim']:.3f}"
    print(f"{counted(len(clip.indices), 'frame')} of {clip.video.name or args.video}: {means}; {args.outdir}")
    options = shlex.join(["--network", str(args.network), "--latents", str(args.outdir / LATENTS)])
    print(f"  render it: digan sample {options} --outdir ...")
    return 0


def _read_clip(args: argparse.Namespace, resolution: int, data: dict[str, Any]) -> _Clip:
    """Read the clip as training reads clips: the central square, resized.

    Raises:
        DataError: there is no such video, or it is too short.
    """
    try:
        index = load_index(args.video, None, split=None)
    except DataError as error:
        raise DataError(str(error).replace("--data ", "--video ")) from None  # the flag of other commands
    video = _chosen_video(args, index)
    stride = args.stride or data.get("stride") or TrainConfig.stride
    span = data.get("frames") or TrainConfig.frames
    indices = list(range(args.start, args.start + (args.frames or span) * stride, stride))
    if indices[-1] >= video.num_frames:
        raise DataError(
            f"--video {args.video} has {counted(video.num_frames, 'frame')}, but {len(indices)} at --stride {stride} "
            f"from --start {args.start} take {indices[-1] + 1}: lower --start, --frames or --stride."
        )
    with contextlib.closing(FrameReader(index, resolution, resize=data.get("resize") or TrainConfig.resize)) as reader:
        frames = torch.from_numpy(reader.read(video, indices).copy())
    # The network's time runs from 0 to 1 over `span` frames at the stride of its training.
    times = paced_times(len(indices), span) * (stride / (data.get("stride") or TrainConfig.stride))
    return _Clip(frames, indices, video, stride, times)


def _chosen_video(args: argparse.Namespace, index: VideoIndex) -> Video:
    names = {video.name: video for video in index.videos}
    if args.name is None and len(names) == 1:
        return index.videos[0]
    if args.name in names:
        return names[args.name]
    what = f"holds {counted(len(names), 'video')}" if args.name is None else f"holds no --name {args.name}"
    raise DataError(f"--video {args.video} {what}: choose one with --name ({first_few(list(names))}).")


def _search(args: argparse.Namespace, g: Generator, clip: _Clip, classes: Sequence[int]) -> Inversion:
    """Run the searches, and report their progress."""
    device = torch.device(args.device)
    perceptual = None if args.perceptual is None else load_perceptual(args.perceptual, g.config.resolution, device)
    frames = clip.frames.to(device) / 127.5 - 1
    loss = ClipLoss(frames, args.edges, args.changes, perceptual, args.perceptual_weight)
    values = {name: getattr(args, name) for name in _C.__dataclass_fields__ if name != "dtype"}
    with ProgressBar("inverting", True, "step") as progress:
        return invert(
            g,
            loss,
            clip.times,
            classes,
            InversionConfig(**values, dtype=DTYPES[args.dtype]),
            lambda step, steps, error: progress(step, steps, f"PSNR {psnr_of_error(error):.1f} dB"),
        )


def _write(
    args: argparse.Namespace, g: Generator, network: Path, clip: _Clip, inversion: Inversion, seconds: float
) -> dict[str, Any]:
    """Write the files, and return the mean PSNR and SSIM."""
    reconstruction = _rendered(g, inversion.latents)  # [T, R, R, 3]
    original = clip.frames.permute(0, 2, 3, 1).contiguous()
    pair = [frames.permute(0, 3, 1, 2) for frames in (reconstruction, original)]
    per_frame = {"psnr": psnr(*pair), "ssim": ssim(*pair)}
    scores = {name: values.mean().item() for name, values in per_frame.items()}
    digest = checksum(network)
    write_latents(
        args.outdir / LATENTS,
        inversion.latents,
        digest,
        network=str(network),
        video={"path": str(args.video), "name": clip.video.name, "frames": clip.indices},
        **scores,
    )
    movies, both = (Outputs(args.outdir, kinds, args.fps or _fps(clip)) for kinds in (["mp4"], ["mp4", "png"]))
    movies.write("original", [original.numpy()])
    movies.write("reconstruction", [reconstruction.numpy()])
    both.write("comparison", [original.numpy(), reconstruction.numpy()], columns=2)
    record = {
        **{name: _finite(value) for name, value in scores.items()},
        "frames": [
            {"frame": frame, "time": t, "psnr": _finite(p), "ssim": s}
            for frame, t, p, s in zip(
                clip.indices, inversion.latents.times.tolist(), *(v.tolist() for v in per_frame.values()), strict=True
            )
        ],
        "label": inversion.latents.label,
        "searches": [asdict(search) for search in inversion.searches],
        "steps": inversion.steps,
        "seconds": round(seconds, 1),
        "network": {"file": str(network), "sha256": digest, "clips_seen": g.metadata.get("clips_seen")},
        "video": {"path": str(args.video), "name": clip.video.name, "stride": clip.stride},
        "options": {name: str(v) if isinstance(v, Path) else v for name, v in vars(args).items()},
    }
    write_atomic(args.outdir / "inversion.json", json.dumps(record, indent=1))
    return scores


def _rendered(g: Generator, latents: Latents) -> Tensor:
    """Return the frames of a clip, uint8 [T, R, R, 3], exactly as `digan sample --latents` renders them."""
    sampler = Sampler(g, latents.times, g.grid(), latents=[latents])
    return torch.stack(list(sampler.frames(videos([0]).clips[0])))


def _fps(clip: _Clip) -> float:
    return min(max(clip.video.fps / clip.stride, FPS.minimum), FPS.maximum)


def _finite(value: float) -> float | None:
    """Return a PSNR as JSON can hold it: that of equal frames is infinite."""
    return value if math.isfinite(value) else None
