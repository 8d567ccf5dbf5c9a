"""Fast evaluation of batches of implicit neural representations, and the fused ops around a StyleGAN2 discriminator."""

from fused_inr import nn
from fused_inr.activation_storage import store_activations
from fused_inr.inr import INR, Fourier, Grid, Layer, Stage
from fused_inr.networks import mlp, mlp_jet, siren
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
from fused_inr.ops.dispatch import backend, backends
from fused_inr.render import render, render_chunks

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
    "mlp",
    "mlp_jet",
    "nn",
    "no_weight_gradients",
    "render",
    "render_chunks",
    "siren",
    "store_activations",
    "upfirdn2d",
    "upsample2d",
]
