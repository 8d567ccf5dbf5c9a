"""Streams of random numbers: a function of seed, iteration and phase."""

import itertools

import torch

from digan.randomness import Phase, stream


def test_a_stream_depends_on_its_arguments_alone():
    torch.manual_seed(1)
    first = torch.rand(4, generator=stream(3, 5, Phase.R1))
    torch.manual_seed(2)
    assert torch.equal(first, torch.rand(4, generator=stream(3, 5, Phase.R1)))


def test_streams_of_other_arguments_differ():
    keys = itertools.product((0, 1, 2**40), (0, 1), Phase)
    values = [torch.rand(4, generator=stream(*key)) for key in keys]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(values, 2))
