"""Ahead-of-time compilation of the CUDA kernels and a table of their resources."""
