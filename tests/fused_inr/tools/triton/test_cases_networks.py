"""The cases of `siren`: networks in one kernel where they fit, layers where they do not."""

import pytest
import torch

from fused_inr.tools.triton.cases_siren import CASES


def launches_of(name: str, target: str = "sm_90") -> list:
    (case,) = (case for case in CASES if case.name == name)
    return case.launches_on(target)


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "gfx942"])
@pytest.mark.parametrize("kind", ["bfloat16", "float32", "tf32"])
def test_narrow_networks_are_one_kernel(kind, target):
    (forward,) = launches_of(f"siren-{kind}-W64", target)
    (backward,) = launches_of(f"siren_backward-{kind}-W64", target)
    assert (forward.kernel.__name__, backward.kernel.__name__) == ("siren_kernel", "siren_backward_kernel")
    for launch in (forward, backward):
        assert launch.arguments["PRECISION"] == ("tf32" if kind == "tf32" else "ieee")
        assert launch.arguments["hidden"].dtype == (torch.bfloat16 if kind == "bfloat16" else torch.float32)


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float32", "tf32"])
def test_wide_networks_run_layer_by_layer(kind):
    launches = launches_of(f"siren-{kind}-W256")
    layers = [launch for launch in launches if launch.kernel.__name__ == "siren_layer_kernel"]
    sums = [launch for launch in launches if launch.kernel.__name__ == "siren_weight_gradient_kernel"]
    assert {launch.arguments["EPILOGUE"] for launch in layers} == {"sine", "slope", "linear"}
    assert {launch.arguments["inputs"] for launch in sums} == {256, 2}
    assert len(layers) + len(sums) == len(launches)


def test_the_first_layer_multiplies_its_few_inputs_one_by_one():
    (launch,) = launches_of("siren_layer-first")
    assert launch.arguments["FEW_INPUTS"]
    (case,) = (case for case in CASES if case.name == "siren_layer-first")
    assert case.matrix_instructions == ()
