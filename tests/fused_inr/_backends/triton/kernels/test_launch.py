"""Launches: their options, their order, and sizes rounded up."""

import torch

from fused_inr._backends.triton.kernels.launch import WARPS, Launch, cdiv, power_of_two, run


class Recorder:
    """Record the grid and the arguments of every launch."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def __getitem__(self, grid: tuple[int, ...]):
        return lambda **arguments: self.calls.append((grid, arguments))


def test_arguments_and_options_reach_the_kernel(device):
    kernel = Recorder()
    launches = [Launch(kernel, 3, {"size": 5}), Launch(kernel, 2, {"size": 7}, num_warps=8, num_stages=1)]
    run(launches, torch.device(device))
    assert kernel.calls == [
        ((3,), {"size": 5, "num_warps": WARPS}),
        ((2,), {"size": 7, "num_warps": 8, "num_stages": 1}),
    ]


def test_nothing_is_launched_without_programs(device):
    kernel = Recorder()
    run([Launch(kernel, 0, {})], torch.device(device))
    assert kernel.calls == []


def test_sizes_are_rounded_up():
    assert [power_of_two(size) for size in (0, 1, 2, 3, 64, 65)] == [1, 1, 2, 4, 64, 128]
    assert [cdiv(a, 4) for a in (0, 1, 4, 5, (1 << 40) + 1)] == [0, 1, 1, 2, (1 << 38) + 1]
