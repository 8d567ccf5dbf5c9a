"""Checks of arguments. An error is one sentence with the function, the argument, its value and what is accepted."""

import math
import numbers
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

FLOATING_TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INTEGER_TYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
LARGEST = 2**31 - 1  # kernels take sizes, steps and paddings as 32-bit integers
MAX_BYTES = 2**46  # largest result: half of a process's 47-bit address space
_INTEGERS: Any = (int, torch.SymInt, numbers.Integral)
_NUMBERS: Any = (int, float, torch.SymFloat, numbers.Real)


def described(value: Any) -> str:
    """Return how errors show a value: a tensor by dtype and shape, a plain value by its `repr`, others by type name."""
    if isinstance(value, Tensor):
        layout = "" if value.layout == torch.strided else f"{value.layout} "
        return f"{layout}{value.dtype} {list(value.shape)}"
    if value is None or isinstance(value, (bool, int, float, str, torch.dtype)):
        return repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:80]}..."
    return type(value).__name__


def floating(owner: str, name: str, value: Any, axes: str = "") -> None:
    """Check that a value is a dense floating-point tensor.

    Args:
        owner, name: the function and the argument, for the error.
        value: the argument.
        axes: its axes, such as "N, C, H, W"; empty for any.

    Raises:
        ValueError: it is not.
    """
    valid = isinstance(value, Tensor) and value.layout == torch.strided and value.dtype in FLOATING_TYPES
    if not valid or (axes and value.ndim != len(axes.split(","))):
        expected = f"floating point [{axes}]" if axes else "a floating-point tensor"
        raise ValueError(f"{owner} {name} must be {expected}, not {described(value)}.")


def tensors(owner: str, name: str, value: Any) -> list:
    """Return a sequence of tensors as a list; the caller checks its entries.

    Raises:
        ValueError: it is a tensor or not a sequence.
    """
    if isinstance(value, (Tensor, str)) or not isinstance(value, Iterable):
        raise ValueError(f"{owner} {name} must be a list of tensors, not {described(value)}.")
    return list(value)


def on_one_device(owner: str, **tensors: Tensor | None) -> None:
    """Check that tensors are on the device of the first one; None stands for a tensor that is left out.

    Raises:
        ValueError: one is on another device.
    """
    (first, like), *others = tensors.items()
    for name, value in others:
        if value is not None and value.device != like.device:
            raise ValueError(
                f"{owner} {name} is on {value.device} but {first} on {like.device}; move it with .to({first}.device)."
            )


def integer(owner: str, name: str, value: Any, low: int, high: int = LARGEST) -> int:
    """Return an integer argument as an int.

    Raises:
        ValueError: it is not an integer from `low` to `high`.
    """
    if not isinstance(value, _INTEGERS) or value < low:
        raise ValueError(f"{owner} {name} must be an integer of at least {low}, not {_short(value)}.")
    if value > high:
        raise ValueError(f"{owner} {name} must be an integer of at most {high}, not {_short(value)}.")
    symbolic = isinstance(value, torch.SymInt)
    return value if symbolic else int(value)


def integers(
    owner: str, name: str, value: Any, low: int, lengths: Sequence[int], expected: str, high: int = LARGEST
) -> tuple[int, ...]:
    """Return a sequence of integers as a tuple; a single integer stands for two.

    Args:
        owner, name, value: as for `floating`.
        low, high: the smallest and the largest value of an entry.
        lengths: the accepted numbers of entries.
        expected: what the error says is accepted.

    Raises:
        ValueError: an entry is not an integer from `low` to `high`, or their number is not in `lengths`.
    """
    entries = value if isinstance(value, Sequence) else (value, value)
    if len(entries) not in lengths or not all(isinstance(entry, _INTEGERS) for entry in entries):
        raise ValueError(f"{owner} {name} must be {expected}, not {_short(value)}.")
    return tuple(integer(owner, name, entry, low, high) for entry in entries)


def number(owner: str, name: str, value: Any, low: float = -math.inf) -> float:
    """Return a real number as a float.

    Raises:
        ValueError: it is not a finite number of at least `low`.
    """
    if not isinstance(value, _NUMBERS) or not abs(value) <= sys.float_info.max:
        raise ValueError(f"{owner} {name} must be a finite number, not {_short(value)}.")
    if value < low:
        raise ValueError(f"{owner} {name} must be at least {low}, not {value}.")
    return float(value)


def flag(owner: str, name: str, value: Any) -> bool:
    """Return a boolean argument.

    Raises:
        ValueError: it is not True or False.
    """
    if not isinstance(value, int) or value not in (True, False):
        raise ValueError(f"{owner} {name} must be True or False, not {_short(value)}.")
    return bool(value)


def choice(owner: str, name: str, value: Any, choices: Iterable[str]) -> None:
    """Check that a value is one of the names.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{owner} {name} must be one of {', '.join(choices)}, not {_short(value)}.")


def agree(message: str, values: Iterable[Any]) -> None:
    """Check that values are equal. They may be the symbolic sizes of `torch.export`, which cannot be hashed.

    Args:
        message: the error, to which the different values are appended.
        values: the values.

    Raises:
        ValueError: they are not.
    """
    different: list[Any] = []
    for value in values:
        if not any(value == other for other in different):
            different.append(value)
    if len(different) > 1:
        shown = sorted(str(value) if isinstance(value, torch.device) else value for value in different)
        raise ValueError(f"{message} {shown}.")


def batch(owner: str, tensors: Iterable[Tensor]) -> int:
    """Return N, the size of the first axis of tensors in which 1 means that all share the tensor.

    Raises:
        ValueError: the tensors do not agree.
    """
    sizes = [tensor.shape[0] for tensor in tensors if tensor.shape[0] != 1]
    agree(f"{owner} must agree in N (or be shared, 1), not have", sizes)
    return sizes[0] if sizes else 1


def result(owner: str, shape: Iterable[int], dtype: torch.dtype, arguments: str) -> None:
    """Check that a result can exist in memory.

    Args:
        owner: the function, for the error.
        shape, dtype: of the result.
        arguments: the arguments that determine its size, for the error.

    Raises:
        ValueError: it would take more than `MAX_BYTES`.
    """
    sizes = list(shape)
    if any(isinstance(size, torch.SymInt) for size in sizes):  # torch.export: nothing is allocated
        return
    if math.prod(sizes) * dtype.itemsize > MAX_BYTES:
        raise ValueError(f"{owner}: a result of shape {sizes} exceeds all memory; use smaller {arguments}.")


def _short(value: Any) -> str:
    """Return how errors show a value that should not be a tensor: its `repr`, or the result of `described` if long."""
    text = repr(value)
    return described(value) if isinstance(value, Tensor) or len(text) > 80 else text
