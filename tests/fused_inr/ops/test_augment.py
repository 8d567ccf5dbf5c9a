"""augment: loops over frames and pixels, the order of its steps, gradients of two orders, errors."""

import itertools

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import fused_inr as fi

N, T, C, H, W = 3, 2, 3, 6, 9
SIZE = (3, 4)


def clips(n: int = N, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(n, T, C, H, W, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def draw(n: int = N) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    amounts = {
        name: 0.3 + torch.rand(n, generator=generator, dtype=torch.float64)
        for name in ("brightness", "saturation", "contrast")
    }
    places = {name: torch.randint(-3, 5, (n, 2), generator=generator) for name in ("translation", "cutout")}
    return amounts | places


def color(frame: torch.Tensor, brightness: float, saturation: float, contrast: float) -> torch.Tensor:
    frame = frame + brightness
    grey = sum(frame) / C
    frame = torch.stack([grey + saturation * (channel - grey) for channel in frame])
    return frame.mean() + contrast * (frame - frame.mean())


def moved(frame: torch.Tensor, down: int, right: int) -> torch.Tensor:
    out = torch.zeros_like(frame)
    for i, j in itertools.product(range(H), range(W)):
        if 0 <= i - down < H and 0 <= j - right < W:
            out[:, i, j] = frame[:, i - down, j - right]
    return out


def holed(frame: torch.Tensor, row: int, column: int) -> torch.Tensor:
    out = frame.clone()
    for i, j in itertools.product(range(H), range(W)):
        if row <= i < row + SIZE[0] and column <= j < column + SIZE[1]:
            out[:, i, j] = 0
    return out


@pytest.mark.parametrize("color_last", [False, True], ids=["color-first", "color-last"])
def test_loops(color_last):
    x, drawn = clips(), draw()
    actual = fi.augment(x, **drawn, cutout_size=SIZE, color_last=color_last)
    for n, t in itertools.product(range(N), range(T)):
        amounts = [drawn[name][n].item() for name in ("brightness", "saturation", "contrast")]
        frame = x[n, t] if color_last else color(x[n, t], *amounts)
        frame = holed(moved(frame, *drawn["translation"][n].tolist()), *drawn["cutout"][n].tolist())
        torch.testing.assert_close(actual[n, t], color(frame, *amounts) if color_last else frame)


@pytest.mark.parametrize("name", ["brightness", "saturation", "contrast", "translation", "cutout"])
def test_each_change_alone(name):
    alone = {
        "brightness": lambda frame, b: color(frame, b, 1, 1),
        "saturation": lambda frame, s: color(frame, 0, s, 1),
        "contrast": lambda frame, k: color(frame, 0, 1, k),
        "translation": lambda frame, place: moved(frame, *place),
        "cutout": lambda frame, place: holed(frame, *place),
    }
    x, values = clips(), draw()[name]
    actual = fi.augment(x, **{name: values}, cutout_size=SIZE)
    for n, t in itertools.product(range(N), range(T)):
        torch.testing.assert_close(actual[n, t], alone[name](x[n, t], values[n].tolist()))


def test_without_amounts_returns_the_same_tensor():
    x = clips()
    assert fi.augment(x) is x


@pytest.mark.parametrize("color_last", [False, True], ids=["color-first", "color-last"])
def test_gradients(color_last):
    x = clips(2)[..., :4, :5].requires_grad_()

    def function(x: torch.Tensor) -> torch.Tensor:
        return fi.augment(x, **draw(2), cutout_size=SIZE, color_last=color_last)

    assert gradcheck(function, x)
    assert gradgradcheck(lambda x: function(x).square(), x)


def test_gradients_of_the_amounts_come_from_the_reference():
    drawn = draw()
    amounts = [drawn.pop(name).requires_grad_() for name in ("brightness", "saturation", "contrast")]

    def function(brightness, saturation, contrast):
        return fi.augment(
            clips(), brightness=brightness, saturation=saturation, contrast=contrast, **drawn, cutout_size=SIZE
        )

    assert gradcheck(function, amounts)
    x = clips(dtype=torch.float32)
    leaf = torch.ones(N, requires_grad=True)
    assert torch.autograd.grad(fi.augment(x, brightness=leaf).sum(), leaf)[0].tolist() == [T * C * H * W] * N


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
def test_means_of_half_precision_are_float32(dtype):
    x = (300 + clips()).to(dtype)  # sums over a frame beyond float16's range and precision
    with fi.backend("reference"):
        actual, exact = (fi.augment(x.to(wide), **draw(), cutout_size=SIZE) for wide in (dtype, torch.float64))
    assert actual.dtype == dtype
    torch.testing.assert_close(actual, exact.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("positions", "size", "zeros"),
    [
        (torch.tensor([[100, 120]], dtype=torch.int8), (100, 130), 100 * 130),
        (torch.tensor([[200, 10]], dtype=torch.uint8), (100, 100), 56 * 100),
        (torch.tensor([[-(2**63), 3]]), (5, 5), 0),
        (torch.tensor([[0, 250]]), (2**63 - 1, 130), 256 * 6),
    ],
    ids=["int8", "uint8", "far", "large"],
)
def test_positions_of_any_integer_type_and_value(positions, size, zeros, dtype):
    x = torch.ones(1, 1, 1, 256, 256, dtype=dtype)
    assert (fi.augment(x, cutout=positions, cutout_size=size) == 0).sum() == zeros
    tangent = torch.func.jvp(lambda x: fi.augment(x, cutout=positions, cutout_size=size), (x,), (x,))[1]
    assert (tangent == 0).sum() == zeros


def test_empty_batch():
    x = clips(0).requires_grad_()
    y = fi.augment(x, **draw(0), cutout_size=SIZE)
    assert y.shape == x.shape
    assert torch.autograd.grad(y.sum(), x)[0].shape == x.shape


X = clips()
PLACES = torch.zeros(N, 2, dtype=torch.int64)
ERRORS = {
    "x": (lambda: fi.augment(X[0]), r"x must be floating point \[N, T, C, H, W\], not torch.float64 \[2, 3, 6, 9\]"),
    "batch": (lambda: fi.augment(X, brightness=torch.zeros(2)), r"brightness must be floating point \[3\], not"),
    "integers": (lambda: fi.augment(X, contrast=torch.ones(N).long()), "contrast must be floating point"),
    "fractions": (lambda: fi.augment(X, translation=PLACES / 2), r"translation must be integer \[3, 2\]"),
    "one place": (lambda: fi.augment(X, cutout=PLACES[:, 0], cutout_size=SIZE), r"cutout must be integer \[3, 2\]"),
    "device": (lambda: fi.augment(X, saturation=torch.ones(N, device="meta")), "saturation is on meta but x on cpu"),
    "no size": (lambda: fi.augment(X, cutout=PLACES), r"cutout_size must be \(rows, columns\), not None"),
    "size": (
        lambda: fi.augment(X, cutout=PLACES, cutout_size=(1, -1)),
        "must be an integer of at least 0, not -1",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_one_sentence(case):
    make, sentence = ERRORS[case]
    with pytest.raises(ValueError, match=sentence) as caught:
        make()
    assert str(caught.value).endswith(".")
