"""Minibatch standard deviation (Progressive GAN, ICLR 2018, in the grouped form of StyleGAN2)."""

from torch import Tensor

from fused_inr import checks
from fused_inr.ops.dispatch import call


def minibatch_stddev(x: Tensor, group_size: int = 4, channels: int = 1) -> Tensor:
    """Append channels that hold the standard deviation over a group of samples.

    Groups have G = min(group_size, N) samples; sample i is in group i % (N / G). The channels of x are split into
    `channels` runs of adjacent channels. Each run yields one constant plane: the mean over the run and the pixels of
    sqrt(variance over the group + 1e-8). Statistics are float32 (float64 for float64 x). Differentiable to any order.

    Args:
        x: `[N, C, H, W]` floating point.
        group_size: samples per group, >= 1.
        channels: planes to append, >= 1; must divide C.

    Returns:
        `[N, C + channels, H, W]` with the dtype of x.

    Raises:
        ValueError: N is not a multiple of G, C is not a multiple of `channels`, `group_size` or `channels` is less than
            1, or x is not floating point `[N, C, H, W]`.
    """
    checks.floating("minibatch_stddev", "x", x, "N, C, H, W")
    group_size = checks.integer("minibatch_stddev", "group_size", group_size, 1)
    channels = checks.integer("minibatch_stddev", "channels", channels, 1)
    if x.shape[1] % channels:
        raise ValueError(f"minibatch_stddev channels must divide the {x.shape[1]} channels of x; {channels} does not.")
    group = max(1, min(group_size, x.shape[0]))
    if x.shape[0] % group:
        raise ValueError(
            f"minibatch_stddev needs a batch that is a multiple of its group size {group}, not {x.shape[0]} samples; "
            "change the batch or group_size."
        )
    shape = (x.shape[0], x.shape[1] + channels, *x.shape[2:])
    checks.result("minibatch_stddev", shape, x.dtype, "x or channels")
    return call("minibatch_stddev", x.device.type, (x, group, channels))
