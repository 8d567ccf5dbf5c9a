"""Learn a signed distance function from points with normals on a curve or a surface.

    python examples/sdf.py
    python examples/sdf.py --shape torus

The network begins as the distance to a sphere (SAL, CVPR 2020). It is fitted to be 0 on the points with the normals as
gradients, and to have gradients of length 1 everywhere (the eikonal equation), as in IGR (ICML 2020) and with SIRENs
(NeurIPS 2020, section 4.2); `fi.nn.Siren.jet` gives values and gradients in one pass. The picture shows the distance to
the curve, or in a slice of the surface, in bands of 0.1, from the left: exact, learned, and ten times their difference.
Blue is inside.
"""

import math
from argparse import Namespace
from collections.abc import Sequence

import torch
from common import minimize, parser, pixel_centers, positive, run, save_png, sheet
from torch import Tensor

import fused_inr as fi


def flower(count: int) -> tuple[Tensor, Tensor]:
    """Return points `[P, 2]` of a closed curve with five petals, in order, and their outward normals."""
    angle = torch.arange(count) * (2 * math.pi / count)
    radius, rate = 0.55 + 0.17 * torch.cos(5 * angle), -0.85 * torch.sin(5 * angle)  # rate: d radius / d angle
    direction = torch.stack([angle.cos(), angle.sin()], dim=1)
    across = torch.stack([-angle.sin(), angle.cos()], dim=1)
    normals = radius[:, None] * direction - rate[:, None] * across
    return radius[:, None] * direction, normals / normals.norm(dim=1, keepdim=True)


def torus(count: int) -> tuple[Tensor, Tensor]:
    """Return random points `[P, 3]` of a torus around the z axis, and their outward normals."""
    around, along = torch.rand(2, count) * 2 * math.pi
    normals = torch.stack([along.cos() * around.cos(), along.cos() * around.sin(), along.sin()], dim=1)
    ring = torch.stack([around.cos(), around.sin(), torch.zeros(count)], dim=1)
    return 0.55 * ring + 0.25 * normals, normals


def flower_distance(points: Tensor) -> Tensor:
    """Return the signed distance of points `[P, 2]` to the flower, from a fine sampling of it: `[P]`."""
    curve, _ = flower(4000)
    inside = points.norm(dim=1) < 0.55 + 0.17 * torch.cos(5 * torch.atan2(points[:, 1], points[:, 0]))
    return torch.cdist(points, curve).amin(1) * torch.where(inside, -1, 1)


def torus_distance(points: Tensor) -> Tensor:
    """Return the signed distance of points `[P, 3]` to the torus: `[P]`."""
    return torch.hypot(points[:, :2].norm(dim=1) - 0.55, points[:, 2]) - 0.25


SHAPES = {"flower": (flower, flower_distance), "torus": (torus, torus_distance)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Learn the distance and write the picture."""
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--shape", choices=list(SHAPES), default="flower", help="a curve in 2-D, or a surface in 3-D")
    options.add_argument("--samples", type=positive, default=2000, help="points on the shape")
    options.add_argument(
        "--points", type=positive, default=512, help="points on the shape, and as many elsewhere, per update"
    )
    options.add_argument("--width", type=positive, default=64, help="width of the three hidden layers")
    options.add_argument("--omega", type=float, default=3.0, help="frequency of the sines")
    options.add_argument("--steps", type=positive, default=600, help="number of updates")
    options.add_argument("--lr", type=float, default=2e-3, help="learning rate of Adam at the beginning")
    options.add_argument("--size", type=positive, default=160, help="pixels per side of the picture")
    args = options.parse_args(arguments)
    if args.quick:
        args.steps, args.width, args.size = 150, 32, 64
    torch.manual_seed(args.seed)
    sample, distance = SHAPES[args.shape]
    points, normals = sample(args.samples)
    network = fi.nn.Siren(points.shape[1], 1, (args.width,) * 3, omega=args.omega)
    fit(network, points, normals, args)

    slice_points = pixel_centers(args.size)
    if points.shape[1] == 3:  # the slice y = 0
        slice_points = torch.stack([slice_points[:, 0], torch.zeros(len(slice_points)), slice_points[:, 1]], dim=1)
    exact = distance(slice_points)
    with torch.no_grad():
        values, jacobian = network.jet(slice_points, order=1)
    learned = values[:, 0]
    print(f"mean error of the distance {(learned - exact).abs().mean():.4f}")
    print(f"mean error of the length of the gradient {(jacobian.norm(dim=2) - 1).abs().mean():.4f}")
    images = [bands(exact), bands(learned), (10 * (learned - exact)).clamp(-1, 1).expand(3, -1)]
    save_png(args.outdir / "sdf.png", sheet([torch.stack(images).unflatten(2, (args.size, args.size))]))


def fit(network: fi.nn.Siren, points: Tensor, normals: Tensor, args: Namespace) -> None:
    """Train the network on points of the shape and on random ones."""

    def loss(step: int) -> Tensor:
        others = torch.rand(args.points, points.shape[1]) * 2 - 1
        if step <= args.steps // 6:
            return (network(others)[:, 0] - (others.norm(dim=1) - 0.5)).abs().mean()
        chosen = torch.randint(len(points), (args.points,))
        values, jacobian = network.jet(torch.cat([points[chosen], others]), order=1)
        value, gradient = values[:, 0], jacobian[:, 0]  # [2 P], [2 P, K]
        on_shape = value[: args.points].abs().mean()
        direction = (gradient[: args.points] - normals[chosen]).norm(dim=1).mean()
        eikonal = (gradient.norm(dim=1) - 1).abs().mean()
        return 30 * on_shape + direction + eikonal

    minimize(loss, network.parameters(), args.steps, args.lr)


def bands(distance: Tensor) -> Tensor:
    """Return colors `[3, P]` in [-1, 1] of distances `[P]`: blue inside, orange outside, a white line at 0."""
    inside = torch.tensor([[-0.3], [0.3], [0.9]])
    outside = torch.tensor([[0.9], [0.4], [-0.2]])
    color = torch.where(distance < 0, inside, outside)
    shade = 1 - 0.35 * (distance.abs() * 10).floor().remainder(2) - 0.4 * distance.abs()
    line = (1.5 - distance.abs() / 0.008).clamp(0, 1)
    dark = (color + 1) * shade - 1
    return dark + line * (1 - dark)


if __name__ == "__main__":
    run(main)
