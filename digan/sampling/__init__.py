"""Clips from a generator, and the files made of them."""
