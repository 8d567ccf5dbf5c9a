"""The table of block sizes: its format, and the choice of an entry."""

import json

import pytest
import torch

from fused_inr._backends.triton.kernels import configs


def test_the_stored_table_has_the_written_format():
    assert configs.text(json.loads(configs.PATH.read_text())) == configs.PATH.read_text()


def test_an_unknown_architecture_and_larger_widths_have_options():
    meta = torch.device("meta")
    with configs.compiling_for("sm_75"):
        assert configs.chosen("layer", torch.float16, 4096, meta) == configs.table()["fallback"]["layer"]["half"]["512"]
    with configs.compiling_for("sm_90"):
        assert configs.chosen("layer", torch.float16, 100, meta) == configs.table()["sm_90"]["layer"]["half"]["128"]
        assert configs.fitting("stage3", torch.float16, 512, meta) is None
    with pytest.raises(KeyError, match="no such-kernel of kind half"):
        configs.chosen("such-kernel", torch.float16, 16, meta)
