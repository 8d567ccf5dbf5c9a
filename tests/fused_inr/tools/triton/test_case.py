"""Cases: launches for an architecture, launches that compile differently, and the type of products."""

import pytest
import torch

from fused_inr._backends.triton.kernels import configs
from fused_inr._backends.triton.kernels.launch import Launch
from fused_inr.tools.triton.case import Case, differing, products_in


def test_launches_are_those_of_the_target():
    case = Case("architecture", lambda: [configs.architecture(torch.device("meta"))])
    assert case.launches_on("gfx942") == ["gfx942"]
    assert case.launches() == [configs.FALLBACK]


def launch(kernel: object = None, warps: int = 4, **arguments: object) -> Launch:
    x = torch.empty(4, device="meta")
    return Launch(kernel, 1, {"x": x, "size": 32, "bias": None, "BLOCK": 64} | arguments, num_warps=warps)


SAME = {
    "another-size-divisible-by-16": launch(size=48),
    "another-tensor": launch(x=torch.empty(5, 2, device="meta")),
    "another-float": launch(gain=2.0),
}
DIFFERENT = {
    "kernel": launch(kernel="other"),
    "warps": launch(warps=8),
    "type": launch(x=torch.empty(4, device="meta", dtype=torch.float16)),
    "constant": launch(BLOCK=32),
    "optional-tensor": launch(bias=torch.empty(4, device="meta")),
    "not-divisible-by-16": launch(size=33),
    "size-1": launch(size=1),
    "64-bit-size": launch(size=1 << 31),
}


@pytest.mark.parametrize("name", SAME)
def test_launches_of_one_compiled_kernel_are_merged(name):
    first = launch(gain=1.0) if name == "another-float" else launch()
    assert differing([first, SAME[name]]) == [first]


@pytest.mark.parametrize("name", DIFFERENT)
def test_launches_that_compile_differently_are_kept(name):
    first = launch()
    assert differing([first, DIFFERENT[name], first]) == [first, DIFFERENT[name]]


def test_the_type_of_products_ends_with_its_block():
    before = torch.backends.cuda.matmul.fp32_precision
    for kind, dtype, product in (
        ("bfloat16", torch.bfloat16, "half"),
        ("float16", torch.float16, "half"),
        ("tf32", torch.float32, "tf32"),
        ("float32", torch.float32, "float32"),
    ):
        with products_in(kind) as actual:
            assert actual == dtype
            assert configs.kind_of(actual) == product
    with pytest.raises(KeyError), products_in("tf32"):
        raise KeyError
    assert torch.backends.cuda.matmul.fp32_precision == before
