"""Every backend's implementations take the arguments of the op in `reference`."""

import importlib
import inspect

import pytest

from fused_inr import reference
from fused_inr._backends.implementation import Implementation
from fused_inr.ops.dispatch import OPS

BACKENDS = ("cpu", "triton", "cuda")


def implementations() -> list[tuple[str, str]]:
    modules = {name: importlib.import_module(f"fused_inr._backends.{name}") for name in BACKENDS}
    return [(name, op) for name, module in modules.items() for op in module.KERNELS]


@pytest.mark.parametrize(("backend", "op"), implementations(), ids=str)
def test_functions_take_the_arguments_of_the_reference(backend, op):
    assert op in OPS
    kernel = importlib.import_module(f"fused_inr._backends.{backend}").KERNELS[op]
    parameters = inspect.signature(getattr(reference, op)).parameters.values()
    # A residual is passed by keyword or not at all.
    arguments = [parameter.name for parameter in parameters if op != "bias_act" or parameter.name != "residual"]
    for function in (kernel.run, kernel.supports, kernel.memory, kernel.preferred):
        if function is not None:
            inspect.signature(function).bind(*arguments)


def test_memory_and_preference_are_optional():
    kernel = Implementation(supports=lambda: (True, ""), run=lambda: None)
    assert (kernel.memory, kernel.preferred) == (None, None)
