"""Pictures: each shows what the generator renders at the place and time of its request."""

import json

import pytest
import torch
import torch.nn.functional as F

import fused_inr as fi
from digan.explore.messages import Content, Window, parse_request
from digan.explore.pictures import METHODS, Painter, Picture, enlarged
from digan.sampling.latents import clip_times, seeded_latents
from digan.sampling.media import to_uint8
from digan.sampling.slices import line_slice
from tests.digan.explore.conftest import CLIP, WINDOW, build


def clip(times, motion: int = CLIP["motion"], classes: int = 0) -> fi.INR:
    """The INR of `CLIP` as the generator gives it: four contents mixed in w."""
    g = build(classes)
    u, v = CLIP["pad"]
    labels = torch.tensor([CLIP["label"]]) if classes else None
    z = seeded_latents(8, CLIP["seed"], CLIP["contents"])[0]
    first, second, third, fourth = (g.mapping(row[None], labels, CLIP["psi"]) for row in z)
    w = (1 - v) * ((1 - u) * first + u * second) + v * ((1 - u) * third + u * fourth)
    z_motion = seeded_latents(8, CLIP["seed"], [motion])[1]
    return g.inr_from_slots(g.broadcast(w), z_motion, torch.tensor(times))


def pixels(frames: torch.Tensor) -> torch.Tensor:
    return to_uint8(frames).movedim(-3, -1)


@torch.no_grad()
def render(inr: fi.INR, size: int, window: dict = WINDOW) -> torch.Tensor:
    return pixels(fi.render(inr, fi.Grid(size // 2, size // 2, x=tuple(window["x"]), y=tuple(window["y"])))[0])


def assert_same(picture: torch.Tensor, expected: torch.Tensor) -> None:
    assert picture.shape == expected.shape
    # Another order of summation in w moves a value across the border between two levels, rarely.
    assert (picture.int() - expected.int()).abs().max() <= 1


@pytest.fixture
def paint():
    """Renders a message; returns its steps."""

    def paint(message: dict, painter: Painter) -> list[list[Picture]]:
        with torch.no_grad():
            return list(painter.steps(parse_request(json.dumps(message), painter.g.config.num_classes)))

    return paint


def test_frames_are_those_of_the_generator(paint, message, painter):
    (frames,) = paint(message(times=[0.25, 1.5]), painter)
    expected = render(clip([0.25, 1.5]), 40)
    for frame, time, want in zip(frames, (0.25, 1.5), expected, strict=True):
        assert_same(frame.pixels, want)
        assert frame.header == {"kind": "frames", "id": 1, "generation": 2, "final": True, "time": time} | {
            name: tuple(edges) for name, edges in WINDOW.items()
        }


def test_classes_and_motions_change_the_frames(paint, message):
    painter = Painter(build(3))
    painter.rate = 1e9
    ((frame,),) = paint(message(times=[0.75]), painter)
    assert_same(frame.pixels, render(clip([0.75], classes=3), 40)[0])
    ((other,),) = paint(message(times=[0.75], motion=10), painter)
    assert_same(other.pixels, render(clip([0.75], 10, classes=3), 40)[0])
    assert not torch.equal(frame.pixels, other.pixels)


def test_a_slow_machine_gets_coarse_frames_first(paint, message, painter):
    painter.rate = 64 * 64 * 18.0  # frames of 64x64, the training resolution, at the least smooth rate
    assert painter.coarse_size((128, 128)) == (64, 64)
    painter.rate *= 0.99
    assert painter.coarse_size((128, 128)) == (32, 32)
    painter.rate = 1.0
    assert painter.coarse_size((128, 128)) == (32, 32)
    assert painter.coarse_size((128, 64)) == (32, 16)
    assert painter.coarse_size((20, 20)) == (20, 20)
    painter.rate = 64 * 64 * 18.0 * 4
    assert painter.coarse_size((128, 128)) == (128, 128)
    painter.rate = 1.0
    ((frame,),) = paint(message(times=[0.5], size=[128, 128]), painter)
    assert not frame.header["final"]
    assert_same(frame.pixels, render(clip([0.5]), 32)[0])


def test_a_sharp_frame_comes_in_rows_from_the_top(paint, message, painter, monkeypatch):
    monkeypatch.setattr("digan.explore.pictures._STEP_SECONDS", 0.0)  # the smallest steps
    steps = paint(message(times=[0.5], size=[256, 256], sharp=True), painter)
    assert len(steps) == 4  # 16384 pixels each
    bands = [band for (band,) in steps]
    assert [band.header["final"] for band in bands] == [False] * 3 + [True]
    assert all(band.header["sharp"] for band in bands)
    assert_same(torch.cat([band.pixels for band in bands]), render(clip([0.5]), 256)[0])
    tops = [band.header["y"][1] for band in bands] + [bands[-1].header["y"][0]]
    assert tops == pytest.approx([-0.25, -0.5625, -0.875, -1.1875, -1.5])


def test_a_slice_comes_coarse_and_then_in_rows(paint, message, painter):
    steps = paint(message("slice", size=[128, 100]), painter)
    coarse, *rows = [picture for (picture,) in steps]
    span, line = (0, 2), (-1, -0.5, 1, 0.5)

    def expected(width, times):
        return pixels(line_slice(clip(times.tolist()), line, width).transpose(0, 1))

    assert_same(coarse.pixels, expected(64, clip_times(32, *span)))
    assert (coarse.header["top"], coarse.header["bottom"], coarse.header["final"]) == (0, 1, False)
    assert_same(torch.cat([row.pixels for row in rows]), expected(128, clip_times(100, *span)))
    assert rows[-1].header["bottom"] == 1
    assert rows[-1].header["final"]


@pytest.mark.parametrize("method", METHODS)
def test_enlarging_a_whole_frame_is_interpolation(method):
    frame = torch.randn(1, 3, 16, 16)
    whole = Window((-1, 1), (-1, 1))
    options = {} if method == "nearest" else {"align_corners": False}
    expected = F.interpolate(frame, (56, 72), mode=method, **options)
    # float32 coordinates; 3e-6 was measured
    torch.testing.assert_close(enlarged(frame, whole, (72, 56), method), expected, rtol=0, atol=2e-5)


def test_a_frame_enlarged_beyond_its_edges_ends_there():
    frame = torch.ones(1, 3, 8, 8)
    image = enlarged(frame, Window((-1, 3), (-1, 3)), (40, 40), "nearest")
    assert image[..., 20:, :20].eq(1).all()
    assert image[..., :20, :].eq(0).all()
    assert image[..., :, 20:].eq(0).all()


def test_the_compared_frames_are_of_the_training_resolution(paint, message, painter):
    (images,) = paint(message("enlarged"), painter)
    assert [image.header["method"] for image in images] == list(METHODS)
    with torch.no_grad():
        frame = fi.render(clip([0.25]), painter.g.grid())[0]
    for image in images:
        window = Window(tuple(WINDOW["x"]), tuple(WINDOW["y"]))
        assert_same(image.pixels, pixels(enlarged(frame, window, (40, 30), image.header["method"]))[0])


def test_the_strip_shows_other_motions(paint, message, painter):
    steps = paint(message("motions"), painter)
    assert [picture.header["motion"] for (picture,) in steps] == [3, 4]
    for (picture,), motion in zip(steps, (3, 4), strict=True):
        assert_same(picture.pixels, render(clip([0.0, 0.5, 1.0], motion), 32, {"x": [-1, 1], "y": [-1, 1]}))


def test_weights_are_computed_once_for_a_content(paint, message, painter, monkeypatch):
    calls = []
    compute = painter.g.inr_from_slots
    monkeypatch.setattr(painter.g, "inr_from_slots", lambda *inputs: calls.append(1) or compute(*inputs))
    for changes in ({}, {"times": [0.9]}, {"motion": 4}, {"x": [0, 1]}):
        paint(message(**changes), painter)
    assert len(calls) == 1
    paint(message(pad=[0.3, 0.5]), painter)
    assert len(calls) == 2


def test_nothing_is_computed_before_the_first_step(message, painter, monkeypatch):
    monkeypatch.setattr(painter, "inr", lambda *_: pytest.fail("too early"))
    for kind in ("frames", "slice", "enlarged", "motions"):
        painter.steps(parse_request(json.dumps(message(kind)), 0))


def test_caches_are_bounded(painter):
    for seed in range(20):
        painter.inr(Content(seed, (0, 1, 2, 3), (0.5, 0.5), 1.0, None), 0, (0.0,))
    assert painter._weights.cache_info().currsize == 4
    assert painter._sampler.cache_info().currsize == 4


def test_a_picture_is_its_header_and_its_pixels():
    image = torch.arange(2 * 3 * 3, dtype=torch.uint8).reshape(2, 3, 3)
    data = Picture({"kind": "frames", "id": 7}, image).encode()
    length = int.from_bytes(data[:4], "little")
    assert json.loads(data[4 : 4 + length]) == {"kind": "frames", "id": 7, "width": 3, "height": 2}
    assert data[4 + length :] == bytes(range(18))


def test_warming_up_measures_the_speed(classes):
    painter = Painter(build(classes))
    assert painter.rate == 0
    painter.warm_up()
    assert painter.rate > 0
