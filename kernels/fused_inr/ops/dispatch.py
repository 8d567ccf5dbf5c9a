"""The backends: which exist, whether they can run here, and which one serves a call.

A backend is a module `fused_inr._backends.<name>` that exposes

    status() -> str                  "ready", or one line saying why it cannot run; asked at every call, so remembered
    KERNELS: dict[str, Implementation]       op name -> Implementation

and is plugged in by existing: its name is already in `DEVICES`. Importing it must neither compile nor need a device,
because `import fused_inr` does it. Ops call `call`, everyone else asks `backends`, `backend` and `service`.
"""

import contextvars
import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fused_inr import peak_memory, reference
from fused_inr._backends.implementation import Implementation
from fused_inr.ops.precision import autocast_enabled

READY = "ready"

# Fastest first: the order in which backends are asked. The value is the device type whose tensors a backend takes.
DEVICES: dict[str, str | None] = {"cuda": "cuda", "triton": "cuda", "cpu": "cpu", "reference": None}


def _always(*args: Any) -> tuple[bool, str]:
    return True, ""


_REFERENCE: dict[str, Implementation] = {
    "render": Implementation(_always, reference.render, peak_memory.reference_render_memory),
    "siren": Implementation(_always, reference.siren),
    "fmm_weight": Implementation(_always, reference.fmm_weight),
    "bias_act": Implementation(_always, reference.bias_act),
    "conv2d": Implementation(_always, reference.conv2d),
    "upfirdn2d": Implementation(_always, reference.upfirdn2d),
    "minibatch_stddev": Implementation(_always, reference.minibatch_stddev),
    "augment": Implementation(_always, reference.augment),
}

OPS = tuple(_REFERENCE)


def _plugged_in() -> dict[str, Any]:
    modules = {name: f"fused_inr._backends.{name}" for name in DEVICES if name != "reference"}
    return {
        name: importlib.import_module(module)
        for name, module in modules.items()
        if importlib.util.find_spec(module) is not None
    }


_modules = _plugged_in()


def _kernels(name: str) -> dict[str, Implementation]:
    if name == "reference":
        return _REFERENCE
    return _modules[name].KERNELS if name in _modules else {}


def _requirement(name: str) -> str | None:
    """Return what this machine lacks for a backend, or None; does not ask whether the backend has kernels."""
    if name == "triton" and importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if name == "cuda" and not torch.backends.cuda.is_built():
        return "this PyTorch is built without CUDA"
    if DEVICES[name] == "cuda" and not torch.cuda.is_available():
        return "no CUDA device"
    return None


def _status(name: str) -> str:
    if name == "reference":
        return READY
    if name in _modules:
        return _modules[name].status()
    return _requirement(name) or f"this version of fused_inr has no {name} kernels"


def backends() -> dict[str, str]:
    """Return the state of every backend on this machine: "ready", or one line saying why it cannot run.

    Returns:
        {"reference": "ready", "cpu": ..., "triton": ..., "cuda": ...}
    """
    return {name: _status(name) for name in reversed(DEVICES)}


# Dynamo cannot trace a ContextVar, and does not guard a thread-local. It does guard a plain global: compiled code
# reads this one, which holds the choice made last in any thread, and is compiled again when it changes.
_choice: contextvars.ContextVar[str | None] = contextvars.ContextVar("fused_inr_backend", default=None)
_open_choices: dict[object, str] = {}  # of all threads, in the order they were made
_compiled_choice: str | None = None


def _chosen() -> str | None:
    return _compiled_choice if torch.compiler.is_compiling() else _choice.get()


def _require_ready(name: str) -> None:
    if name not in DEVICES:
        raise ValueError(f"backend must be one of {', '.join(reversed(DEVICES))}, not {name!r}.")
    status = _status(name)
    if status != READY:
        raise RuntimeError(f"Backend {name!r} was asked for but cannot run: {status}.")


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Run every op inside the `with` block on one backend, for example `with fi.backend("reference"): ...`.

    The choice belongs to the current context (thread, asyncio task). Enter it outside of functions given to
    `torch.compile`; compiled code sees the choice made last in any thread.

    Raises:
        ValueError: no backend has this name.
        RuntimeError: the backend cannot run on this machine. A call inside the block that the backend does not
            support raises it too; nothing falls back silently.
    """
    global _compiled_choice
    _require_ready(name)
    token, key = _choice.set(name), object()
    _open_choices[key] = _compiled_choice = name
    try:
        yield
    finally:
        _choice.reset(token)
        del _open_choices[key]
        _compiled_choice = next(reversed(_open_choices.values()), None)


def _refusal(name: str, op: str, device: str, args: tuple) -> str | None:
    """Return why a ready backend does not serve a call, or None if it does."""
    kernel = _kernels(name).get(op)
    if kernel is None:
        return f"it has no kernel for {op}"
    if DEVICES[name] not in (None, device):
        return f"it takes tensors on {DEVICES[name]}, not on {device}"
    ok, reason = kernel.supports(*args)
    return None if ok else reason


def select(op: str, device: str, args: tuple, backend: str | None = None) -> Implementation:
    """Return the implementation that serves a call: of the requested backend, else of the fastest that supports it.

    Args:
        op: one of `OPS`.
        device: type of the device the call's tensors are on, such as "cpu".
        args: the op's arguments.
        backend: an explicit choice, which takes precedence over `with backend(...)`.

    Raises:
        RuntimeError: the backend asked for cannot serve this call; the message says why.
    """
    name = backend or _chosen()
    if name is not None:
        _require_ready(name)
        refusal = _refusal(name, op, device, args)
        if refusal is not None:
            raise RuntimeError(f"Backend {name!r} was asked for but cannot run this {op}: {refusal}.")
        return _kernels(name)[op]
    yielding = None
    for candidate in DEVICES:
        # The cheap question first: on a machine without the device, its driver is never asked.
        if op in _kernels(candidate) and _refusal(candidate, op, device, args) is None and _status(candidate) == READY:
            kernel = _kernels(candidate)[op]
            if kernel.preferred is not None and not kernel.preferred(*args):
                yielding = yielding or kernel
            else:
                return yielding if yielding and candidate == "reference" else kernel
    raise AssertionError(f"the reference serves every op, {op} included")


def call(op: str, device: str, args: tuple, backend: str | None = None) -> Any:
    """Run an op on the backend that serves it, with autocast off, as ops choose their own precision."""
    run = select(op, device, args, backend).run
    if not autocast_enabled(device):
        return run(*args)
    with torch.autocast(device, enabled=False):
        return run(*args)


def service(device: str) -> dict[str, tuple[str, dict[str, str]]]:
    """Return which backend serves which op on a device type, and why the faster ones do not.

    Returns:
        op -> (backend, {faster backend: reason}). A backend that serves an op may still decline single calls.
    """
    answer = {}
    for op in OPS:
        reasons: dict[str, str] = {}
        for name in DEVICES:
            if DEVICES[name] not in (None, device):
                continue
            status = _status(name)
            if status == READY and op in _kernels(name):
                answer[op] = (name, reasons)
                break
            reasons[name] = status if status != READY else f"it has no kernel for {op}"
    return answer
