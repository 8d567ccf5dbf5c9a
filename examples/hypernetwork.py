"""Train a network that writes the weights of SIRENs: one for each image of a collection.

    python examples/hypernetwork.py
    python examples/hypernetwork.py --write shifts

A small convolutional encoder turns an image into a latent vector, and two layers turn this into the weights of a SIREN
that is that image; --write shifts writes only shifts of its angles, as Functa (ICML 2022) and COIN++ (TMLR 2022) do.
All is trained end to end. The picture shows, from the top: images of the collection, the SIRENs that the network
writes, and these at four times the resolution; in the last row the latent vector goes from the first image to the last.
"""

import itertools
from argparse import Namespace
from collections.abc import Sequence

import torch
from common import as_images, made_images, minimize, parser, pixel_centers, positive, psnr, run, save_png, sheet
from torch import Tensor, nn

import fused_inr as fi

SHOWN = 6  # images in the picture


class HyperNetwork(nn.Module):
    """From images to functions of the coordinates.

    Args:
        size: pixels per side of the images.
        latent: length of the latent vector.
        width: of the two hidden layers of the SIRENs.
        write: "weights" for all parameters, or "shifts" for those of the hidden layers.
    """

    def __init__(self, size: int, latent: int, width: int, write: str) -> None:
        super().__init__()
        self.write = write
        self.siren = fi.nn.Siren(2, 3, (width, width), omega=10.0)  # the average network, to which others are relative
        channels = [3, 16, 32, 64]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(channels):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(4, after), nn.SiLU()]
        self.encoder = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * (size // 8) ** 2, latent))
        outputs = self.siren.flat_size if write == "weights" else sum(self.siren.hidden)
        self.writer = nn.Sequential(nn.Linear(latent, 128), nn.SiLU(), nn.Linear(128, outputs))
        with torch.no_grad():  # begin near the average network
            self.writer[-1].weight.mul_(0.3)
            self.writer[-1].bias.zero_()

    def forward(self, latents: Tensor, coords: Tensor) -> Tensor:
        """Return the values `[N, P, 3]` at points `[P, 2]` of the SIRENs of latent vectors `[N, L]`."""
        written = self.writer(latents)
        if self.write == "weights":
            return self.siren(coords, self.siren.flatten() + written)
        return self.siren(coords, shifts=written.split(self.siren.hidden, dim=1))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the network and write the picture."""
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--write", choices=["weights", "shifts"], default="weights", help="what the network writes")
    options.add_argument("--count", type=positive, default=24, help="number of synthetic images in the collection")
    options.add_argument("--size", type=int, choices=[16, 32, 64], default=32, help="pixels per side of the images")
    options.add_argument("--latent", type=positive, default=64, help="length of the latent vector")
    options.add_argument("--width", type=positive, default=32, help="width of the hidden layers of the SIRENs")
    options.add_argument("--batch", type=positive, default=16, help="images in an update")
    options.add_argument("--steps", type=positive, default=600, help="number of updates")
    options.add_argument("--lr", type=float, default=2e-3, help="learning rate of Adam at the beginning")
    args = options.parse_args(arguments)
    if args.quick:
        args.size, args.batch, args.steps = 16, 8, 30
    torch.manual_seed(args.seed)
    network = HyperNetwork(args.size, args.latent, args.width, args.write)
    collection = made_images(args.count, args.size, shapes=1)
    train(network, collection, args)

    images = collection[:SHOWN]
    with torch.no_grad():
        latents = network.encoder(images)
        reconstructions = as_images(network(latents, pixel_centers(args.size)))
        steps = torch.linspace(0, 1, len(images))[:, None]
        path = torch.lerp(latents[:1], latents[-1:], steps)
        fine, between = (as_images(network(z, pixel_centers(4 * args.size))) for z in (latents, path))
    print(f"psnr of the images shown {psnr(reconstructions, images).mean().item():.1f} dB")
    coarse = [row.repeat_interleave(4, 2).repeat_interleave(4, 3) for row in (images, reconstructions)]
    save_png(args.outdir / "hypernetwork.png", sheet([*coarse, fine, between]))


def train(network: HyperNetwork, collection: Tensor, args: Namespace) -> None:
    """Train on random images of the collection in each step."""
    coords = pixel_centers(args.size)

    def loss(step: int) -> Tensor:
        images = collection[torch.randint(len(collection), (args.batch,))]
        return (network(network.encoder(images), coords) - images.flatten(2).mT).square().mean()

    minimize(loss, network.parameters(), args.steps, args.lr)


if __name__ == "__main__":
    run(main)
