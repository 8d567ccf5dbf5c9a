"""digan sample: what its files hold is what the generator renders, whichever clips are made and however."""

import json
import shutil
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image

from digan import Generator
from digan.cli import sample
from digan.cli.main import main
from digan.config import GeneratorConfig
from digan.files import checksum
from digan.sampling.clip_plan import interpolation, motion_grid
from digan.sampling.latents import Latents, clip_times, seeded_latents, write_latents
from digan.sampling.render import Sampler, clip_frames, sample_clips

SIZES = dict(z_dim=8, w_dim=8, fourier_dim=4, fmm_rank=2, channel_base=512, channel_max=8, resolution=64)
FRAMES = 5


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Makes the file of a network, which was trained on clips of 5 frames."""
    folder = tmp_path_factory.mktemp("networks")

    def make(classes: int = 0):
        path = folder / f"{classes}.safetensors"
        if not path.exists():
            torch.manual_seed(classes)
            g = Generator(GeneratorConfig(num_classes=classes, **SIZES))
            torch.nn.init.normal_(g.mapping.w_avg)
            names = ["sun", "moon", "star"][:classes]
            g.save(path, clips_seen=7000, data={"frames": FRAMES, "class_names": names})
        return path

    return make


@pytest.fixture
def run(network, tmp_path):
    """Calls the command; returns its status and its folder."""

    def call(options: str = "", classes: int = 0, name: str = "out"):
        words = ["--network", str(network(classes)), "--outdir", str(tmp_path / name), "--device", "cpu"]
        return main(["sample", *words, *options.split()]), tmp_path / name

    return call


def rendered(network, content: int, motion: int, times: torch.Tensor, label: int | None = None, **options):
    """The clip as the generator gives it, uint8 [T,H,W,3]."""
    g = Generator.from_pretrained(network)
    z_content = seeded_latents(8, 0, [content])[0]
    z_motion = seeded_latents(8, 0, [motion])[1]
    labels = None if label is None else torch.tensor([label])
    return sample_clips(g, z_content, z_motion, times, labels, **options)[0].permute(0, 2, 3, 1).numpy()


def read_png(path):
    return np.asarray(Image.open(path))


def read_video(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def read_gif(path):
    with Image.open(path) as image:
        frames = []
        for index in range(image.n_frames):
            image.seek(index)
            frames.append(np.asarray(image.convert("RGB")))
        return np.stack(frames)


def psnr(a, b) -> float:
    """Of the brightness, in dB: yuv420p halves the resolution of colour, which these pictures have much of."""
    error = (a.astype(float) - b) @ np.array([0.299, 0.587, 0.114])
    return float(10 * np.log10(255**2 / np.mean(error**2)))


def sheet_frames(path, count: int, side: int = 64):
    """The frames in the first row of a contact sheet."""
    sheet = read_png(path)
    return np.stack([sheet[:side, i * (side + 2) : i * (side + 2) + side] for i in range(count)])


def content_of(folder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "sample.json"}


def test_files_hold_what_the_generator_renders(run, network, capsys):
    status, folder = run("--videos 3 --format mp4,gif,png,slice")
    assert status == 0
    assert str(folder) in capsys.readouterr().out
    clips = [rendered(network(), i, i, clip_times(FRAMES)) for i in range(3)]
    for i, clip in enumerate(clips):
        assert np.array_equal(sheet_frames(folder / f"video-{i:04d}.png", FRAMES), clip)
        assert np.array_equal(read_png(folder / f"video-{i:04d}-slice.png"), clip[:, 32])
        # Measured: 38.9 to 43.6 dB, and 35.6 to 41.6 dB; 10 dB between different clips.
        assert psnr(read_video(folder / f"video-{i:04d}.mp4"), clip) > 36
        assert psnr(read_gif(folder / f"video-{i:04d}.gif"), clip) > 32
    grid = np.concatenate(clips, axis=2)
    assert psnr(read_video(folder / "grid.mp4"), grid) > 36
    assert psnr(read_gif(folder / "grid.gif"), grid) > 32
    assert np.array_equal(sheet_frames(folder / "grid.png", FRAMES), clips[0])
    assert read_png(folder / "grid.png").shape == (3 * 66 - 2, FRAMES * 66 - 2, 3)
    assert read_png(folder / "grid-slice.png").shape == (FRAMES, 3 * 66 - 2, 3)


def test_record_tells_what_was_made(run, network):
    status, folder = run("--videos 2 --t0 0.5 --t1 2 --frames 4 --seed 0 --only videos", classes=3)
    record = json.loads((folder / "sample.json").read_text())
    assert status == 0
    assert record["times"] == [0.5, 1, 1.5, 2]
    assert record["network"]["clips_seen"] == 7000
    assert len(record["network"]["sha256"]) == 64
    assert record["options"]["resolution"] == [64, 64]
    assert [clip["classes"] for clip in record["clips"]] == [[0], [1]]
    assert sorted(record["files"]) == sorted(content_of(folder))
    assert len(record["files"]) == 6


def test_samples_do_not_depend_on_what_else_is_made(run):
    options = "--format mp4,gif,png,slice --seed 4"
    _, many = run(f"{options} --videos 4", name="many")
    _, some = run(f"{options} --indices 3,1-2 --only videos", name="some")
    _, again = run(f"{options} --videos 4", name="again")
    assert content_of(many) == content_of(again)
    some, many = content_of(some), content_of(many)
    assert len(some) == 3 * 4
    assert {name: many[name] for name in some} == some
    assert many["video-0001.png"] != many["video-0002.png"]


def test_rows_share_content_and_columns_motion(run, network):
    status, folder = run("--mode motion-grid --contents 2 --motion-indices 0,1,5 --format png,mp4")
    assert status == 0
    for content, motion in ((0, 0), (0, 5), (1, 1)):
        clip = rendered(network(), content, motion, clip_times(FRAMES))
        file = folder / f"content-{content:04d}-motion-{motion:04d}.png"
        assert np.array_equal(sheet_frames(file, FRAMES), clip)
    assert read_video(folder / "grid.mp4").shape == (FRAMES, 2 * 64, 3 * 64, 3)
    _, alone = run("--indices 1 --format png,mp4", name="alone")
    assert (folder / "content-0001-motion-0001.mp4").read_bytes() == (alone / "video-0001.mp4").read_bytes()


def test_a_row_of_the_motion_grid_has_the_same_weights(network):
    g = Generator.from_pretrained(network())
    sampler = Sampler(g, clip_times(3), g.grid())
    plan = motion_grid([0, 1], [0, 1])
    inrs = [sampler.inr(clip) for clip in plan.clips]

    def parts(inr):
        weights = [layer.weight for stage in inr.stages for layer in stage.layers]
        phases = [stage.fourier.phase for stage in inr.stages]
        return weights + [stage.fourier.frequency for stage in inr.stages], phases

    (weights, phases), (same_weights, other_phases), (other_weights, _) = (parts(inr) for inr in inrs[:3])
    assert plan.columns == 2
    assert all(torch.equal(a, b) for a, b in zip(weights, same_weights, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(phases, other_phases, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(weights, other_weights, strict=True))


def test_interpolation_leads_from_content_to_content(run, network):
    status, folder = run("--mode interpolate --indices 2,0,1 --steps 3 --format png,mp4", classes=3)
    assert status == 0
    times = clip_times(FRAMES)
    steps = [sheet_frames(folder / f"content-0002-to-0000-step-0{step}.png", FRAMES).astype(float) for step in range(3)]
    assert np.array_equal(steps[0], rendered(network(3), 2, 2, times, label=2))
    assert np.array_equal(steps[2], rendered(network(3), 0, 2, times, label=0))
    whole = np.abs(steps[2] - steps[0]).mean()
    assert 0 < np.abs(steps[1] - steps[0]).mean() < whole
    assert 0 < np.abs(steps[1] - steps[2]).mean() < whole
    assert read_video(folder / "grid.mp4").shape == (FRAMES, 2 * 64, 3 * 64, 3)


def test_contents_are_mixed_in_w(network):
    g = Generator.from_pretrained(network())
    sampler = Sampler(g, clip_times(2), g.grid(), psi=0.8)
    middle = sampler.inr(interpolation([0, 1], 0, 5).clips[1])
    with torch.no_grad():
        w = g.mapping(seeded_latents(8, 0, [0, 1])[0], psi=0.8)
        expected = g.inr_from_slots(
            g.broadcast(0.75 * w[:1] + 0.25 * w[1:]), seeded_latents(8, 0, [0])[1], clip_times(2)
        )
    for a, b in zip(middle.tensors(), expected.tensors(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_mixture_of_contents(run, network):
    status, folder = run("--mode mix --indices 2,0,1 --weights 0.5 -0.25 0.75 --motion-indices 3 --format png")
    assert status == 0
    g = Generator.from_pretrained(network())
    w = torch.tensor([[0.5, -0.25, 0.75]]) @ g.mapping(seeded_latents(8, 0, [2, 0, 1])[0])
    inr = g.inr_from_slots(g.broadcast(w), seeded_latents(8, 0, [3])[1], clip_times(FRAMES))
    expected = torch.stack(list(clip_frames(inr, g.grid()))).numpy()
    frames = sheet_frames(folder / "mix-0002-0000-0001-motion-0003.png", FRAMES)
    assert np.abs(frames.astype(int) - expected).max() <= 1  # another order of the sum in w


def test_a_mixture_is_even_unless_weights_are_given(run):
    _, even = run("--mode mix --indices 4,5 --frames 1", name="even")
    _, equal = run("--mode mix --indices 4,5 --weights 0.5 0.5 --frames 1", name="equal")
    _, alone = run("--mode mix --weights 0 1 --frames 1", name="alone")
    _, second = run("--indices 1 --frames 1", name="second")
    name = "mix-0004-0005-motion-0004.png"
    assert np.array_equal(read_png(even / name), read_png(equal / name))
    image = read_png(alone / "mix-0000-0001-motion-0000.png")  # at time 0, motions differ little
    assert np.abs(image.astype(int) - read_png(second / "video-0001.png")).mean() < 1


def test_a_slice_along_a_row_is_that_row_over_time(run):
    y = -1 + 2 * (63 - 31) / 64  # row 31, the lower one of its two rows of the base grid
    _, lined = run(f"--indices 1 --format slice --slice-line -1 {y} 1 {y} --frames 7 --t1 2", name="lined")
    _, rowed = run(f"--indices 1 --format slice --slice-row {31.5 / 64} --frames 7 --t1 2", name="rowed")
    assert list(content_of(lined)) == list(content_of(rowed)) == ["video-0001-slice.png"]
    images = [read_png(folder / "video-0001-slice.png").astype(int) for folder in (lined, rowed)]
    assert images[0].shape == (7, 64, 3)
    assert np.abs(images[0] - images[1]).max() <= 1  # phases of another origin


def test_slices_along_a_line_have_a_grid(run):
    status, folder = run("--videos 3 --slice-line -1 -1 1 1 --frames 5")
    assert status == 0
    assert sorted(content_of(folder)) == ["grid-slice.png", *(f"video-000{i}-slice.png" for i in range(3))]
    assert np.array_equal(read_png(folder / "grid-slice.png")[:5, :64], read_png(folder / "video-0000-slice.png"))


def test_single_frames_are_those_of_the_video(run):
    status, folder = run("--videos 2 --frames 1 --t0 0.75")
    _, long = run("--videos 2", name="long")
    assert status == 0
    assert sorted(content_of(folder)) == ["grid.png", "video-0000.png", "video-0001.png"]
    for i in range(2):
        frame = read_png(folder / f"video-000{i}.png")
        in_video = sheet_frames(long / f"video-000{i}.png", FRAMES)[3]
        # A matrix product of one row may round otherwise than that of several.
        assert np.abs(frame.astype(int) - in_video).max() <= 1
    assert np.array_equal(read_png(folder / "grid.png")[:, 66:], read_png(folder / "video-0001.png"))


def test_beyond_one_the_video_goes_on(run):
    _, clip = run("--videos 1 --format png", name="clip")
    _, long = run("--videos 1 --format png --frames 8 --t1 1.75", name="long")
    long, clip = (sheet_frames(f / "video-0000.png", n).astype(int) for f, n in ((long, 8), (clip, FRAMES)))
    assert np.abs(long[:FRAMES] - clip).max() <= 1
    assert np.abs(long[7] - long[4]).mean() > 1


@pytest.mark.parametrize(
    ("window", "rows", "columns"),
    [("--x -1 0 --y 0 1", (0, 64), (0, 64)), ("--x 0 1 --y -1 0", (64, 128), (64, 128))],
    ids=["upper-left", "lower-right"],
)
def test_a_window_is_a_part_of_the_whole(run, window, rows, columns):
    _, whole = run("--indices 1 --frames 1 --resolution 128", name="whole")
    _, part = run(f"--indices 1 --frames 1 {window}", name="part")
    expected = read_png(whole / "video-0001.png")[slice(*rows), slice(*columns)]
    assert np.abs(read_png(part / "video-0001.png").astype(int) - expected).max() <= 1


def test_windows_need_not_be_square(run):
    _, wide = run("--indices 1 --frames 1 --resolution 128x64 --x -2 2", name="wide")
    _, plain = run("--indices 1 --frames 1", name="plain")
    picture = read_png(wide / "video-0001.png")
    assert picture.shape == (64, 128, 3)
    assert np.abs(picture[:, 32:96].astype(int) - read_png(plain / "video-0001.png")).max() <= 1


def test_truncation_and_precision(run):
    _, mean = run("--mode motion-grid --contents 2 --motions 1 --psi 0 --frames 1", name="mean")
    assert len({(mean / f"content-000{i}-motion-0000.png").read_bytes() for i in range(2)}) == 1
    _, full = run("--videos 1 --frames 1 --format png", name="full")
    _, half = run("--videos 1 --frames 1 --format png --dtype bf16", name="half")
    full, half = read_png(full / "video-0000.png").astype(int), read_png(half / "video-0000.png")
    assert 0 < np.abs(full - half).max() <= 16


def test_classes_by_number_and_name(run, network):
    _, default = run("--indices 2,4 --frames 1", classes=3, name="default")
    _, named = run("--indices 2,4 --frames 1 --class moon 2", classes=3, name="named")
    times = clip_times(1)
    for folder, labels in ((default, {2: 2, 4: 1}), (named, {2: 1, 4: 1})):
        for i, label in labels.items():
            expected = rendered(network(3), i, i, times, label=label)[0]
            assert np.array_equal(read_png(folder / f"video-000{i}.png"), expected)


def test_a_large_grid_shows_the_first_clips(run, monkeypatch, capsys):
    monkeypatch.setattr(sample, "GRID_PIXELS", 4 * 64 * 64 + 1)
    _, folder = run("--videos 6 --frames 2 --format mp4")
    assert "the first 4 of 6" in capsys.readouterr().out
    assert read_video(folder / "grid.mp4").shape == (2, 128, 128, 3)
    assert len(content_of(folder)) == 7
    _, small = run("--videos 6 --frames 2 --format mp4 --only videos", name="small")
    small = content_of(small)
    assert {name: data for name, data in content_of(folder).items() if name != "grid.mp4"} == small
    _, alone = run("--videos 6 --frames 2 --format mp4 --only grid", name="alone")
    assert content_of(alone) == {"grid.mp4": (folder / "grid.mp4").read_bytes()}
    assert len(json.loads((alone / "sample.json").read_text())["clips"]) == 4
    assert "the first 4 of 6" in capsys.readouterr().out


def test_only_the_grid(run):
    _, folder = run("--videos 2 --only grid --format png")
    assert sorted(content_of(folder)) == ["grid.png"]
    _, folder = run("--videos 1 --only grid --format png", name="one")
    assert sorted(content_of(folder)) == ["grid.png"]


@pytest.fixture
def latents(network, tmp_path):
    """Makes a file of the latents that a sample of the network has; its clip has 3 frames, from 0.2 to 1.4."""

    def make(index: int, classes: int = 0, times: torch.Tensor | None = None):
        path = tmp_path / f"latents-{index}-{classes}"
        g = Generator.from_pretrained(network(classes))
        z_content, z_motion = seeded_latents(8, 0, [index])
        label = index % classes if classes else None
        with torch.no_grad():
            w = g.broadcast(g.mapping(z_content, None if label is None else torch.tensor([label])))[0]
        write_latents(
            path,
            Latents(w, z_motion[0], clip_times(3, 0.2, 1.4) if times is None else times, label),
            checksum(network(classes)),
        )
        return path

    return make


@pytest.mark.parametrize("classes", [0, 3])
def test_clips_of_latents_files(run, network, latents, classes):
    status, folder = run(f"--latents {latents(4, classes)} --format png", classes=classes)
    assert status == 0
    label = 4 % classes if classes else None
    expected = rendered(network(classes), 4, 4, clip_times(3, 0.2, 1.4), label=label)
    assert np.array_equal(sheet_frames(folder / "video-0000.png", 3), expected)
    record = json.loads((folder / "sample.json").read_text())
    assert record["times"] == pytest.approx([0.2, 0.8, 1.4])
    assert record["options"]["latents"] == [str(latents(4, classes))]
    assert record["clips"][0]["classes"][0] == label


def test_the_times_of_a_latents_file_are_kept_to_the_last_bit(run, network, latents):
    times = torch.tensor([0.1, 0.7, 1.1])
    status, folder = run(f"--latents {latents(4, times=times)} --format png")
    assert status == 0
    expected = rendered(network(0), 4, 4, times)
    assert np.array_equal(sheet_frames(folder / "video-0000.png", 3), expected)
    assert json.loads((folder / "sample.json").read_text())["times"] == times.tolist()


def test_clips_of_latents_files_at_other_times_and_sizes(run, network, latents):
    options = f"--latents {latents(4)} --format png"
    for more, times, resolution in (
        ("--frames 5", clip_times(5, 0.2, 1.4), 64),
        ("--frames 4 --t1 2", clip_times(4, 0.2, 2), 64),
        ("--t0 0 --resolution 256", clip_times(3, 0, 1.4), 256),
    ):
        _, folder = run(f"{options} {more}", name=more.replace(" ", ""))
        expected = rendered(network(), 4, 4, times, resolution=resolution)
        assert np.array_equal(sheet_frames(folder / "video-0000.png", len(times), resolution), expected)


def test_the_motion_of_another_clip(run, network, latents):
    expected = rendered(network(), 4, 2, clip_times(3, 0.2, 1.4))
    _, folder = run(f"--latents {latents(4)} --motion {latents(2)} --format png", name="motion")
    assert np.array_equal(sheet_frames(folder / "video-0000.png", 3), expected)
    status, folder = run(f"--latents {latents(4)} {latents(2)} --mode motion-grid --format png", name="grid")
    assert status == 0
    assert len(content_of(folder)) == 5  # two contents with two motions, and their grid
    assert np.array_equal(sheet_frames(folder / "content-0000-motion-0001.png", 3), expected)


def test_from_the_content_of_one_clip_to_that_of_another(run, network, latents):
    options = f"--latents {latents(4)} {latents(2)} --mode interpolate --steps 3 --format png"
    status, folder = run(options)
    assert status == 0
    last = sheet_frames(folder / "content-0000-to-0001-step-02.png", 3)
    assert np.array_equal(last, rendered(network(), 2, 4, clip_times(3, 0.2, 1.4)))


@pytest.mark.parametrize("classes", [0, 3])
def test_from_a_given_clip_to_a_sample_of_the_seed(run, network, latents, classes):
    options = f"--latents {latents(4, classes)} --mode interpolate --indices 0,7 --motion-indices 2 --steps 2"
    status, folder = run(f"{options} --format png", classes=classes)
    assert status == 0
    for step, content in enumerate((4, 7)):
        expected = rendered(
            network(classes), content, 2, clip_times(3, 0.2, 1.4), label=content % classes if classes else None
        )
        assert np.array_equal(sheet_frames(folder / f"content-0000-to-0007-step-{step:02d}.png", 3), expected)


def test_latents_of_another_network_are_refused_or_noted(run, network, latents, capsys):
    assert run(f"--latents {latents(1, 3)}")[0] == 2
    assert "is a clip of class 1, but this network has no classes" in capsys.readouterr().err
    other = network(0).with_name("other.safetensors")
    Generator.from_pretrained(network(0)).save(other, clips_seen=7001)
    assert run(f"--latents {latents(1)} --network {other} --format png")[0] == 0
    assert "warning: latents-1-0 was made with another network file" in capsys.readouterr().err


LATENTS_REFUSED = {
    "--latents {} --seed 3": "--seed has no effect on clips of --latents",
    "--latents {} --class 0": "--class has no effect on clips of --latents",
    "--motion {}": "--motion replaces the motion of clips of --latents",
}


@pytest.mark.parametrize("options", LATENTS_REFUSED)
def test_options_that_do_not_go_with_latents(run, latents, capsys, options):
    status, folder = run(options.format(latents(0)))
    assert status == 2
    assert LATENTS_REFUSED[options] in capsys.readouterr().err
    assert not folder.exists()


REFUSED = {
    "--resolution 65": "multiples of 2 pixels; give 64 or 66",
    "--resolution 1x64": "multiples of 2 pixels; give 2",
    "--resolution big": "'big' is neither",
    "--resolution 8194 --videos 1": "at most 8192 pixels",
    "--class 0": "--class: this network was trained without classes",
    "--slice-line 0 0 0 0": "--slice-line must lead from one point to another",
    "--slice-line 0 0 1 0 --format png,slice": "--slice-line is for --format slice",
    "--mode motion-grid --contents 65 --motions 16": "--only videos",
    "--videos 0": "--videos 0",
    "--frames 0": "--frames 0",
    "--t1 nan": "--t1 nan",
    "--x 1 1": "--x 1 1",
    "--fps 0": "--fps 0",
    "--seed -1": "--seed -1",
    "--memory 0.001": "takes at least memory=",
    "--slice-row 2": "--slice-row 2",
    "--format avi": "'avi' is not one of",
    "--device nonsense": "--device nonsense",
}


@pytest.mark.parametrize("options", REFUSED)
def test_one_sentence_about_what_is_wrong(run, capsys, options):
    try:
        status, folder = run(options)
    except SystemExit as stop:  # by the parser
        status, folder = stop.code, None
    text = capsys.readouterr().err.splitlines()[-1]
    assert status == 2
    assert text.startswith("digan sample: ")
    assert REFUSED[options] in text
    assert folder is None or not folder.exists() or not list(folder.iterdir())


@pytest.mark.parametrize("label", ["3", "planet", "-1"])
def test_unknown_class(run, capsys, label):
    assert run(f"--class={label}", classes=3)[0] == 2
    assert f"--class {label} is not a class of this network: give 0 to 2, or one of sun, moon, star" in (
        capsys.readouterr().err
    )


def test_a_full_disk_is_refused_before_rendering(run, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert run()[0] == 2
    assert "free some space" in capsys.readouterr().err


def test_an_outdir_that_is_a_file(run, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    assert run()[0] == 2
    assert "--outdir" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


def test_interruption_leaves_whole_files_only(run, monkeypatch):
    frames = Sampler.frames

    def interrupted(self, plan):
        for t, frame in enumerate(frames(self, plan)):
            if (plan.motion, t) == (1, 2):
                raise KeyboardInterrupt
            yield frame

    monkeypatch.setattr(Sampler, "frames", interrupted)
    status, folder = run("--videos 3")
    assert status == 130
    assert sorted(file.name for file in folder.iterdir()) == ["video-0000.gif", "video-0000.mp4", "video-0000.png"]
    assert len(read_video(folder / "video-0000.mp4")) == FRAMES
