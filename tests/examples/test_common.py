"""Pictures, images and errors of the examples."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def common(example):
    return example("common")


def test_pngs_hold_the_pixels(common, tmp_path):
    image = torch.rand(3, 5, 7) * 2 - 1
    common.save_png(tmp_path / "new" / "a.png", image)
    with Image.open(tmp_path / "new" / "a.png") as file:
        pixels = np.array(file)
    expected = ((image + 1) * 127.5).round().permute(1, 2, 0)
    assert torch.equal(torch.tensor(pixels), expected.to(torch.uint8))


def test_made_images_differ_and_repeat(common):
    torch.manual_seed(1)
    images = common.made_images(3, 16)
    assert images.shape == (3, 3, 16, 16)
    assert images.abs().max() <= 1
    assert images.flatten(1).std(dim=1).min() > 0.05
    assert (images[0] - images[1]).abs().mean() > 0.05
    torch.manual_seed(1)
    assert torch.equal(common.made_images(3, 16), images)


def test_values_at_pixel_centers_are_images(common):
    coords = common.pixel_centers(4)
    image = common.as_images(coords[None])  # [1, 2, 4, 4]: x and y
    assert image[0, 0, 0].tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert image[0, 1, :, 0].tolist() == [0.75, 0.25, -0.25, -0.75]


def test_images_of_a_folder(common, tmp_path, capsys):
    Image.new("RGB", (30, 20), (255, 0, 0)).save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(b"not an image")
    (tmp_path / "c.txt").write_text("text")
    Image.new("L", (8, 8), 255).save(tmp_path / "d.PNG")
    images = common.load_images(tmp_path, count=5, size=8)
    assert images.shape == (2, 3, 8, 8)
    assert images[0, :, 4, 4].tolist() == [1, -1, -1]
    assert images[1].min() == 1
    assert "skipped" in capsys.readouterr().err
    assert len(common.load_images(tmp_path, count=1, size=8)) == 1


def test_psnr(common):
    images = torch.zeros(2, 3, 4, 4)
    assert common.psnr(images, images + 0.2).tolist() == pytest.approx([20, 20], rel=1e-5)  # 20 log10(2 / 0.2)


def test_sheets(common):
    rows = [torch.zeros(3, 1, 4, 4), torch.zeros(2, 3, 4, 4)]
    picture = common.sheet(rows, scale=2, gap=1)
    assert picture.shape == (3, 18, 27)
    assert picture[:, 0].min() == 1
    assert picture[:, 5, 5].tolist() == [0, 0, 0]
    assert picture[:, 14, 22].tolist() == [1, 1, 1]  # the second row is shorter


def test_progress_reports_the_last_step(common, capsys):
    progress = common.Progress(3)
    for step in range(1, 4):
        progress(step, lambda: "loss 1")
    line = capsys.readouterr().out
    assert line.startswith("step 3/3  loss 1  elapsed ")
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("poisson", ["--data", "."], r": \. contains no readable image \(\.png, \.jpg, .*\)\.\n"),
        ("poisson", ["--data", "missing"], r": missing is not a folder\.\n"),
        ("sdf", ["--steps", "0"], r": error: argument --steps: must be at least 1, not 0\n"),
        ("hypernetwork", ["--size", "17"], r": error: argument --size: invalid choice: 17"),
    ],
    ids=["images", "folder", "steps", "size"],
)
def test_errors_are_sentences(example, common, name, arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        common.run(example(name).main, arguments)
    assert ended.value.code == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.slow
def test_scripts_run_from_any_folder(tmp_path):
    done = subprocess.run(
        [sys.executable, EXAMPLES / "sdf.py", "--outdir", "file/out", "--quick", "--steps", "1"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(EXAMPLES.parent / "kernels"), "PATH": ""},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file" / "out" / "sdf.png").exists()
