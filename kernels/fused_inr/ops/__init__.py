"""The ops, one file per family: the public functions, their argument checks and the call of a backend."""

from fused_inr.ops.augment import augment
from fused_inr.ops.bias_act import bias_act
from fused_inr.ops.conv2d import conv2d, no_weight_gradients
from fused_inr.ops.fmm import fmm_weight
from fused_inr.ops.minibatch_stddev import minibatch_stddev
from fused_inr.ops.mlp import mlp, mlp_jet, siren
from fused_inr.ops.render import render, render_memory
from fused_inr.ops.upfirdn2d import downsample2d, upfirdn2d, upsample2d

__all__ = [
    "augment",
    "bias_act",
    "conv2d",
    "downsample2d",
    "fmm_weight",
    "minibatch_stddev",
    "mlp",
    "mlp_jet",
    "no_weight_gradients",
    "render",
    "render_memory",
    "siren",
    "upfirdn2d",
    "upsample2d",
]
