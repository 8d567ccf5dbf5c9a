"""The loss of an inversion is a distance, of each clip on its own; perceptual files are tried before they are used."""

import pytest
import torch
import torch.nn.functional as F

from digan.errors import ConfigError
from digan.sampling.clip_loss import ClipLoss, load_perceptual

CPU = torch.device("cpu")


class Squares(torch.nn.Module):
    def forward(self, x, y):
        return (x - y).square().mean(dim=[1, 2, 3], keepdim=True)


class Single(torch.nn.Module):
    def forward(self, x, y):
        return (x - y).square().mean()


class Constant(torch.nn.Module):
    def forward(self, x, y):
        return (x - y).square().mean(dim=[1, 2, 3]).detach()


@pytest.fixture
def perceptual(tmp_path):
    def make(module: torch.nn.Module):
        torch.jit.script(module).save(str(tmp_path / "p.pt"))
        return tmp_path / "p.pt"

    return make


def test_each_clip_has_its_own_distance():
    clip = torch.rand(3, 3, 16, 16) * 2 - 1
    others = torch.rand(2, 3, 3, 16, 16) * 2 - 1
    losses = ClipLoss(clip)(torch.stack([clip, *others]))
    assert losses[0] == 0
    assert losses.shape == (3,)
    for loss, other in zip(losses[1:], others, strict=True):
        torch.testing.assert_close(loss, ClipLoss(clip)(other[None])[0])


@pytest.mark.parametrize("edges", [0.0, 0.5])
def test_the_pyramid_is_that_of_its_definition(edges):
    clip, other = torch.rand(2, 2, 3, 16, 24, dtype=torch.float64)
    a, b, levels = clip.float(), other.float(), []
    for _ in range(2):  # 16x24 and 8x12 pixels
        pixels = (a - b).abs().mean()
        rows = ((a[..., 1:, :] - a[..., :-1, :]) - (b[..., 1:, :] - b[..., :-1, :])).abs().mean()
        columns = ((a[..., 1:] - a[..., :-1]) - (b[..., 1:] - b[..., :-1])).abs().mean()
        levels.append(pixels + edges * (rows + columns))
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    # Measured: 6e-8, the rounding of float32.
    loss = ClipLoss(clip.float(), edges, changes=0)(other.float()[None])[0]
    torch.testing.assert_close(loss, sum(levels) / 2, rtol=1e-6, atol=0)


def test_changes_are_differences_from_the_mean_over_time():
    clip, still = torch.rand(4, 3, 8, 8), torch.rand(1, 3, 8, 8)
    frozen = clip.mean(dim=0, keepdim=True).expand_as(clip)
    losses = [ClipLoss(clip, changes=changes)(frozen[None])[0] for changes in (0.0, 2.0)]
    torch.testing.assert_close(losses[1] - losses[0], 2 * (clip - frozen).abs().mean())
    constant = [ClipLoss(clip, changes=changes)((clip + still)[None])[0] for changes in (0.0, 2.0)]
    # A difference that stays the same counts in the pyramid alone. Measured: 6e-8.
    torch.testing.assert_close(*constant, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("end", [1.0, -1.0])
def test_values_beyond_an_end_are_as_good_as_the_end_itself(end):
    clip = torch.full((1, 3, 8, 8), end)
    clips = torch.stack([clip * 3, clip * 0.5, -clip])
    torch.testing.assert_close(ClipLoss(clip)(clips), torch.tensor([0.0, 0.5, 2.0]))
    torch.testing.assert_close(ClipLoss(clip * 0.5)(clips), torch.tensor([2.5, 0, 1.5]))


def test_selected_frames_count_alone():
    clip, other = torch.rand(2, 4, 3, 8, 8)
    torch.testing.assert_close(
        ClipLoss(clip).at_frames([0, 3])(other[None, [0, 3]]), ClipLoss(clip[[0, 3]])(other[None, [0, 3]])
    )


def test_a_perceptual_distance_is_added(perceptual):
    clip, other = torch.rand(2, 2, 3, 16, 16)
    distance = load_perceptual(perceptual(Squares()), 16, CPU)
    pair = torch.stack([other, clip]).requires_grad_(True)
    losses = ClipLoss(clip, perceptual=distance, perceptual_weight=3.0)(pair)
    torch.testing.assert_close(losses[0], ClipLoss(clip)(other[None])[0] + 3 * (other - clip).square().mean())
    assert losses[1] == 0
    losses.sum().backward()
    assert pair.grad[0].abs().sum() > 0


@pytest.mark.parametrize(
    ("module", "message"),
    [(Single(), "must map"), (Constant(), "not differentiable"), (torch.nn.Linear(2, 2), "fails on two pairs")],
    ids=["one-number", "constant", "one-argument"],
)
def test_other_modules_are_refused(perceptual, module, message):
    with pytest.raises(ConfigError, match=message):
        load_perceptual(perceptual(module), 16, CPU)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        load_perceptual(tmp_path / "absent", 16, CPU)
    (tmp_path / "text").write_text("no such thing")
    with pytest.raises(ConfigError, match="is not a TorchScript file"):
        load_perceptual(tmp_path / "text", 16, CPU)
