"""minibatch_stddev on the CPU kernels: against the reference in float64, with derivatives."""

import math

import pytest
import torch

import fused_inr as fi

pytestmark = pytest.mark.usefixtures("compiled_library")

# Measured on every instruction set: 3.5e-7, 1.9e-3 and 2.1e-4 at most.
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


# Shape of x, samples per group, planes. For two samples the standard deviation is half their distance, whose second
# derivative is a difference of rounding errors.
CASES = {
    "N8-C4-H4-W4-G4": ((8, 4, 4, 4), 4, 1),
    "N4-C6-H3-W5-G4-planes3": ((4, 6, 3, 5), 4, 3),
    "N6-C4-H1-W1-G2-planes4": ((6, 4, 1, 1), 2, 4),
    "N6-C1-H63-W3-G3": ((6, 1, 63, 3), 3, 1),
    "N3-C2-H10-W100-G4": ((3, 2, 10, 100), 4, 2),
    "N1-C5-H3-W3-G1": ((1, 5, 3, 3), 4, 1),
    "N32-C3-H2-W2-G32": ((32, 3, 2, 2), 32, 1),
}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("name", CASES)
def test_cases(instruction_set, name, dtype, check_derivatives):
    shape, group, planes = CASES[name]
    x = normal(*shape).to(dtype).requires_grad_()
    check_derivatives(lambda x: fi.minibatch_stddev(x, group, planes), [x], 1 if group == 2 else 2, TOLERANCE[dtype])


VIEWS = {
    "channels_last": lambda: normal(4, 6, 5, 7).to(memory_format=torch.channels_last),
    "sliced": lambda: normal(8, 6, 5, 9)[::2, ::3, :, 2:],
    "permuted": lambda: normal(5, 4, 7, 6).permute(1, 3, 2, 0),
    "expanded": lambda: normal(4, 1, 3, 1).expand(4, 6, 3, 5),
}


@pytest.mark.parametrize("name", VIEWS)
def test_layouts(name, check_derivatives):
    x = VIEWS[name]().requires_grad_()
    check_derivatives(lambda x: fi.minibatch_stddev(x, 4, 2), [x], 2, TOLERANCE[torch.float32])
    with fi.backend("cpu"):
        assert fi.minibatch_stddev(x, 2, 2).is_contiguous()


def test_third_order_and_inputs_computed_from_one_another(check_derivatives):
    x = normal(4, 2, 3, 2).requires_grad_()

    def function(x: torch.Tensor) -> torch.Tensor:
        return fi.minibatch_stddev(fi.minibatch_stddev(x.tanh(), 4).tanh(), 4).square()

    check_derivatives(function, [x], 3, TOLERANCE[torch.float32])


@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (4, 2, 0, 3), (4, 2, 3, 0)], ids=str)
def test_empty_batches(shape, check_derivatives):
    x = torch.zeros(shape, requires_grad=True)
    check_derivatives(lambda x: fi.minibatch_stddev(x), [x], 2, 0)


def test_planes_of_no_channels_are_nan():
    x = torch.zeros(2, 0, 3, 3)
    for _ in range(3):
        torch.zeros(2, 1, 3, 3)  # freed at once, so that a plane that is not written would contain its zeros
        with fi.backend("cpu"):
            assert fi.minibatch_stddev(x).isnan().all()


@pytest.mark.parametrize("value", [0.0, -3.0, 1000.0], ids=str)
def test_groups_of_equal_samples(instruction_set, value):
    x = torch.full((4, 2, 5, 5), value, requires_grad=True)
    with fi.backend("cpu"):
        y = fi.minibatch_stddev(x)
    torch.testing.assert_close(y[:, 2:], torch.full((4, 1, 5, 5), 1e-4))
    assert torch.equal(torch.autograd.grad(y[:, 2:].sum(), x)[0], torch.zeros_like(x))


def test_large_means_lose_no_precision(instruction_set, check_derivatives):
    x = (1000 + normal(4, 3, 5, 7)).requires_grad_()
    # Measured: 5.0e-5. As mean of squares minus square of the mean, the plane alone would be off by 1.4e-3.
    check_derivatives(lambda x: fi.minibatch_stddev(x)[:, 3:], [x], 1, 1e-4)


def test_special_values_affect_only_their_group(instruction_set):
    x = normal(4, 2, 5, 5)
    x[1, 0, 2, 3] = math.nan
    x[2, 1, 0, 0] = math.inf
    with fi.backend("cpu"):
        actual = fi.minibatch_stddev(x, 2, 2)
    with fi.backend("reference"):
        expected = fi.minibatch_stddev(x, 2, 2)
    torch.testing.assert_close(actual, expected, equal_nan=True)
    assert actual[:, 2:, 0, 0].isnan().tolist() == [[False, True], [True, False]] * 2


def test_float16_statistics_beyond_its_range(instruction_set):
    x = torch.tensor([60000.0, -60000.0], dtype=torch.float16)[:, None, None, None].expand(2, 1, 3, 3)
    with fi.backend("cpu"):
        assert (fi.minibatch_stddev(x)[:, 1:] == 60000).all()
