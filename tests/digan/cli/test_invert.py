"""digan invert: the clip that is read, the files that are written, and what digan sample makes of them."""

import json
import warnings

import av
import numpy as np
import pytest
import torch
from PIL import Image

from digan import Generator
from digan.cli.main import main
from digan.config import GeneratorConfig
from digan.data import make_demo_videos
from digan.files import checksum
from digan.metrics.similarity import psnr, ssim
from digan.sampling.latents import clip_times, read_latents, seeded_latents
from digan.sampling.media import write_png
from digan.sampling.render import sample_clips

SIZES = dict(
    z_dim=8, w_dim=8, fourier_dim=4, fmm_rank=2, channel_base=128, channel_max=8, resolution=32, space_frequency=1.0
)
FRAMES = 4
QUICK = "--steps 3 --restarts 2 --draws 4 --device cpu"


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Makes the file of a network, which was trained on clips of 4 frames at stride 2."""
    folder = tmp_path_factory.mktemp("networks")

    def make(classes: int = 0):
        path = folder / f"{classes}.safetensors"
        if not path.exists():
            torch.manual_seed(1)
            g = Generator(GeneratorConfig(num_classes=classes, **SIZES))
            with torch.no_grad():
                for block in g.blocks.values():
                    block.to_rgb.weight.mul_(0.2)  # so that most values lie in [-1, 1]
            names = ["sun", "moon", "star"][:classes]
            g.save(path, clips_seen=7000, data={"frames": FRAMES, "stride": 2, "class_names": names})
        return path

    return make


@pytest.fixture(scope="module")
def clip(network, tmp_path_factory):
    """A folder of frames of the network, sample 0 of seed 9, and the frames, uint8 [8, 32, 32, 3]."""
    folder = tmp_path_factory.mktemp("clip") / "frames"
    g = Generator.from_pretrained(network())
    times = clip_times(8, 0, 7 / 6)  # every second frame is one of a training clip
    frames = sample_clips(g, *seeded_latents(8, 9, [0]), times)[0].permute(0, 2, 3, 1).numpy()
    for t, frame in enumerate(frames):
        write_png(folder / f"{t:02d}.png", frame)
    return folder, frames


@pytest.fixture
def run(network, clip, tmp_path):
    """Calls the command; returns its status and its folder."""

    def call(options: str = "", classes: int = 0, video=None, name: str = "out"):
        words = ["--network", str(network(classes)), "--video", str(video or clip[0]), "--outdir", str(tmp_path / name)]
        return main(["invert", *words, *QUICK.split(), *options.split()]), tmp_path / name

    return call


def read_video(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def rows(path, count: int) -> list[np.ndarray]:
    """The rows of frames in a sheet of frames of 32x32 pixels."""
    sheet = np.asarray(Image.open(path))
    starts = [34 * i for i in range(count)]
    return [np.stack([sheet[y : y + 32, x : x + 32] for x in starts]) for y in (0, 34)]


@pytest.mark.slow
def test_a_clip_of_the_network_is_found_again_and_sampled(run, network, clip, tmp_path, capsys):
    status, folder = run("--steps 120 --restarts 3 --draws 32")
    assert status == 0
    assert "PSNR" in capsys.readouterr().out
    record = json.loads((folder / "inversion.json").read_text())
    assert record["psnr"] > 35  # measured: 48.6
    words = ["--network", network(), "--latents", folder / "latents.safetensors", "--device", "cpu", "--format", "png"]
    for name, options in {
        "clip": [],
        "between": ["--frames", "7"],
        "beyond": ["--frames", "5", "--t1", "1.3333"],
    }.items():
        assert main(["sample", *map(str, words), *options, "--outdir", str(tmp_path / name)]) == 0
    _, found = rows(folder / "comparison.png", FRAMES)
    sampled = np.asarray(Image.open(tmp_path / "clip" / "video-0000.png"))
    assert np.array_equal(np.stack([sampled[:32, 34 * i : 34 * i + 32] for i in range(FRAMES)]), found)
    between = np.asarray(Image.open(tmp_path / "between" / "video-0000.png"))
    between = np.stack([between[:32, 34 * i : 34 * i + 32] for i in range(7)])
    scores = psnr(*(torch.from_numpy(x.copy()).permute(0, 3, 1, 2) for x in (between, clip[1][:7])))
    assert scores.min() > 35  # with frames between those that were seen; measured: 48.3


def test_files_hold_the_clip_and_its_reconstruction(run, network, clip):
    status, folder = run()
    assert status == 0
    g, network_sha256 = Generator.from_pretrained(network()), checksum(network())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        latents = read_latents(folder / "latents.safetensors", g, network_sha256)
    original, found = rows(folder / "comparison.png", FRAMES)
    assert np.array_equal(original, clip[1][::2])  # the stride is the network's
    record = json.loads((folder / "inversion.json").read_text())
    pair = [torch.from_numpy(x.copy()).permute(0, 3, 1, 2) for x in (found, original)]
    assert [frame["psnr"] for frame in record["frames"]] == pytest.approx(psnr(*pair).tolist())
    assert [frame["ssim"] for frame in record["frames"]] == pytest.approx(ssim(*pair).tolist())
    assert [frame["frame"] for frame in record["frames"]] == [0, 2, 4, 6]
    assert record["psnr"] == pytest.approx(psnr(*pair).mean().item())
    assert record["network"]["sha256"] == network_sha256
    assert (len(record["searches"]), record["steps"]) == (2, 3)
    assert latents.times.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert read_video(folder / "original.mp4").shape == read_video(folder / "reconstruction.mp4").shape
    assert read_video(folder / "comparison.mp4").shape == (FRAMES, 32, 64, 3)


def test_which_frames_are_read_and_their_times(run, clip, network):
    status, folder = run("--start 1 --frames 3 --stride 1 --fps 5")
    assert status == 0
    assert np.array_equal(rows(folder / "comparison.png", 3)[0], clip[1][1:4])
    latents = read_latents(folder / "latents.safetensors", Generator.from_pretrained(network()))
    assert latents.times.tolist() == pytest.approx([0, 1 / 6, 1 / 3])  # half the stride of the training
    with av.open(str(folder / "original.mp4")) as container:
        assert container.streams.video[0].average_rate == 5


def test_a_video_of_a_folder_of_several(run, tmp_path, capsys):
    data = make_demo_videos(tmp_path / "videos", videos=2, frames=8, resolution=32)
    assert run(video=data)[0] == 2
    error = capsys.readouterr().err
    assert "holds 2 videos: choose one with --name (" in error
    name = error.split("--name (")[1].split(",")[0]
    assert run(f"--name {name}", video=data)[0] == 0
    assert name in capsys.readouterr().out
    assert run("--name other", video=data)[0] == 2
    assert "holds no --name other: choose one with --name" in capsys.readouterr().err
    assert run(video=data / name, name="alone")[0] == 0


@pytest.mark.parametrize(("options", "label"), [("--class moon", 1), ("--class 2", 2)])
def test_the_class_of_a_conditional_network(run, network, options, label):
    status, folder = run(options, classes=3)
    assert status == 0
    assert read_latents(folder / "latents.safetensors", Generator.from_pretrained(network(3))).label == label
    assert json.loads((folder / "inversion.json").read_text())["label"] == label


def test_a_perceptual_distance(run, tmp_path):
    class Squares(torch.nn.Module):
        def forward(self, x, y):
            return (x - y).square().mean(dim=[1, 2, 3])

    torch.jit.script(Squares()).save(str(tmp_path / "p.pt"))
    _, plain = run(name="plain")
    status, folder = run(f"--perceptual {tmp_path / 'p.pt'} --dtype bf16 --fit-offset")
    assert status == 0
    losses = [json.loads((f / "inversion.json").read_text())["searches"][0]["loss"] for f in (plain, folder)]
    assert losses[0] < losses[1]


REFUSED = {
    "--start 2": "has 8 frames, but 4 at --stride 2 from --start 2 take 9: lower --start, --frames or --stride",
    "--frames 5": "has 8 frames, but 5 at --stride 2",
    "--class sun": "--class: this network was trained without classes",
    "--steps 0": "--steps 0 must be at least 1",
    "--lr 0": "--lr 0 must be more than 0",
    "--prior nan": "--prior nan must be a finite number",
    "--device nonsense": "--device nonsense cannot be used",
}


@pytest.mark.parametrize("options", REFUSED)
def test_one_sentence_about_what_is_wrong(run, capsys, options):
    status, folder = run(options)
    text = capsys.readouterr().err.splitlines()[-1]
    assert status == 2
    assert text.startswith("digan invert: ")
    assert REFUSED[options] in text
    assert not folder.exists()


def test_an_unknown_class(run, capsys):
    assert run("--class planet", classes=3)[0] == 2
    assert "--class planet is not a class of this network: give 0 to 2, or one of sun" in capsys.readouterr().err


def test_a_huge_learning_rate_still_gives_finite_latents(run, network):
    status, folder = run("--lr 1e12 --steps 5")
    assert status == 0
    read_latents(folder / "latents.safetensors", Generator.from_pretrained(network()))


def test_the_video_is_named_by_its_flag(run, tmp_path, capsys):
    assert run(video=tmp_path / "absent.mp4")[0] == 2
    assert "--video" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run(video=tmp_path / "empty")[0] == 2
    error = capsys.readouterr().err
    assert "--video" in error
    assert "--data" not in error


def test_an_outdir_that_is_a_file(run, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    assert run()[0] == 2
    assert "--outdir" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"
