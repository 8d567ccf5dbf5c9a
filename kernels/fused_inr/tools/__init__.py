"""Measuring and tuning the kernels, for developers of the package; `import fused_inr` imports none of it."""
