"""The cases of networks at points: seeded parameters, and paths that compute what the truth says."""

import pytest
import torch

import fused_inr as fi
from benchmarks.harness import Precision
from benchmarks.networks import Size, gradients_case, parameters, pixels, relu_layer, siren_layer, values_case
from fused_inr.tools import counts

SIZE = Size(2, 3, 8, 5)


@pytest.mark.parametrize("layer", [siren_layer, relu_layer])
def test_parameters_are_seeded_and_chained(layer):
    weights, biases = parameters(SIZE, layer)
    assert [tuple(weight.shape) for weight in weights] == [(2, 8, 2), (2, 8, 8), (2, 3, 8)]
    assert [tuple(bias.shape) for bias in biases] == [(2, 8), (2, 8), (2, 3)]
    again = parameters(SIZE, layer)[0]
    assert all(torch.equal(a, b) for a, b in zip(weights, again, strict=True))
    assert str(SIZE) == "N2-L3-W8-P25"


def test_a_volume_has_three_coordinates():
    size = Size(1, 2, 4, 3, axes=3)
    assert pixels(size).shape == (27, 3)
    assert parameters(size, siren_layer)[0][0].shape == (1, 4, 3)
    assert str(size) == "N1-L2-W4-P27-3D"


@pytest.mark.parametrize("make", [values_case, gradients_case])
def test_paths_equal_the_truth(make):
    network = pixels(SIZE), *parameters(SIZE, siren_layer)
    precision = Precision("float32", torch.float32, tf32=False)
    case = make("siren", network, fi.siren, counts.siren(*network), precision, 1e-4)
    assert set(case.paths) == {"naive", "compiled", "ours"}
    truth = case.truth()
    for name in ("naive", "ours"):
        result = case.part(case.paths[name]())
        torch.testing.assert_close(result, truth, rtol=1e-3, atol=1e-3, check_dtype=False)
