"""Networks evaluated at points."""

from fused_inr.ops.siren import siren

__all__ = ["siren"]
