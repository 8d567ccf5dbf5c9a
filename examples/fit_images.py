"""Fit one SIREN to each image of a folder, all at once.

    python examples/fit_images.py --data my_images --count 64
    python examples/fit_images.py --count 64 --steps 20 --compare

Every image has its own network, and a step evaluates and updates all of them. Without --data the images are made. The
picture has the images on the left and what the networks make of them on the right; `networks.pt` is the `state_dict` of
`fi.nn.Siren`. --compare trains the same networks also in a loop over them and with torch.func.vmap under torch.compile.
"""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from common import (
    Progress,
    as_images,
    load_images,
    made_images,
    parser,
    pixel_centers,
    positive,
    psnr,
    run,
    save_png,
    sheet,
)
from naive_sirens import Loop, Vmap, adam
from torch import Tensor

import fused_inr as fi

WARM_UP = 2  # steps in which torch.compile compiles and memory is allocated, left out of the timings


class Batch:
    """All networks as one module."""

    def __init__(self, network: fi.nn.Siren, coords: Tensor, targets: Tensor, lr: float, half: bool) -> None:
        self.network, self.coords, self.targets = network, coords, targets
        self.dtype = torch.bfloat16 if half else None
        self.optimizer = adam(list(network.parameters()), lr)

    def values(self) -> Tensor:
        """Return the values `[N, P, C]`."""
        return self.network(self.coords, dtype=self.dtype)

    def step(self) -> None:
        """Update every network; the sum over them makes each one's update independent of the others."""
        loss = (self.values() - self.targets).square().mean(dim=(1, 2)).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit the images and write the picture."""
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--data", type=Path, help="folder of images; without it, synthetic ones")
    options.add_argument("--count", type=positive, default=16, help="number of images")
    options.add_argument("--size", type=positive, default=64, help="pixels per side")
    options.add_argument("--width", type=positive, default=64, help="width of the hidden layers")
    options.add_argument("--layers", type=positive, default=4, help="number of hidden layers")
    options.add_argument("--steps", type=positive, default=100, help="number of updates")
    options.add_argument("--lr", type=float, default=1e-3, help="learning rate of Adam")
    options.add_argument(
        "--precision", choices=["float32", "bfloat16"], default="float32", help="type of the matrix products"
    )
    options.add_argument("--compare", action="store_true", help="also train with a loop and with vmap, and compare")
    args = options.parse_args(arguments)
    if args.quick:
        args.count, args.size, args.width, args.steps = 4, 32, 32, 30
    torch.manual_seed(args.seed)
    images = load_images(args.data, args.count, args.size) if args.data else made_images(args.count, args.size)
    targets = images.flatten(2).mT.contiguous()  # [N, P, 3]
    network = fi.nn.Siren(2, 3, (args.width,) * args.layers, batch=len(images))
    settings = network, pixel_centers(args.size), targets, args.lr, args.precision == "bfloat16"
    trainer = Batch(*settings)
    if args.compare:
        rivals = {"a loop over networks": Loop(*settings), "vmap, torch.compile": Vmap(*settings)}
        compare({"fused_inr": trainer, **rivals}, images, args.steps)
    else:
        fit(trainer, images, args.steps)
    with torch.no_grad():
        fits = as_images(trainer.values())
    columns = max(column for column in range(1, 9) if column**2 <= len(images))
    rows = zip(images.split(columns), fits.split(columns), strict=True)
    save_png(args.outdir / "fit_images.png", sheet([torch.cat(pair) for pair in rows]))
    torch.save(network.state_dict(), args.outdir / "networks.pt")


def fit(trainer: Batch, images: Tensor, steps: int) -> None:
    """Train, and report the quality and the speed."""
    progress = Progress(steps)
    for step in range(1, steps + 1):
        trainer.step()
        progress(step, lambda: f"psnr {quality(trainer, images):.1f} dB")
    count, seconds = len(images), progress.elapsed
    print(f"{count} images in {seconds:.1f} s: {count / seconds:.2f} images/s, {count * steps / seconds:.0f} updates/s")


def compare(trainers: dict, images: Tensor, steps: int) -> None:
    """Train step by step in turn, so that all meet the same machine, and report median times.

    On a machine that others use too, compare the time spent on its cores: `OMP_NUM_THREADS=1` leaves out the waiting.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in trainers}  # elapsed, and on all cores
    progress = Progress(steps + WARM_UP)
    for step in range(1, steps + WARM_UP + 1):
        for name, trainer in trainers.items():
            begun = time.perf_counter(), time.process_time()
            trainer.step()
            times[name].append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
        progress(step, lambda: f"{times['fused_inr'][-1][0] * 1000:.0f} ms")
    medians = {
        name: [statistics.median(kind) for kind in zip(*steps[WARM_UP:], strict=True)] for name, steps in times.items()
    }
    print(f"{'':22}{'ms/step':>10}{'ratio':>8}{'CPU ms/step':>13}{'ratio':>8}{'updates/s':>11}{'psnr':>10}")
    for name, (elapsed, busy) in medians.items():
        ratios = elapsed / medians["fused_inr"][0], busy / medians["fused_inr"][1]
        line = f"{name:22}{elapsed * 1000:10.1f}{ratios[0]:8.1f}{busy * 1000:13.1f}{ratios[1]:8.1f}"
        print(f"{line}{len(images) / elapsed:11.0f}{quality(trainers[name], images):7.2f} dB")


def quality(trainer: Batch | Loop | Vmap, images: Tensor) -> float:
    """Return the mean over the images of the PSNR in dB."""
    with torch.no_grad():
        return psnr(as_images(trainer.values()), images).mean().item()


if __name__ == "__main__":
    run(main)
