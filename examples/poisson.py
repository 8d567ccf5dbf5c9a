"""Recover an image from its Laplacian or its gradient, which are all that a SIREN is fitted to.

    python examples/poisson.py
    python examples/poisson.py --fit gradient --data my_images

This is the Poisson experiment of the SIREN paper (NeurIPS 2020, section 4.1) with `fi.nn.Siren.jet`. A Laplacian leaves
a harmonic function open, and a gradient a constant, so --fit laplacian also fits the pixels at the edge of the image.
The picture shows, from the left, the image and what was fitted to, and below what came out of it.
"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import torch
from common import load_images, made_images, minimize, parser, pixel_centers, positive, psnr, run, save_png, sheet
from torch import Tensor

import fused_inr as fi


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit the derivatives and write the picture."""
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--data", type=Path, help="folder whose first image is used; without it, a synthetic one")
    options.add_argument("--fit", choices=["laplacian", "gradient"], default="laplacian", help="what is known")
    options.add_argument("--size", type=positive, default=64, help="pixels per side")
    options.add_argument("--width", type=positive, default=64, help="width of the three hidden layers")
    options.add_argument("--omega", type=float, default=15.0, help="frequency of the sines")
    options.add_argument("--steps", type=positive, default=500, help="number of updates")
    options.add_argument("--points", type=positive, default=1024, help="pixels in an update")
    options.add_argument("--lr", type=float, default=1e-3, help="learning rate of Adam at the beginning")
    args = options.parse_args(arguments)
    if args.quick:
        args.size, args.steps, args.points = 32, 40, 256
    torch.manual_seed(args.seed)
    images = load_images(args.data, 1, args.size) if args.data else made_images(1, args.size)
    image = smooth(images.mean(dim=1))[0]  # [H, W] gray
    gradient, laplacian = derivatives(image)
    network = fi.nn.Siren(2, 1, (args.width,) * 3, omega=args.omega)
    fit(network, image, gradient, laplacian, args)

    with torch.no_grad():
        values, jacobian, curvature = network.jet(pixel_centers(args.size))
    reconstruction = values.view_as(image)
    if args.fit == "gradient":
        reconstruction = reconstruction + (image - reconstruction).mean()
    print(f"psnr of the image {psnr(reconstruction[None], image[None]).item():.1f} dB")
    fitted = (
        (laplacian, curvature.view_as(image)) if args.fit == "laplacian" else (gradient, jacobian.view_as(gradient))
    )
    known, reached = (shown(field, fitted[0]) for field in fitted)
    top, bottom = torch.cat([image[None, None], known]), torch.cat([reconstruction[None, None], reached])
    save_png(args.outdir / "poisson.png", sheet([top, bottom], scale=max(1, 192 // args.size)))


def fit(network: fi.nn.Siren, image: Tensor, gradient: Tensor, laplacian: Tensor, args: Namespace) -> None:
    """Train the network on the derivatives at random pixels; losses are relative to what is fitted."""
    coords, rim = pixel_centers(len(image)), edge(len(image))
    image, gradient, laplacian = image.flatten(), gradient.flatten(0, 1), laplacian.flatten()

    def gradient_loss(step: int) -> Tensor:
        pixels = torch.randint(len(coords), (args.points,))
        _, jacobian = network.jet(coords[pixels], order=1)
        return (jacobian[:, 0] - gradient[pixels]).square().mean() / gradient.square().mean()

    def laplacian_loss(step: int) -> Tensor:
        pixels = torch.randint(len(coords), (args.points,))
        _, _, curvature = network.jet(coords[pixels])
        inside = (curvature[:, 0] - laplacian[pixels]).square().mean() / laplacian.square().mean()
        return inside + (network(coords[rim])[:, 0] - image[rim]).square().mean() / image.var()

    loss = gradient_loss if args.fit == "gradient" else laplacian_loss
    minimize(loss, network.parameters(), args.steps, args.lr)


def smooth(images: Tensor) -> Tensor:
    """Return images `[N, H, W]` without the highest frequencies, whose derivatives pixels cannot hold."""
    taps = torch.tensor([1.0, 6.0, 15.0, 20.0, 15.0, 6.0, 1.0]) / 64
    padded = torch.nn.functional.pad(images[:, None], [3] * 4, mode="reflect")
    return torch.nn.functional.conv2d(torch.nn.functional.conv2d(padded, taps.view(1, 1, 1, 7)), taps.view(1, 1, 7, 1))[
        :, 0
    ]


def derivatives(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient (d/dx, d/dy) `[H, W, 2]` and the Laplacian `[H, W]` by central differences."""
    step = 2 / len(image)  # the distance of pixels; rows run against y
    by_y, by_x = torch.gradient(image, spacing=step)
    second = sum(torch.gradient(first, spacing=step, dim=dim)[0] for dim, first in enumerate((by_y, by_x)))
    return torch.stack([by_x, -by_y], dim=-1), second


def edge(size: int) -> Tensor:
    """Return the positions of the pixels at the edge of an image, row by row."""
    inside = torch.zeros(size, size, dtype=torch.bool)
    inside[1:-1, 1:-1] = True
    return (~inside).flatten().nonzero()[:, 0]


def shown(field: Tensor, reference: Tensor) -> Tensor:
    """Return a field `[H, W]` or `[H, W, D]` as images `[D, 1, H, W]`; gray is zero, as for the reference."""
    field = field.view(*reference.shape[:2], -1).movedim(2, 0)[:, None]
    return (field / (4 * reference.std())).clamp(-1, 1)


if __name__ == "__main__":
    run(main)
