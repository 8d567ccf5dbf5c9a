"""Tables of the CUDA kernels compiled ahead of time."""
