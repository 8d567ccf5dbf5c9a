"""What the examples share: options, made images, coordinates of pixels, progress and pictures."""

import argparse
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

IMAGE_NAMES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class ExampleError(Exception):
    """An error that a user can act on; its text is a sentence."""


def parser(description: str, **defaults: object) -> argparse.ArgumentParser:
    """Return a parser with the options that every example has."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    result.add_argument("--outdir", type=Path, default=Path("runs/examples"), help="folder for the pictures")
    result.add_argument("--seed", type=int, default=0, help="random seed")
    result.add_argument("--quick", action="store_true", help="a few steps at a small size, to try whether it runs")
    result.set_defaults(**defaults)
    return result


def positive(text: str) -> int:
    """Parse an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def run(main: Callable[[Sequence[str] | None], None], arguments: Sequence[str] | None = None) -> None:
    """Run an example's `main`, and end with exit status 2 and one sentence if the user can mend the error."""
    try:
        main(arguments)
    except (ExampleError, OSError) as error:
        sys.exit(_status(f"{Path(sys.argv[0]).name}: {error}"))
    except KeyboardInterrupt:
        sys.exit(130)


def _status(message: str) -> int:
    print(message, file=sys.stderr)
    return 2


class Progress:
    """Prints a line about a loop at most every five seconds, and at the end."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.begun = self.printed = time.perf_counter()

    def __call__(self, step: int, report: Callable[[], str]) -> None:
        """Print what `report` returns if it is time; `step` counts from 1."""
        moment = time.perf_counter()
        if step < self.steps and moment - self.printed < 5:
            return
        self.printed = moment
        remaining = self.elapsed / step * (self.steps - step)
        line = f"step {step}/{self.steps}  {report()}  elapsed {self.elapsed:.0f} s  remaining {remaining:.0f} s"
        print(line, flush=True)

    @property
    def elapsed(self) -> float:
        """Return the seconds since the loop began."""
        return time.perf_counter() - self.begun


def minimize(loss: Callable[[int], Tensor], parameters: Iterable[Tensor], steps: int, lr: float) -> None:
    """Take steps of Adam, with a rate that falls to zero along a cosine, and report the loss.

    Args:
        loss: returns the loss of a step; steps count from 1.
        parameters: what is trained.
        steps: their number.
        lr: the learning rate at the beginning.
    """
    optimizer = torch.optim.Adam(parameters, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    progress = Progress(steps)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        value = loss(step)
        value.backward()
        optimizer.step()
        schedule.step()
        progress(step, lambda value=value: f"loss {value.item():.4f}")


def pixel_centers(size: int, reach: float = 1.0) -> Tensor:
    """Return the centers (x, y) of the pixels of a square image over [-reach, reach], row by row from the top."""
    axis = ((torch.arange(size) + 0.5) / size * 2 - 1) * reach
    y, x = torch.meshgrid(-axis, axis, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)  # [size * size, 2]


def as_images(values: Tensor) -> Tensor:
    """Return values `[N, P, C]` in [-1, 1] at all pixel centers as images `[N, C, size, size]`."""
    size = round(values.shape[1] ** 0.5)
    return values.mT.unflatten(2, (size, size))


def made_images(count: int, size: int, shapes: int = 3) -> Tensor:
    """Return images `[count, 3, size, size]` in [-1, 1]: discs, boxes and waves on a shaded background."""
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(-axis, axis, indexing="ij")
    tilt = torch.randn(count, 2, 1, 1) / 3
    images = torch.rand(count, 3, 1, 1) * 0.8 - 0.4 + (tilt[:, :1] * x + tilt[:, 1:] * y)
    for _ in range(shapes):
        center, angle = torch.rand(2, count, 1, 1) * 1.2 - 0.6, torch.rand(count, 1, 1) * torch.pi
        radius = torch.rand(count, 1, 1) * 0.3 + 0.2
        u = (x - center[0]) * angle.cos() + (y - center[1]) * angle.sin()
        v = (y - center[1]) * angle.cos() - (x - center[0]) * angle.sin()
        wave = 0.25 * torch.sin(5 * torch.atan2(v, u)) + 1
        kinds = torch.stack(
            [(u**2 + v**2).sqrt(), torch.maximum(u.abs(), 1.4 * v.abs()), (u**2 + v**2).sqrt() / wave], dim=1
        )
        distance = kinds[torch.arange(count), torch.randint(3, (count,))] - radius  # negative inside
        cover = (0.5 - distance * size / 2).clamp(0, 1)[:, None]  # antialiased over one pixel
        color = torch.rand(count, 3, 1, 1) * 2 - 1
        images = images + cover * (color - images)
    return images.clamp(-1, 1)


def load_images(folder: Path, count: int, size: int) -> Tensor:
    """Return the first `count` images of a folder, cropped to squares: `[N, 3, size, size]` in [-1, 1]."""
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError:
        raise ExampleError("reading images needs pillow: pip install pillow") from None
    if not folder.is_dir():
        raise ExampleError(f"{folder} is not a folder.")
    images = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_NAMES):
        try:
            with Image.open(path) as file:
                image = ImageOps.fit(file.convert("RGB"), (size, size))
        except (UnidentifiedImageError, OSError) as error:
            print(f"skipped {path}: {error}", file=sys.stderr)
            continue
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        images.append(pixels.view(size, size, 3).permute(2, 0, 1) / 127.5 - 1)
        if len(images) == count:
            break
    if not images:
        raise ExampleError(f"{folder} contains no readable image ({', '.join(IMAGE_NAMES)}).")
    return torch.stack(images)


def psnr(images: Tensor, targets: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB of each image `[N, ...]` in [-1, 1]: `[N]`."""
    error = (images.clamp(-1, 1) - targets).flatten(1).square().mean(1)
    return 10 * torch.log10(4 / error.clamp_min(1e-12))


def sheet(rows: Sequence[Tensor], scale: int = 1, gap: int = 2) -> Tensor:
    """Return rows of images `[N, C, H, W]`, each pixel repeated `scale` times, on one white picture `[3, H', W']`."""
    lines = []
    for row in rows:
        row = row.expand(-1, 3, -1, -1).repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        row = torch.nn.functional.pad(row, (gap, 0, gap, 0), value=1.0)
        lines.append(torch.cat(list(row), dim=2))
    width = max(line.shape[2] for line in lines)
    return torch.cat([torch.nn.functional.pad(line, (0, width - line.shape[2]), value=1.0) for line in lines], dim=1)


def save_png(path: Path, image: Tensor) -> None:
    """Write an image `[3, H, W]` in [-1, 1] as a png file, and print its name."""
    pixels = ((image.detach().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)  # [H, W, 3]
    height, width = pixels.shape[:2]
    rows = torch.nn.functional.pad(pixels.flatten(1), (1, 0))  # filter 0 of each row

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    body = zlib.compress(bytes(rows.flatten().tolist()), 9)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    print(f"wrote {path}")
