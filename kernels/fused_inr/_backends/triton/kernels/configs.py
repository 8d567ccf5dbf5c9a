"""Block sizes, warps and pipeline stages of the matrix kernels, from the table `configs.json` beside this file.

The table is {architecture: {kernel: {kind: {width: options}}}}. `kind` is the type of the products (`kind_of`); `width`
is the largest number of outputs that the entry covers. Options in capitals are constants of the kernel; `num_warps` and
`num_stages` are Triton's. Nothing is tuned on the first call of a kernel: `python -m fused_inr.tools.triton tune` times
candidates on the local GPU and rewrites the table for its architecture.
"""

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

PATH = Path(__file__).with_name("configs.json")
FALLBACK = "fallback"
"""The architecture whose entries are used where the device's own has none: small blocks, which fit on every GPU."""

Table = dict[str, dict[str, dict[str, dict[str, dict[str, int]]]]]
Entry = tuple[str, str, str]
"""Kernel, kind and width of an entry of one architecture."""

_compiled_for: str | None = None
_override: dict[str, int] | None = None
_seen: set[Entry] | None = None


@functools.cache
def table() -> Table:
    """Return the shipped table."""
    return json.loads(PATH.read_text())


def kind_of(dtype: torch.dtype) -> str:
    """Return "half" (bfloat16 and float16), "tf32" where PyTorch's matrix products may round to it, or "float32"."""
    if dtype != torch.float32:
        return "half"
    # Reading the older `allow_tf32` raises if a caller has set precisions per operator.
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" and _multiplies_tf32() else "float32"


@functools.cache
def _multiplies_tf32() -> bool:
    """Return whether Triton has TF32 products on this machine's GPUs; among AMD GPUs, only gfx942 has them."""
    return not torch.version.hip or _architecture_of(None) == "gfx942"


def input_precision(dtype: torch.dtype) -> str:
    """Return `input_precision` of tl.dot for products of a type."""
    return "tf32" if kind_of(dtype) == "tf32" else "ieee"


@contextmanager
def compiling_for(architecture: str) -> Iterator[None]:
    """Treat "meta" and CPU tensors as being on an architecture, such as "sm_90", inside the `with` block."""
    global _compiled_for
    before, _compiled_for = _compiled_for, architecture
    try:
        yield
    finally:
        _compiled_for = before


@contextmanager
def using(**options: int) -> Iterator[None]:
    """Override these options in every entry that is looked up inside the `with` block."""
    global _override
    before, _override = _override, options
    try:
        yield
    finally:
        _override = before


@functools.cache
def _architecture_of(index: int | None) -> str:
    if torch.version.hip:
        return torch.cuda.get_device_properties(index).gcnArchName.split(":")[0]
    major, minor = torch.cuda.get_device_capability(index)
    return f"sm_{major}{minor}"


def architecture(device: torch.device) -> str:
    """Return the name of a device's architecture as the table spells it, whether or not the table has it."""
    if device.type == "cuda":
        return _architecture_of(device.index)
    return _compiled_for or FALLBACK


def _widths(kernel: str, dtype: torch.dtype, device: torch.device) -> dict[str, dict[str, int]]:
    """Return a kernel's entries by width, for the device's architecture or else for the fallback."""
    for name in (architecture(device), FALLBACK):
        widths = table().get(name, {}).get(kernel, {}).get(kind_of(dtype))
        if widths is not None:
            return widths
    return {}


@contextmanager
def recorded() -> Iterator[set[Entry]]:
    """Yield a set that collects every entry looked up inside the `with` block."""
    global _seen
    before, _seen = _seen, set()
    try:
        yield _seen
    finally:
        _seen = before


def _options(kernel: str, dtype: torch.dtype, widths: dict[str, dict[str, int]], limit: str) -> dict[str, int]:
    if _seen is not None:
        _seen.add((kernel, kind_of(dtype), limit))
    return {**widths[limit], **(_override or {})}


def fitting(kernel: str, dtype: torch.dtype, width: int, device: torch.device) -> dict[str, int] | None:
    """Return the options of the smallest entry that holds `width`, or None if there is none."""
    widths = _widths(kernel, dtype, device)
    limit = min((limit for limit in widths if width <= int(limit)), default=None, key=int)
    return None if limit is None else _options(kernel, dtype, widths, limit)


def chosen(kernel: str, dtype: torch.dtype, width: int, device: torch.device) -> dict[str, int]:
    """Return the options of a kernel for products in `dtype` with `width` outputs, on a device.

    Entries of the device's architecture take precedence over the fallback. The entry with the smallest width that is at
    least `width` is used, or the widest one if all are smaller.

    Raises:
        KeyError: neither architecture has an entry for this kernel and kind.
    """
    entry = fitting(kernel, dtype, width, device)
    if entry is not None:
        return entry
    widths = _widths(kernel, dtype, device)
    if not widths:
        raise KeyError(f"the table has no {kernel} of kind {kind_of(dtype)}")
    return _options(kernel, dtype, widths, max(widths, key=int))


def options(kernel: str, dtype: torch.dtype, width: int, device: torch.device) -> tuple[dict[str, int], dict[str, int]]:
    """Return the result of `chosen` in two parts: constants of the kernel and options of a `Launch`."""
    constants = chosen(kernel, dtype, width, device)
    return constants, {name: constants.pop(name) for name in ("num_warps", "num_stages")}


def text(entries: Table) -> str:
    """Return a table as the text of the JSON file, one line per entry."""

    def block(lines: list[str], indent: str) -> str:
        return "{\n" + ",\n".join(indent + "  " + line for line in lines) + "\n" + indent + "}"

    def kernel_text(kinds: dict[str, dict[str, dict[str, int]]]) -> str:
        lines = []
        for kind, widths in kinds.items():
            entry = [f"{json.dumps(width)}: {json.dumps(options)}" for width, options in widths.items()]
            inner = "{" + entry[0] + "}" if len(entry) == 1 else block(entry, " " * 6)
            lines.append(f"{json.dumps(kind)}: {inner}")
        return block(lines, " " * 4)

    architectures = [
        f"{json.dumps(name)}: "
        + block([f"{json.dumps(kernel)}: {kernel_text(kinds)}" for kernel, kinds in kernels.items()], "  ")
        for name, kernels in entries.items()
    ]
    return block(architectures, "") + "\n"
