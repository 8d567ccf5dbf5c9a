"""Tables of the Triton kernels compiled ahead of time, and the search for their block sizes."""
