"""The list of all cases: unique names, and every kernel in at least one of them."""

import importlib
import pkgutil

import pytest
from triton.runtime import KernelInterface

from fused_inr._backends.triton import kernels
from fused_inr.tools.triton.cases import CASES


@pytest.fixture(scope="module")
def compiled_kernels() -> set[str]:
    """Return the names of the kernels that are compiled for sm_90."""
    return {launch.kernel.__name__ for case in CASES for launch in case.launches_on("sm_90")}


def test_names_are_unique():
    assert len({case.name for case in CASES}) == len(CASES)


def test_every_kernel_is_compiled(compiled_kernels):
    modules = [
        importlib.import_module(f"{kernels.__name__}.{info.name}") for info in pkgutil.iter_modules(kernels.__path__)
    ]
    defined = {
        name
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, KernelInterface) and name.endswith("_kernel")
    }
    assert len(defined) > 20
    assert compiled_kernels == defined


def test_only_kernels_with_products_have_to_use_matrix_instructions():
    without = {"bias_act", "bias_act_slope", "upfirdn2d", "minibatch_stddev", "augment", "network_layer-first"}
    for case in CASES:
        pointwise = case.name.partition("-")[0] in without or case.name in without or case.name.endswith("-sums")
        assert bool(case.matrix_instructions) != pointwise, case.name
