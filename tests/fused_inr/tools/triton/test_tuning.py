"""The search for block sizes, on synthetic times."""

import math

import pytest
import torch

from fused_inr.tools.triton import tuning
from fused_inr.tools.triton.cases_render import CASES


def test_the_search_finds_the_fastest_working_options():
    def seconds(options: dict[str, int]) -> float:
        if options["BLOCK_M"] * options["num_stages"] > 384:
            return math.inf
        return (
            abs(math.log2(options["BLOCK_M"]) - 7) + abs(options["num_stages"] - 4) + abs(options["num_warps"] - 8) + 1
        )

    actual, time = tuning.descend({"BLOCK_M": 32, "num_warps": 2, "num_stages": 1}, seconds)
    assert actual == {"BLOCK_M": 128, "num_warps": 8, "num_stages": 3}
    assert time == seconds(actual)


def test_candidates_stay_within_bounds():
    actual = list(tuning.neighbours({"BLOCK_M": 256, "BLOCK_K": 16, "num_warps": 1, "num_stages": 6, "programs": 64}))
    assert {options["BLOCK_M"] for options in actual} == {128, 256}
    assert {options["BLOCK_K"] for options in actual} == {16, 32}
    assert {options["num_warps"] for options in actual} == {1, 2}
    assert {options["num_stages"] for options in actual} == {5, 6}
    assert {options["programs"] for options in actual} == {64}


def test_tuning_needs_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="tune needs a GPU"):
        tuning.tune(CASES)
