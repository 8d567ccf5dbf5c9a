"""Ops whose kernels a backend supplies: schema, shapes and derivatives, once for all backends.

A backend registers an implementation for its device type with `torch.library.impl`. Backward passes are ops of the same
kind, so that penalties on gradients run on the same kernels.
"""
