"""Fast evaluation of batches of implicit neural representations, and the fused ops around a StyleGAN2 discriminator."""

# The function `backends` takes the place of the subpackage of that name as an attribute; `from fused_inr.backends
# import ...` reaches the subpackage.
from fused_inr.activations import store_activations
from fused_inr.backends import backend, backends
from fused_inr.inr import INR, Fourier, Grid, Layer, Stage
from fused_inr.ops import (
    augment,
    bias_act,
    conv2d,
    downsample2d,
    fmm_weight,
    minibatch_stddev,
    no_weight_gradients,
    upfirdn2d,
    upsample2d,
)
from fused_inr.render import render, render_chunks, siren

__version__ = "0.1.0"

__all__ = [
    "INR",
    "Fourier",
    "Grid",
    "Layer",
    "Stage",
    "__version__",
    "augment",
    "backend",
    "backends",
    "bias_act",
    "conv2d",
    "downsample2d",
    "fmm_weight",
    "minibatch_stddev",
    "no_weight_gradients",
    "render",
    "render_chunks",
    "siren",
    "store_activations",
    "upfirdn2d",
    "upsample2d",
]
