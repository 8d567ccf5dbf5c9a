"""The work whose time bounds a benchmark."""

import torch
import torch.nn.functional as F

from benchmarks import limits


def test_copies_move_the_requested_bytes(monkeypatch):
    copied = []
    monkeypatch.setattr(limits, "timed", lambda call: copied.append(call()) or 1.0)
    assert limits.copying(8 * 1000).seconds() == 1.0
    assert {tensor.nbytes for (tensor,) in copied} == {4000}


def test_convolutions_of_a_network():
    x = torch.empty(2, 3, 9, 8, device="meta")
    dense, depthwise = torch.empty(5, 3, 3, 3, device="meta"), torch.empty(3, 1, 3, 3, device="meta")

    def network() -> torch.Tensor:
        return F.conv2d(F.conv2d(x, depthwise, padding=1, groups=3), dense, stride=2)

    (layer,) = limits.convolutions_of(network)  # a FIR filter is not counted
    assert (list(layer.input), list(layer.output), layer.stride) == ([2, 3, 9, 8], [2, 5, 4, 3], [2, 2])
    assert layer.flops == 2 * (2 * 5 * 4 * 3) * (3 * 3 * 3)
    # The first layer of a network needs no gradient of its input; "both" counts twice.
    loss = limits.ConvolutionTime([[layer, layer]], limits.LOSS_PASSES)
    assert loss.flops == layer.flops * ((1 + 1) + (1 + 2))
