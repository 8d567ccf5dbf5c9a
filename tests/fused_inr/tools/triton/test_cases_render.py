"""The cases of `render`: the kernels of DIGAN's generator, and the entries of the table that they use."""

import pytest
import torch

from fused_inr._backends.triton.kernels import configs
from fused_inr.tools.triton.cases_render import CASES


def kernels_of(name: str, target: str) -> set[str]:
    (case,) = (case for case in CASES if case.name == name)
    return {launch.kernel.__name__ for launch in case.launches_on(target)}


def test_cases_use_entries_of_the_table():
    (case,) = (case for case in CASES if case.name == "render-generator-bfloat16")
    with configs.recorded() as entries:
        case.launches_on("sm_90")
    assert entries == {("layer", "half", "512"), ("feature_layer", "half", "512"), ("stage3", "half", "256")}


@pytest.mark.parametrize(("target", "fused"), [("sm_90", True), ("sm_80", False), ("gfx942", False)])
def test_the_last_stage_of_the_generator_is_one_kernel_where_it_fits(target, fused):
    expected = {"layer_kernel", "stage_kernel"} if fused else {"layer_kernel"}
    assert kernels_of("render-generator-bfloat16", target) == expected


def test_products_and_sums_are_separate_cases():
    assert kernels_of("render-generator-bfloat16-sums", "sm_90") == {"table_kernel", "image_kernel"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_products_are_in_the_type_of_the_name(case):
    kind = case.name.split("-")[-2 if case.name.endswith(("-sums", "-stored")) else -1]
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(kind, torch.float32)
    for launch in case.launches_on("sm_90"):
        if "weight" in launch.arguments:
            assert launch.arguments["weight"].dtype == dtype
            assert launch.arguments["PRECISION"] == ("tf32" if kind == "tf32" else "ieee")
