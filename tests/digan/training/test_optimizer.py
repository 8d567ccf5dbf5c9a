"""Adam and the gradients that it gets: the fused kernel is the plain one, non-finite values never arrive."""

import math

import pytest
import torch
from torch import nn

from digan.training.optimizer import GRADIENT_LIMIT, lazy_adam, load_adam, replace_nonfinite


def network(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.Linear(7, 11), nn.Linear(1, 1)).to(dtype)


def plain(optimizer):
    """The same optimizer, computed by separate calls."""
    for group in optimizer.param_groups:
        group["fused"], group["foreach"] = None, False
    return optimizer


def steps(module, optimizer, numbers):
    """Steps on gradients of very different sizes, a function of their numbers."""
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        for p in module.parameters():
            p.grad = torch.randn(p.shape, generator=generator) * 10.0 ** (3 * (number % 3) - 6)
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_fused_where_there_is_a_kernel():
    assert lazy_adam(network(), 0.01, 16).param_groups[0]["fused"]
    assert not lazy_adam(network(torch.float16), 0.01, 16).param_groups[0]["fused"]


def test_fused_is_adam():
    one, two = network(), network()
    fused = steps(one, lazy_adam(one, 0.01, 16), range(30))
    expected = steps(two, plain(lazy_adam(two, 0.01, 16)), range(30))
    assert (fused - network_vector()).abs().max() > 0.01  # it moved
    # Measured 2e-7 on one machine: rounding of values near 1.
    torch.testing.assert_close(fused, expected, rtol=0, atol=2e-6)


def network_vector():
    return torch.cat([p.detach().flatten() for p in network().parameters()])


@pytest.mark.parametrize("saved_fused", [True, False], ids=["from-fused", "from-plain"])
@pytest.mark.parametrize("loaded_fused", [True, False], ids=["to-fused", "to-plain"])
def test_state_resumes_however_it_was_computed(saved_fused, loaded_fused):
    def make(module, fused):
        optimizer = lazy_adam(module, 0.01, 4)
        return optimizer if fused else plain(optimizer)

    whole = network()
    expected = steps(whole, make(whole, loaded_fused), range(20))
    first = network()
    optimizer = make(first, saved_fused)
    steps(first, optimizer, range(10))
    second = network()
    second.load_state_dict(first.state_dict())
    resumed = make(second, loaded_fused)
    load_adam(resumed, optimizer.state_dict())
    assert bool(resumed.param_groups[0]["fused"]) == loaded_fused
    found = steps(second, resumed, range(10, 20))
    if saved_fused == loaded_fused:
        assert torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def test_nonfinite_values_are_replaced_and_counted():
    inf, nan, large = math.inf, math.nan, 3e38
    gradients = [
        torch.tensor([[1.0, nan], [-inf, large]]),
        torch.tensor([-large, -0.0, 1e-40]),
        torch.tensor(inf),
        torch.zeros(0),
    ]
    assert replace_nonfinite(gradients).tolist() == [2, 0, 1, 0]
    assert gradients[0].tolist() == torch.tensor([[1.0, 0.0], [-GRADIENT_LIMIT, large]]).tolist()
    assert gradients[1].tolist() == torch.tensor([-large, -0.0, 1e-40]).tolist()
    assert gradients[2].item() == GRADIENT_LIMIT


def test_gradients_are_replaced_where_they_lie():
    channels_last = torch.full((2, 3, 4, 5), math.nan).to(memory_format=torch.channels_last)
    pointer = channels_last.data_ptr()
    assert replace_nonfinite([channels_last]) == channels_last.numel()
    assert channels_last.data_ptr() == pointer
    assert not channels_last.any()
