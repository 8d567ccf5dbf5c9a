"""Options: precedence, aliases, ranges, and refusals that name the flag."""

import pytest

from digan.cli.train import parse_options, resolve
from digan.config import PRESETS, TrainConfig, micro_batches
from digan.errors import ConfigError


def config(*argv: str) -> TrainConfig:
    return resolve(parse_options(argv))


def test_no_argument_is_the_demonstration():
    c = config()
    assert c.cfg == "demo"
    assert c.resolution == PRESETS["demo"]["resolution"]


def test_data_without_preset_is_the_published_model():
    c = config("--data", "x")
    assert (c.cfg, c.resolution, c.batch, c.lr, c.gamma, c.channel_max) == (None, 128, 64, 0.0025, 1.0, 512)


def test_precedence_defaults_preset_file_command_line(tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("stride: 2\nbatch-gpu: 4\nlr: 0.001\nmetrics: [rfvd16_16f, rfvd8_16f]\ncompile: true\n")
    c = config("--cfg", "taichi", "--data", "x", "--config", str(file), "--lr", "0.002")
    assert (c.frames, c.stride, c.batch_gpu, c.lr, c.compile) == (16, 2, 4, 0.002, True)
    assert c.metric_names() == ["rfvd16_16f", "rfvd8_16f"]


def test_dashes_underscores_and_aliases_are_alike():
    a = config("--data=x", "--batch_gpu=8", "--mixed_precision", "bf16", "--output_dir", "o")
    b = config("--train-data-dir=x", "--batch-gpu=8", "--mixed-precision", "bf16", "--outdir", "o")
    assert a == b
    assert a.outdir == "o"


@pytest.mark.parametrize(
    ("argv", "value"), [([], True), (["--no-mirror"], False), (["--mirror", "0"], False), (["--mirror"], True)]
)
def test_switches(argv, value):
    assert config("--data", "x", *argv).mirror is value


def test_dry_run_has_a_short_form():
    assert config("-n").dry_run


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--batchh", "3"], ["--batchh", "--batch"]),
        (["--data", "x", "--resolution", "48"], ["--resolution", "48"]),
        (["--cfg", "sky"], ["--cfg sky", "--data"]),
        (["--data", "x", "--kimg", "0"], ["--kimg", "at least 0.001"]),
        (["--data", "x", "--seed", "-1"], ["--seed", "at least 0"]),
        (["--data", "x", "--overlap", "16"], ["--overlap", "--frames", "--stride"]),
        (["--data", "x", "--style-mixing", "2"], ["--style-mixing", "at most 1"]),
        (["--data", "x", "--aug", "colour"], ["--aug", "color"]),
        (["--data", "x", "--metrics", "fid50k"], ["--metrics", "fid50k"]),
        (["--data", "x", "--metrics", "fvd2048_16f"], ["--detector"]),
        (["--data", "x", "--kimg", "many"], ["--kimg", "many"]),
        (["--data", "x", "--mixed-precision", "int8"], ["--mixed-precision", "int8"]),
        (["--config", "/nowhere.yaml"], ["--config /nowhere.yaml", "cannot be read"]),
    ],
    ids=lambda v: "_".join(v[-2:]) if isinstance(v, list) else None,
)
def test_refusals_are_one_sentence_that_names_the_flag(argv, words):
    with pytest.raises(ConfigError) as refusal:
        config(*argv)
    message = str(refusal.value)
    assert all(word in message for word in words)
    assert "\n" not in message


def test_unknown_name_in_a_file_names_the_file(tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("learning-rate: 1\n")
    with pytest.raises(ConfigError, match=r"options\.yaml: unknown option --learning-rate"):
        config("--config", str(file))


def test_a_resumed_run_keeps_its_numbers_and_may_go_on_longer():
    stored = {"cfg": None, "data": "x", "batch": 32, "kimg": 5.0, "no_longer_an_option": 1}
    c = resolve(parse_options(["--kimg", "10"]), stored)
    assert (c.batch, c.kimg) == (32, 10.0)
    with pytest.raises(ConfigError, match="--batch 16 differs from the resumed run's 32"):
        resolve(parse_options(["--batch", "16"]), stored)


@pytest.mark.parametrize(
    ("batch", "at_once", "processes", "expected"), [(64, None, 8, 1), (64, 4, 8, 2), (8, 4, 1, 2), (2, None, 1, 1)]
)
def test_micro_batches(batch, at_once, processes, expected):
    argv = ["--data", "x", "--batch", str(batch)] + (["--batch-gpu", str(at_once)] if at_once else [])
    assert micro_batches(config(*argv), processes) == expected


@pytest.mark.parametrize(
    ("batch", "at_once", "processes", "flag"),
    [
        (10, None, 4, "--batch 10 .*; use 16"),
        (8, None, 3, r"--batch 8 .*; use 12, or start 2 of them \(--num_processes 2"),
        (8, None, 8, "--mbstd-group 1, or start 2 of them"),
        (18, None, 4, "--batch 18 .*; use 16 or 32\\."),
        (8, 3, 1, "--batch-gpu 3; use --batch-gpu 4"),
        (24, 10, 1, "--batch-gpu 10; use --batch-gpu 8"),
        (6, None, 1, "--batch-gpu"),
        (12, 6, 1, "--batch-gpu"),
    ],
)
def test_batches_that_do_not_come_out_even(batch, at_once, processes, flag):
    argv = ["--data", "x", "--batch", str(batch)] + (["--batch-gpu", str(at_once)] if at_once else [])
    with pytest.raises(ConfigError, match=flag):
        micro_batches(config(*argv), processes)


def test_the_batches_that_an_error_proposes_fit():
    for batch in (16, 32):
        assert micro_batches(config("--data", "x", "--batch", str(batch)), 4) == 1
    assert micro_batches(config("--data", "x", "--batch", "24", "--batch-gpu", "8"), 1) == 3


def test_the_group_of_the_minibatch_deviation_does_not_depend_on_the_processes():
    for batch, group in ((2, 2), (4, 4), (64, 4)):
        assert config("--data", "x", "--batch", str(batch)).discriminator(0).mbstd_group == group
    with pytest.raises(ConfigError, match=r"--batch 4 on 2 process\(es\).* groups of 4 .* set --mbstd-group 2"):
        micro_batches(config("--data", "x", "--batch", "4"), 2)
    assert micro_batches(config("--data", "x", "--batch", "4", "--mbstd-group", "2"), 2) == 1
    assert micro_batches(config("--data", "x", "--batch", "6", "--mbstd-group", "3"), 2) == 1


def test_a_resumed_run_may_be_divided_otherwise_but_keeps_its_groups():
    stored = {"data": "x", "batch": 32, "batch_gpu": 32, "mbstd_group": 2}
    assert resolve(parse_options(["--batch-gpu", "8"]), stored).discriminator(0).mbstd_group == 2
    with pytest.raises(ConfigError, match="--mbstd-group 4 differs from the resumed run's 2"):
        resolve(parse_options(["--mbstd-group", "4"]), stored)
