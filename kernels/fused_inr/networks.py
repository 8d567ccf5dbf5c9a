"""Networks that are evaluated at points instead of grids."""

from fused_inr.ops.siren import siren

__all__ = ["siren"]
