"""The search for block sizes, on made-up times, and the entries of the table that the cases use."""

import math

import pytest
import torch

from fused_inr._backends.triton.kernels import configs
from fused_inr.tools.triton import tuning
from fused_inr.tools.triton.cases_render import CASES


def test_the_search_finds_the_fastest_that_works():
    def seconds(options: dict[str, int]) -> float:
        if options["BLOCK_M"] * options["num_stages"] > 384:
            return math.inf
        return (
            abs(math.log2(options["BLOCK_M"]) - 7) + abs(options["num_stages"] - 4) + abs(options["num_warps"] - 8) + 1
        )

    found, time = tuning.descend({"BLOCK_M": 32, "num_warps": 2, "num_stages": 1}, seconds)
    assert found == {"BLOCK_M": 128, "num_warps": 8, "num_stages": 3}
    assert time == seconds(found)


def test_candidates_stay_within_bounds():
    found = list(tuning.neighbours({"BLOCK_M": 256, "BLOCK_K": 16, "num_warps": 1, "num_stages": 6, "programs": 64}))
    assert {options["BLOCK_M"] for options in found} == {128, 256}
    assert {options["BLOCK_K"] for options in found} == {16, 32}
    assert {options["num_warps"] for options in found} == {1, 2}
    assert {options["num_stages"] for options in found} == {5, 6}
    assert {options["programs"] for options in found} == {64}


def test_it_refuses_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="tune times kernels and found no GPU"):
        tuning.tune(CASES)


def test_cases_fall_on_entries_of_the_table():
    (case,) = (case for case in CASES if case.name == "render-generator-bfloat16")
    with configs.recorded() as entries:
        case.launches_on("sm_90")
    assert entries == {("layer", "half", "512"), ("feature_layer", "half", "512"), ("stage3", "half", "256")}
