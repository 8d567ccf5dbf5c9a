"""The cases of `mlp`: networks in one kernel where they fit, layers where they do not."""

import pytest
import torch

from fused_inr.tools.triton.cases_networks import CASES


def launches_of(name: str, target: str = "sm_90") -> list:
    (case,) = (case for case in CASES if case.name == name)
    return case.launches_on(target)


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "gfx942"])
@pytest.mark.parametrize("kind", ["bfloat16", "float32", "tf32"])
def test_narrow_networks_are_one_kernel(kind, target):
    (forward,) = launches_of(f"network-sine-{kind}-W64", target)
    (backward,) = launches_of(f"network_backward-sine-{kind}-W64", target)
    assert (forward.kernel.__name__, backward.kernel.__name__) == ("network_kernel", "network_backward_kernel")
    for launch in (forward, backward):
        assert launch.arguments["PRECISION"] == ("tf32" if kind == "tf32" else "ieee")
        assert launch.arguments["hidden"].dtype == (torch.bfloat16 if kind == "bfloat16" else torch.float32)


STATES = {"sine": torch.int16, "relu": torch.bfloat16, "gauss": torch.bfloat16, "finer": torch.float32}


@pytest.mark.parametrize("activation", STATES)
def test_activations_are_constants_of_the_kernels(activation):
    (forward,) = launches_of(f"network-{activation}-bfloat16-W64")
    (backward,) = launches_of(f"network_backward-{activation}-bfloat16-W64")
    assert forward.arguments["ACTIVATION"] == backward.arguments["ACTIVATION"] == activation
    assert backward.arguments["states"].dtype == STATES[activation]


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float32", "tf32"])
def test_wide_networks_run_layer_by_layer(kind):
    launches = launches_of(f"network-sine-{kind}-W256")
    layers = [launch for launch in launches if launch.kernel.__name__ == "network_layer_kernel"]
    sums = [launch for launch in launches if launch.kernel.__name__ == "network_weight_gradient_kernel"]
    assert {launch.arguments["EPILOGUE"] for launch in layers} == {"sine", "slope", "linear"}
    assert {launch.arguments["inputs"] for launch in sums} == {256, 2}
    assert len(layers) + len(sums) == len(launches)


def test_skip_connections_multiply_their_few_coordinates_one_by_one():
    *layers, sums = launches_of("network_layer-gelu-skip-bfloat16")
    for launch in layers:
        assert (launch.arguments["inputs"], launch.arguments["axes"]) == (256, 3)
        assert (launch.arguments["FEW_INPUTS"], launch.arguments["FEW_AXES"]) == (False, True)
    assert (sums.arguments["inputs"], sums.arguments["bias_sums"]) == (3, None)


def test_the_first_layer_multiplies_its_few_inputs_one_by_one():
    (launch,) = launches_of("network_layer-first")
    assert launch.arguments["FEW_INPUTS"]
    (case,) = (case for case in CASES if case.name == "network_layer-first")
    assert case.matrix_instructions == ()
