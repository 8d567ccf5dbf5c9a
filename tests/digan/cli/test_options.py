"""One way to read options for every command: spelling, YAML files, precedence, refusals."""

import argparse

import pytest

from digan.cli.main import COMMANDS, main
from digan.cli.options import OptionParser, number, parse_bool
from digan.config import Range
from digan.errors import ConfigError


@pytest.fixture
def parser():
    parser = OptionParser("test")
    parser.add_argument("--frame-count", type=number(int, Range(minimum=1)), default=16)
    parser.add_argument("--labels", type=int, nargs="+")
    parser.add_argument("--name", required=True)
    parser.add_argument("--precision", choices=("no", "bf16"))
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--mirror", nargs="?", const=True, type=parse_bool, default=False)
    return parser


@pytest.fixture
def yaml(tmp_path):
    def write(text):
        file = tmp_path / "options.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(file)

    return write


def test_dashes_and_underscores_are_alike_and_values_stay(parser):
    assert parser.parse(["--frame_count=3", "--name", "a_b"]).frame_count == 3
    assert parser.parse(["--frame-count", "3", "--name=a_b"]).name == "a_b"


@pytest.mark.parametrize("text", ["-5e-05", "-1E+3", "-2.", "-.5", "-0.25", "-7"])
def test_negative_numbers_are_values_however_they_are_written(parser, text):
    parser.add_argument("--x", type=float, nargs=2)
    group = parser.add_argument_group("others")
    group.add_argument("--t0", type=float)
    args = parser.parse(["--name", "a", "--x", text, "1", "--t0", text])
    assert (args.x, args.t0) == ([float(text), 1.0], float(text))


def test_a_file_sets_every_kind_of_option(parser, yaml):
    file = yaml("frame_count: 4\nlabels: [1, 2]\nname: x\nprecision: no\nfast: true\nmirror: true\n")
    values = parser.parse(["--config", file])
    assert (values.frame_count, values.labels, values.name) == (4, [1, 2], "x")
    assert (values.precision, values.fast, values.mirror, values.config) == ("no", True, True, file)


def test_the_command_line_takes_precedence(parser, yaml):
    values = parser.parse([f"--config={yaml('frame-count: 4; name: x'.replace('; ', chr(10)))}", "--frame-count", "5"])
    assert (values.frame_count, values.name) == (5, "x")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("frame-cuont: 4", "unknown option --frame-cuont; did you mean --frame-count?"),
        ("frame-count: 0", "0 must be at least 1"),
        ('name: "x\\ud800"', "--name does not take half a surrogate pair"),
        ("frame-count: {a: 1}", "--frame-count takes a value or a list"),
        ("[1, 2]", "'name: value' lines"),
        ("a: [", "is not YAML"),
        (b"name: \xff", "is not UTF-8 text"),
    ],
)
def test_what_is_wrong_in_a_file_names_the_file(parser, yaml, text, words):
    file = yaml(text)
    with pytest.raises(ConfigError) as refusal:
        parser.parse(["--config", file])
    assert str(refusal.value).startswith(f"--config {file}: ")
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_required_options_are_required_again_without_the_file(parser, yaml):
    parser.parse(["--config", yaml("name: x")])
    with pytest.raises(ConfigError, match="--name"):
        OptionParser("other").parse(["--name", "x"])


def test_a_missing_required_option_is_one_sentence(parser):
    with pytest.raises(ConfigError, match=r"required: --name\.$"):
        parser.parse([])


@pytest.mark.parametrize("text", ["maybe", ""])
def test_a_word_that_is_no_truth_value_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="neither true nor false"):
        parse_bool(text)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_reads_a_file(command, yaml, capsys):
    assert main([command, "--config", yaml("no-such-option: 1")]) == 2
    assert "unknown option --no-such-option" in capsys.readouterr().err
