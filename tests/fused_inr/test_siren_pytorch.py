"""Networks of the package siren-pytorch, copied with their frequencies, or refused."""

import pytest
import torch
from torch import nn

import fused_inr as fi


def test_weights_of_siren_pytorch(assert_close):
    package = pytest.importorskip("siren_pytorch")
    options = dict(dim_in=2, dim_hidden=32, dim_out=3, num_layers=3)
    nets = [package.SirenNet(**options, w0_initial=25.0), package.SirenNet(**options, w0_initial=25.0)]
    x = torch.rand(17, 2)
    one, many = fi.nn.Siren.from_siren_pytorch(nets[1]), fi.nn.Siren.from_siren_pytorch(nets)
    assert (one.batch, many.batch, many.omegas) == (None, 2, (25.0, 1.0, 1.0, None))
    with torch.no_grad():
        expected = torch.stack([net(x) for net in nets])
        # Measured on an AVX-512 CPU: 1.9e-7.
        assert_close("values", expected[1], one(x), 2e-6)
        assert_close("values", expected, many(x), 2e-6)
        states = fi.nn.Siren.from_siren_pytorch([net.state_dict() for net in nets], first_omega=25.0)
        assert torch.equal(states(x), many(x))
    with pytest.raises(ValueError, match="the same w0 and the same last activation"):
        fi.nn.Siren.from_siren_pytorch([*nets, package.SirenNet(**options, w0_initial=20.0)])
    nets[0].layers[0].weight.data.zero_()
    assert many.weights[0].abs().min() > 0


def test_a_sine_at_the_end_of_siren_pytorch(assert_close):
    package = pytest.importorskip("siren_pytorch")
    options = dict(dim_in=2, dim_hidden=16, dim_out=3, use_bias=False, w0=2.0)
    net, x = package.SirenNet(**options, num_layers=1, final_activation=package.Sine(2.0)), torch.rand(17, 2)
    with torch.no_grad():
        # Measured on an AVX-512 CPU: 1e-7.
        assert_close("values", net(x), fi.nn.Siren.from_siren_pytorch(net)(x), 2e-6)
    for final, layers in ((package.Sine(3.0), 2), (nn.ReLU(), 2), (nn.Sigmoid(), 1), (nn.Identity(), 0)):
        net = package.SirenNet(**options, num_layers=layers, final_activation=final)
        with pytest.raises(ValueError, match="the same w0 after the first layer, and a linear or sine"):
            fi.nn.Siren.from_siren_pytorch(net)


def test_dropout_of_siren_pytorch_is_not_dropped_silently(assert_close):
    package = pytest.importorskip("siren_pytorch")
    net = package.SirenNet(dim_in=2, dim_hidden=8, dim_out=3, num_layers=2, dropout=0.5)
    with pytest.raises(ValueError, match=r"does not copy dropout: call `eval\(\)` on the SirenNet first"):
        fi.nn.Siren.from_siren_pytorch(net)
    x = torch.rand(7, 2)
    assert_close("values", net.eval()(x), fi.nn.Siren.from_siren_pytorch(net)(x), 2e-6)


def test_other_networks_than_siren_pytorch_are_refused():
    with pytest.raises(ValueError, match=r"takes a siren_pytorch\.SirenNet, not a Linear"):
        fi.nn.Siren.from_siren_pytorch(nn.Linear(2, 3))
    for networks in ({"weights.0": torch.zeros(2, 2)}, []):
        with pytest.raises(ValueError, match="or a list of equal-sized ones"):
            fi.nn.Siren.from_siren_pytorch(networks)
