"""DiffAugment against straightforward loops, with the same draw for both frames of a clip."""

import itertools

import pytest
import torch

import fused_inr as fi
from digan.training.augment import AugmentDraw, apply_augment, augment_motion_input, draw_augment

N, T, C, H, W = 6, 2, 3, 17, 24
TOLERANCE = 1e-6  # the loops do the same float32 arithmetic in another order


@pytest.fixture
def frames():
    return torch.randn(N, T, C, H, W, generator=torch.Generator().manual_seed(1))


def draw(policy, seed=0, n=N):
    return draw_augment(policy, n, torch.Generator().manual_seed(seed))


def color(image, brightness, saturation, contrast):
    """One frame [C, H, W]; the arguments are uniform in [0, 1)."""
    image = image + (brightness - 0.5)
    grey = image.mean(dim=0)
    image = torch.stack([(channel - grey) * (2 * saturation) + grey for channel in image])
    return (image - image.mean()) * (contrast + 0.5) + image.mean()


def translate(image, down, right):
    out = torch.zeros_like(image)
    for i in range(H):
        for j in range(W):
            if 0 <= i - down < H and 0 <= j - right < W:
                out[:, i, j] = image[:, i - down, j - right]
    return out


def test_color_matches_loop(frames):
    d = draw("color")
    out = apply_augment(frames, d)
    for n in range(N):
        amounts = [d.uniforms[name][n, 0] for name in ("brightness", "saturation", "contrast")]
        for t in range(T):
            torch.testing.assert_close(out[n, t], color(frames[n, t], *amounts), rtol=0, atol=TOLERANCE * 10)


def test_translation_is_an_integer_shift_with_zeros_outside(frames):
    out = apply_augment(frames, draw("translation"))
    limit_h, limit_w = int(H / 8 + 0.5), int(W / 8 + 0.5)
    for n in range(N):
        shifts = [
            (down, right)
            for down in range(-limit_h, limit_h + 1)
            for right in range(-limit_w, limit_w + 1)
            if torch.equal(out[n, 0], translate(frames[n, 0], down, right))
        ]
        assert len(shifts) == 1
        assert torch.equal(out[n, 1], translate(frames[n, 1], *shifts[0]))


def test_translation_reaches_every_shift_equally():
    n, size = 9000, 16  # up to 2 pixels each way: 5 shifts of equal probability
    frames = torch.arange(1.0, size + 1).view(1, 1, 1, 1, size).expand(n, 1, 1, size, size)
    middle = apply_augment(frames, draw("translation", n=n))[:, 0, 0, size // 2, size // 2]
    counts = torch.bincount((middle - (size // 2 + 1)).long() + 2, minlength=5)
    assert len(counts) == 5
    assert (counts / n - 0.2).abs().max() < 0.02  # 4.7 standard deviations


def test_cutout_zeroes_a_half_size_square(frames):
    frames = frames.abs() + 1
    out = apply_augment(frames, draw("cutout"))
    for n in range(N):
        hole = out[n, 0, 0] == 0
        rows, columns = hole.any(dim=1), hole.any(dim=0)
        assert torch.equal(hole, rows[:, None] & columns[None])
        for t in range(T):
            assert torch.equal(out[n, t], frames[n, t] * ~hole)
        # The square's centre lies on the frame, so at least about half of each side is covered.
        assert H // 4 <= rows.sum() <= int(H / 2 + 0.5)
        assert W // 4 <= columns.sum() <= int(W / 2 + 0.5)


@pytest.mark.parametrize("size", [16, 17])  # squares of 8 and of 9 pixels
def test_cutout_reaches_every_place_equally(size):
    n, side = 9000, int(size / 2 + 0.5)
    # The square's centre is any pixel, or, for an even side, any corner between pixels.
    starts = [centre - side // 2 for centre in range(size + 1 - side % 2)]
    holes = [tuple(max(0, start) <= i < start + side for i in range(size)) for start in starts]
    out = apply_augment(torch.ones(n, 1, 1, size, size), draw("cutout", n=n))
    for hidden in ((out == 0).any(dim=3), (out == 0).any(dim=4)):  # rows, columns
        found = [tuple(row) for row in hidden[:, 0, 0].tolist()]
        shares = torch.tensor([found.count(hole) / n for hole in holes])
        assert shares.sum() == pytest.approx(1)
        assert (shares - 1 / len(holes)).abs().max() < 0.013  # 5 standard deviations


@pytest.mark.parametrize("policy", ["color", "translation", "cutout", "color,translation,cutout"])
def test_frames_of_a_clip_share_the_draw_and_clips_do_not(frames, policy):
    same = frames[:1, :1].abs().expand(N, T, -1, -1, -1) + 1
    out = apply_augment(same, draw(policy))
    assert torch.equal(out[:, 0], out[:, 1])
    assert not torch.equal(out[0], out[1])


def test_empty_policy_is_identity(frames):
    assert apply_augment(frames, draw("")) is frames


ORDERS = [",".join(order) for k in (2, 3) for order in itertools.permutations(["color", "translation", "cutout"], k)]


@pytest.mark.parametrize("policy", ORDERS)
def test_policies_run_in_the_order_given(frames, policy):
    d = draw(policy)
    expected = frames
    for name in policy.split(","):
        part = AugmentDraw({operation: d.uniforms[operation] for operation in draw(name).uniforms})
        expected = apply_augment(expected, part)
    assert torch.equal(apply_augment(frames, d), expected)


@pytest.mark.parametrize("policy", ORDERS)
def test_every_order_takes_as_few_calls_as_it_can(frames, policy, monkeypatch):
    calls = []
    augment = fi.augment
    monkeypatch.setattr(fi, "augment", lambda *args, **options: calls.append(options) or augment(*args, **options))
    apply_augment(frames, draw(policy))
    assert len(calls) == (2 if policy.split(",")[1:-1] == ["color"] else 1)


def test_shards_make_up_the_batch(frames):
    d = draw("color,translation,cutout")
    whole = apply_augment(frames, d)
    for s in range(3):
        torch.testing.assert_close(
            apply_augment(frames[s::3], d.select(slice(s, None, 3))), whole[s::3], rtol=0, atol=TOLERANCE
        )


def test_draw_depends_on_its_generator_alone():
    torch.manual_seed(1)
    a = draw("color,translation", seed=3)
    torch.manual_seed(2)
    b = draw("color,translation", seed=3)
    assert all(torch.equal(a.uniforms[name], b.uniforms[name]) for name in a.uniforms)
    assert not torch.equal(a.uniforms["brightness"], draw("color,translation", seed=4).uniforms["brightness"])


def test_time_plane_of_the_motion_input_is_untouched(frames):
    clip = torch.cat([frames.flatten(1, 2), torch.rand(N, 1, H, W)], dim=1)
    d = draw("color,translation,cutout")
    out = augment_motion_input(clip, d)
    assert torch.equal(out[:, 6], clip[:, 6])
    assert torch.equal(out[:, :6], apply_augment(frames, d).flatten(1, 2))


def test_gradients_to_second_order():
    frames = torch.randn(2, 2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    d = draw("color,translation,cutout", n=2)
    gradcheck = torch.autograd.gradcheck
    assert gradcheck(lambda x: apply_augment(x, d), [frames], fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: apply_augment(x, d).square(), [frames], fast_mode=True)


@pytest.mark.parametrize("policy", ["colour", "color,color", "color,,cutout"])
def test_bad_policy_names_the_flag(policy):
    with pytest.raises(ValueError, match="--aug"):
        draw(policy)


def test_draw_of_another_batch_size(frames):
    with pytest.raises(ValueError, match="drawn for 5 clips"):
        apply_augment(frames, draw("color", n=5))
