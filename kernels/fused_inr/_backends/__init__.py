"""The backends: kernels and their launches, one folder for each. `fused_inr.ops.dispatch` chooses among them."""
