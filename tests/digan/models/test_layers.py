"""Layers with an equalised learning rate: scales, initial values, and the convolution by its separate steps."""

import math

import pytest
import torch
import torch.nn.functional as F

from digan import DiscriminatorConfig, GeneratorConfig
from digan.models.layers import Conv2d, FullyConnected, channels_at

TOLERANCE = 1e-12  # float64, sums in another order


def lrelu(x):
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("make", [GeneratorConfig, DiscriminatorConfig])
def test_channels_halve_with_the_resolution_up_to_a_maximum(make):
    config = make(channel_base=100, channel_max=20)
    assert [channels_at(config, resolution) for resolution in (4, 5, 6, 32, 100)] == [20, 20, 16, 3, 1]
    with pytest.raises(ValueError, match="channel_base 100 and channel_max 20 leave no channels at resolution 101"):
        channels_at(config, 101)
    with pytest.raises(ValueError, match="channel_max 0"):
        channels_at(make(channel_base=100, channel_max=0), 4)


class TestFullyConnected:
    @pytest.mark.parametrize("lr_mult", [1.0, 0.01])
    @pytest.mark.parametrize(("activation", "act"), [("linear", lambda x: x), ("lrelu", lrelu)])
    def test_formula(self, activation, act, lr_mult):
        layer = FullyConnected(6, 4, activation, bias_init=0.5, lr_mult=lr_mult).double()
        x = random(2, 3, 6)
        expected = act(x @ layer.weight.T * (lr_mult / math.sqrt(6)) + layer.bias * lr_mult)
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(layer(x[0, 0]), expected[0, 0], rtol=0, atol=TOLERANCE)

    @pytest.mark.parametrize("lr_mult", [1.0, 0.01])
    def test_initial_values(self, lr_mult):
        torch.manual_seed(0)
        layer = FullyConnected(200, 300, bias_init=0.25, lr_mult=lr_mult)
        assert layer.weight.std().item() * lr_mult == pytest.approx(1, rel=0.02)  # 7 standard deviations
        assert abs(layer.weight.mean().item()) * lr_mult < 0.02
        assert layer.bias.eq(0.25).all()
        assert FullyConnected(2, 3).bias.eq(0).all()

    def test_default_is_linear_at_the_full_learning_rate(self):
        layer = FullyConnected(6, 4).double()
        x = random(3, 6)
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight / math.sqrt(6), layer.bias))

    @pytest.mark.parametrize("lr_mult", [1.0, 0.01])
    @pytest.mark.parametrize("activation", ["linear", "lrelu"])
    def test_folding_the_gain_changes_no_bit(self, activation, lr_mult):
        layer = FullyConnected(6, 4, activation, bias_init=0.5, lr_mult=lr_mult)
        x = torch.randn(3, 6)
        expected = layer(x)
        for _ in range(2):
            layer.fold_gain()
            assert torch.equal(layer(x), expected)
        assert layer.weight_gain == 1


class TestConv2d:
    def expected(self, layer, x, act, gain=1.0):
        """The convolution in separate PyTorch calls: filter, convolve with stride 1, decimate, activate."""
        weight = layer.weight / math.sqrt(layer.weight[0].numel())
        padding = layer.weight.shape[-1] // 2
        if layer.fir is not None:
            channels = x.shape[1]
            fir = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype) / 8
            fir = torch.outer(fir, fir).expand(channels, 1, 4, 4)
            # Zeros around: one more before than after, so that output pixel i is centred between 2i and 2i + 1.
            x = F.conv2d(F.pad(x, [1 + padding, 1 + padding] * 2), fir, groups=channels)
            y = F.conv2d(x, weight)[:, :, ::2, ::2]
        else:
            y = F.conv2d(x, weight, padding=padding)
        bias = 0 if layer.bias is None else layer.bias.view(1, -1, 1, 1)
        return act(y + bias) * gain

    @pytest.mark.parametrize("gain", [1.0, 0.5])
    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("down", [False, True])
    @pytest.mark.parametrize("kernel", [1, 3, 5])
    @pytest.mark.parametrize(("activation", "act"), [("linear", lambda x: x), ("lrelu", lrelu)])
    def test_separate_steps(self, activation, act, kernel, down, bias, gain):
        layer = Conv2d(3, 5, kernel, activation, bias=bias, down=down).double()
        if bias:
            layer.bias.data = random(5, seed=1)
        x, residual = random(2, 3, 8, 12), random(2, 5, 4, 6) if down else random(2, 5, 8, 12)
        expected = self.expected(layer, x, act, gain)
        torch.testing.assert_close(layer(x, gain), expected, rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(layer(x, gain, residual), expected + residual, rtol=0, atol=TOLERANCE)

    def test_defaults(self):
        torch.manual_seed(0)
        layer = Conv2d(64, 64, 3)
        assert layer.weight.std().item() == pytest.approx(1, rel=0.02)
        assert abs(layer.weight.mean().item()) < 0.02
        assert layer.bias.eq(0).all()
        assert layer.fir is None
        x = random(1, 64, 4, 4).float()
        torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight / 24, padding=1))

    def test_the_filter_is_no_part_of_the_state(self):
        assert sorted(Conv2d(2, 3, 3, down=True).state_dict()) == ["bias", "weight"]
        assert sorted(Conv2d(2, 3, 1, bias=False).state_dict()) == ["weight"]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_the_clamp_is_asked_for_and_scaled(self, dtype):
        layer, x = Conv2d(3, 4, 3, "lrelu", clamp=2.0), 100 * random(1, 3, 8, 8).to(dtype)
        assert layer(x, clamped=True).abs().max() == 2
        assert layer(x, gain=0.25, clamped=True).abs().max() == 0.5
        assert layer(x).abs().max() > 10
        assert Conv2d(3, 4, 3, "lrelu")(x, clamped=True).abs().max() > 10
        assert layer(x, clamped=True).dtype == dtype

    @pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
    def test_the_memory_format_stays(self, memory_format):
        x = random(2, 8, 8, 8).float().contiguous(memory_format=memory_format)
        assert Conv2d(8, 4, 3, "lrelu", down=True)(x).is_contiguous(memory_format=memory_format)
