"""Tools that measure and tune the kernels, for developers; `import fused_inr` does not import them."""
