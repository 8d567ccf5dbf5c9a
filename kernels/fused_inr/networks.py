"""Networks that are evaluated at points instead of grids."""

from fused_inr.ops.mlp import mlp, mlp_jet, siren

__all__ = ["mlp", "mlp_jet", "siren"]
