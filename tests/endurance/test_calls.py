"""A few hundred calls of `fused_inr` with odd arguments, in a process that may crash."""

import fused_inr as fi
from tests.endurance import calls, trials


def test_every_function_of_tensors_is_drawn():
    classes = {name for name in fi.__all__ if isinstance(getattr(fi, name), type)}
    without_tensors = {"__version__", "backend", "backends", "nn", "no_weight_gradients", "store_activations"}
    assert set(calls.ARGUMENTS) == set(fi.__all__) - classes - without_tensors


def test_calls():
    outcomes = trials.run("calls", 300, chunk=100)
    assert not outcomes.failures, outcomes.table()
    assert {name.split()[1] for name in outcomes.counts} == {"agrees", "refused", "declined"}
