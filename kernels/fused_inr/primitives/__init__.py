"""PyTorch ops whose kernels come from the backends: schemas, shapes and derivatives, defined once for all backends.

A backend registers an implementation for its device type with `torch.library.impl`. Backward passes are ops too, so
that gradient penalties run on the same kernels.
"""
