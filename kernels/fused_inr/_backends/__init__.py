"""The backends: kernels and their launch code, one folder per backend; `fused_inr.ops.dispatch` selects one."""
