"""Ahead-of-time compilation of the Triton kernels, a table of their resources, and tuning of their block sizes."""
