"""The Triton kernels and the code that launches them. Importing these modules imports Triton."""
