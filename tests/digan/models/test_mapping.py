"""The mapping network: parity with the official implementation, labels, truncation and the average of w."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from digan import Generator
from digan.models.mapping import Mapping, normalize_second_moment
from digan.official import names as official_names

FIXTURE = Path(__file__).parents[2] / "fixtures" / "generator_small.safetensors"
PARITY = 1e-5  # relative difference in float32; measured: 0


@pytest.fixture(scope="module")
def official():
    return load_file(FIXTURE)


@pytest.fixture(scope="module")
def generator(official):
    state = official_names.generator_state(
        {name.removeprefix("state."): x for name, x in official.items() if name.startswith("state.")}
    )
    generator = Generator(official_names.generator_config(state))
    generator.load_state_dict(state)
    return generator


@pytest.mark.parametrize(("psi", "name"), [(1.0, "out.ws"), (0.7, "out.ws_psi0.7")])
def test_agrees_with_official(official, generator, psi, name):
    ws = generator.broadcast(generator.mapping(official["in.z"], psi=psi))
    torch.testing.assert_close(ws, official[name], rtol=0, atol=PARITY * official[name].abs().max().item())


def test_normalises_second_moment():
    z = torch.randn(3, 50) * torch.tensor([[0.1], [1.0], [100.0]])
    assert torch.allclose(normalize_second_moment(z).square().mean(dim=1), torch.ones(3), atol=1e-4)


def test_truncation_moves_towards_average():
    mapping = Mapping(8, 8, layers=2, lr_mult=0.01, w_avg_beta=0.9)
    mapping.w_avg.normal_()
    z = torch.randn(4, 8)
    assert torch.equal(mapping(z, psi=0.0), mapping.w_avg.expand(4, -1))
    torch.testing.assert_close(mapping(z, psi=0.3), mapping.w_avg + 0.3 * (mapping(z) - mapping.w_avg))


def test_average_moves_only_on_update():
    mapping = Mapping(8, 8, layers=2, lr_mult=0.01, w_avg_beta=0.75).train()
    mapping(torch.randn(4, 8))
    assert torch.equal(mapping.w_avg, torch.zeros(8))
    mean = torch.randn(8)
    mapping.update_average(mean)
    mapping.update_average(mean.clone().requires_grad_())
    assert not mapping.w_avg.requires_grad
    torch.testing.assert_close(mapping.w_avg, mean * (1 - 0.75**2))


def test_stored_weights_compensate_the_learning_rate_multiplier():
    layer = Mapping(256, 256, layers=1, lr_mult=0.01).layers[0]
    assert layer.weight.std().item() == pytest.approx(100, rel=0.05)
    x = torch.randn(512, 256)
    assert layer(x).square().mean().item() == pytest.approx(1, rel=0.1)  # lrelu with its gain keeps the moment near 1


class TestLabels:
    mapping = Mapping(8, 12, layers=2, lr_mult=0.01, num_classes=5, w_avg_beta=0.9)

    def test_each_label_has_its_own_w(self):
        z = torch.randn(1, 8).expand(5, -1)
        w = self.mapping(z, torch.arange(5))
        assert torch.pdist(w).min() > 1e-3

    def test_embedding_is_normalised_and_follows_z(self):
        z, labels = torch.randn(2, 8), torch.tensor([4, 1])
        x = torch.cat(
            [normalize_second_moment(z), normalize_second_moment(self.mapping.embed(torch.eye(5)[labels]))], 1
        )
        for layer in self.mapping.layers:
            x = layer(x)
        assert torch.equal(x, self.mapping(z, labels))

    def test_labels_alone(self):
        mapping = Mapping(0, 12, layers=2, lr_mult=0.01, num_classes=5)
        assert mapping(None, torch.tensor([0, 3])).shape == (2, 12)

    def test_missing(self):
        with pytest.raises(ValueError, match="labels are missing"):
            self.mapping(torch.randn(2, 8))

    @pytest.mark.parametrize("labels", [torch.tensor([0.0, 1.0]), torch.eye(5, dtype=torch.int64)], ids=["float", "2d"])
    def test_not_class_indices(self, labels):
        with pytest.raises(ValueError, match="int64 of shape"):
            self.mapping(torch.randn(2, 8), labels)

    def test_out_of_range(self):
        with pytest.raises((ValueError, RuntimeError), match=r"[Cc]lass"):
            self.mapping(torch.randn(2, 8), torch.tensor([0, 5]))

    def test_unexpected(self):
        with pytest.raises(ValueError, match="unconditional"):
            Mapping(8, 12, layers=2, lr_mult=0.01)(torch.randn(2, 8), torch.tensor([0, 1]))


def test_truncation_needs_an_average():
    with pytest.raises(ValueError, match="moving average"):
        Mapping(8, 8, layers=1, lr_mult=1.0)(torch.randn(1, 8), psi=0.5)


def test_nothing_to_map():
    with pytest.raises(ValueError, match="num_classes"):
        Mapping(0, 8, layers=1, lr_mult=1.0)
