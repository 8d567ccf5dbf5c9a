"""Files of the page: the bytes that its command writes."""

import json
import shlex

import numpy as np
import pytest
import torch
from PIL import Image

from digan.cli.main import main
from digan.errors import ConfigError
from digan.explore.files import command, write_file
from digan.explore.messages import parse_file_request
from digan.explore.pictures import Painter
from digan.files import checksum
from digan.sampling.latents import Latents, clip_times, read_latents, write_latents
from tests.digan.explore.conftest import build

CASES = {
    "mp4": {"format": "mp4"},
    "gif backwards": {"format": "gif", "span": [1.5, -0.5], "fps": 12.5},
    "png": {"format": "png", "frames": 1, "span": [0.37, 0.37], "size": [48, 40]},
    "large": {"format": "png", "frames": 1, "size": [384, 320]},
    "slice": {"format": "slice", "frames": 20, "size": [96, 96]},
    "one content": {"format": "png", "frames": 1, "span": [0.5, 0.5], "pad": [1, 0], "psi": 1},
}


@pytest.mark.parametrize(
    ("case", "dtype"), [*((case, None) for case in CASES), ("mp4", torch.bfloat16), ("slice", torch.bfloat16)]
)
def test_the_command_writes_the_same_file(case, dtype, classes, message, tmp_path):
    g = build(classes)
    network = tmp_path / "network of mine.safetensors"
    g.save(network, **g.metadata)
    request = parse_file_request(json.dumps(message("file", **CASES[case])), classes)
    content = write_file(Painter(g, dtype), request, lambda function: function())
    words = shlex.split(command(str(network), dtype, request, classes))
    assert words[:1] == ["digan"]
    words[words.index("--outdir") + 1] = str(tmp_path / "out")
    assert main([*words[1:], "--device", "cpu"]) == 0
    (file,) = (path for path in (tmp_path / "out").iterdir() if path.name != "sample.json")
    assert file.read_bytes() == content


@pytest.mark.parametrize("motion", [1, 9])
def test_the_command_of_a_given_clip_writes_the_same_file(motion, classes, message, tmp_path):
    g = build(classes)
    network, files = tmp_path / "network.safetensors", [tmp_path / "first clip", tmp_path / "second clip"]
    g.save(network, **g.metadata)
    for index, file in enumerate(files):
        w, z_motion = torch.randn(g.num_slots, 8), torch.randn(8)
        write_latents(file, Latents(w, z_motion, clip_times(4), index if classes else None), checksum(network))
    painter = Painter(g, None, [read_latents(file, g) for file in files])
    fields = {"contents": [1, 0, 1, 0], "pad": [0.25, 0], "motion": motion}
    request = parse_file_request(json.dumps(message("file", **CASES["png"], **fields)), classes)
    content = write_file(painter, request, lambda function: function())
    words = shlex.split(command(str(network), None, request, classes, [str(file) for file in files]))
    assert ("--seed" in words) == (motion == 9)
    words[words.index("--outdir") + 1] = str(tmp_path / "out")
    assert main([*words[1:], "--device", "cpu"]) == 0
    (file,) = (path for path in (tmp_path / "out").iterdir() if path.name != "sample.json")
    assert file.read_bytes() == content


def test_a_png_shows_the_frame(message, tmp_path):
    request = parse_file_request(json.dumps(message("file", **CASES["png"])), 0)
    painter = Painter(build())
    (tmp_path / "file.png").write_bytes(write_file(painter, request, lambda function: function()))
    image = np.asarray(Image.open(tmp_path / "file.png"))
    assert image.shape == (40, 48, 3)
    assert image.std() > 1


def test_commands_are_short_where_nothing_is_mixed(message):
    request = parse_file_request(json.dumps(message("file", **CASES["one content"])), 0)
    assert command("runs/00000-demo", None, request, 0) == (
        "digan sample --network runs/00000-demo --outdir out --mode mix --indices 5 --motion-indices 9 --seed 3 "
        "--frames 1 --t0 0.5 --t1 0.5 --resolution 32x32 --x -0.5 0.75 --y -1.5 -0.25 --format png"
    )


def test_a_size_that_the_network_does_not_render_is_refused(message):
    request = parse_file_request(json.dumps(message("file", size=[32, 33])), 0)
    with pytest.raises(ConfigError, match=r"^size 33 is not a multiple of 2, "):
        write_file(Painter(build()), request, lambda function: function())


def test_every_rendering_is_a_call_and_may_end_the_file(message, monkeypatch):
    monkeypatch.setattr("digan.explore.pictures._STEP_SECONDS", 0)
    request = parse_file_request(json.dumps(message("file")), 0)
    calls = []

    def call(function):
        calls.append(1)
        if len(calls) == 4:
            raise KeyError("no longer wanted")
        return function()

    with pytest.raises(KeyError):
        write_file(Painter(build()), request, call)
    calls[:] = [1] * 10
    write_file(Painter(build()), request, call)
    assert len(calls) == 10 + 1 + 5  # the clip and its frames
    large = parse_file_request(json.dumps(message("file", **CASES["large"])), 0)
    calls[:] = [1] * 10
    write_file(Painter(build()), large, call)
    assert len(calls) == 10 + 1 + 8  # a frame of 7.5 times as many pixels as a step renders
