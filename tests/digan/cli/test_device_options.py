"""Where a network is evaluated, and how precisely."""

import pytest
import torch

from digan.cli.device_options import DTYPES, add_precision, on_device
from digan.cli.options import OptionParser
from digan.errors import ConfigError


def parse(*argv: str, **options):
    parser = OptionParser("test")
    add_precision(parser, **options)
    return parser.parse(argv)


def test_the_defaults():
    assert DTYPES[parse().dtype] is torch.float32
    assert DTYPES[parse(default="bf16").dtype] is torch.bfloat16
    assert torch.device(parse().device).type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_command_may_take_fewer_types():
    assert parse("--dtype", "fp16").dtype == "fp16"
    with pytest.raises(ConfigError, match="--dtype: invalid choice: 'fp16'"):
        parse("--dtype", "fp16", names=("fp32", "bf16"))


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_cannot_be_used_is_one_sentence(device):
    with pytest.raises(ConfigError, match=f"--device {device} cannot be used here .*; choose another one, or cpu."):
        on_device(torch.nn.Linear(1, 1), device)


def test_the_generator_is_moved():
    assert on_device(torch.nn.Linear(1, 1), "meta").weight.is_meta
