"""The CPU backend: C++ kernels that keep a band of pixels in cache from the first layer of an INR to its last.

The kernels also compute first derivatives, except those of `render` with sine layers. These, and all higher
derivatives, are PyTorch calls (`fused_inr.composed`).
"""

from fused_inr._backends.cpu import image_ops, native, networks, render  # noqa: F401 (image_ops registers its kernels)
from fused_inr._backends.implementation import Implementation
from fused_inr.primitives import augment, bias_act, conv2d, minibatch_stddev, upfirdn2d

# Opened at import (in milliseconds), because torch.compile can trace a constant but not the opening of a library.
_STATUS = native.load()[1]


def status() -> str:
    """Return "ready", or the reason why the compiled library cannot be used."""
    return _STATUS


KERNELS = {
    "render": Implementation(render.supports, render.render, render.memory),
    "mlp": Implementation(networks.supports, networks.mlp),
    "mlp_jet": Implementation(networks.supports, networks.mlp_jet),
    "bias_act": Implementation(bias_act.supports, bias_act.bias_act),
    "conv2d": Implementation(conv2d.supports, conv2d.conv2d),
    "upfirdn2d": Implementation(upfirdn2d.supports, upfirdn2d.upfirdn2d),
    "minibatch_stddev": Implementation(minibatch_stddev.supports, minibatch_stddev.minibatch_stddev),
    "augment": Implementation(augment.supports, augment.augment),
}
