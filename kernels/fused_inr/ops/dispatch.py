"""The backends: which exist, whether they can run here, and which one serves a call.

A backend is a module `fused_inr._backends.<name>` that exposes

    status() -> str                      "ready", or one line that says why it cannot run; must be cheap, as every call
                                         evaluates it
    KERNELS: dict[str, Implementation]   implementations by op name

Its name must be in `DEVICES`; a module that exists is used. `import fused_inr` imports the backends, so importing one
must neither compile anything nor need a device. Ops use `call`; other code uses `backends`, `backend` and `service`.
"""

import contextvars
import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fused_inr import checks, peak_memory, reference
from fused_inr._backends.implementation import Implementation
from fused_inr.ops.precision import autocast_enabled

READY = "ready"

# Backends in the order in which they are tried, fastest first, with the device type of the tensors that they take.
DEVICES: dict[str, str | None] = {"cuda": "cuda", "triton": "cuda", "cpu": "cpu", "reference": None}


def _always(*args: Any) -> tuple[bool, str]:
    return True, ""


_REFERENCE: dict[str, Implementation] = {
    "render": Implementation(_always, reference.render, peak_memory.reference_render_memory),
    "mlp": Implementation(_always, reference.mlp),
    "mlp_jet": Implementation(_always, reference.mlp_jet),
    "fmm_weight": Implementation(_always, reference.fmm_weight),
    "bias_act": Implementation(_always, reference.bias_act),
    "conv2d": Implementation(_always, reference.conv2d),
    "upfirdn2d": Implementation(_always, reference.upfirdn2d),
    "minibatch_stddev": Implementation(_always, reference.minibatch_stddev),
    "augment": Implementation(_always, reference.augment),
}

OPS = tuple(_REFERENCE)


def _import_backends() -> dict[str, Any]:
    modules = {name: f"fused_inr._backends.{name}" for name in DEVICES if name != "reference"}
    return {
        name: importlib.import_module(module)
        for name, module in modules.items()
        if importlib.util.find_spec(module) is not None
    }


_modules = _import_backends()


def _kernels(name: str) -> dict[str, Implementation]:
    if name == "reference":
        return _REFERENCE
    return _modules[name].KERNELS if name in _modules else {}


def _requirement(name: str) -> str | None:
    """Return what this machine lacks for a backend, or None; ignores whether the backend has kernels."""
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
    """Return the status of every backend on this machine.

    Returns:
        {"reference": "ready", "cpu": ..., "triton": ..., "cuda": ...}; each value is "ready" or one line that says why
        the backend cannot run.
    """
    return {name: _status(name) for name in reversed(DEVICES)}


# Dynamo can neither trace a ContextVar nor guard a thread-local, but it guards a plain global. Compiled code therefore
# reads `_compiled_choice`, the most recent choice of any thread, and is recompiled when it changes.
_choice: contextvars.ContextVar[str | None] = contextvars.ContextVar("fused_inr_backend", default=None)
_open_choices: dict[object, str] = {}  # of all threads, oldest first
_compiled_choice: str | None = None


def chosen() -> str | None:
    """Return the backend of the innermost `with backend(...)` around this call; None outside of all."""
    return _compiled_choice if torch.compiler.is_compiling() else _choice.get()


def _require_ready(name: str) -> None:
    if not isinstance(name, str) or name not in DEVICES:
        raise ValueError(f"backend must be one of {', '.join(reversed(DEVICES))}, not {checks.described(name)}.")
    status = _status(name)
    if status != READY:
        raise RuntimeError(f"Backend {name!r} was requested but cannot run: {status}.")


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Run every op inside the `with` block on one backend, for example `with fi.backend("reference"): ...`.

    The choice applies to the current context (thread or asyncio task). Enter the block outside of functions passed to
    `torch.compile`; compiled code sees the most recent choice of any thread.

    Args:
        name: a key of `fi.backends()`.

    Raises:
        ValueError: no backend has this name.
        RuntimeError: the backend cannot run on this machine. Calls inside the block that the backend does not support
            raise it too; nothing falls back silently.
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
    """Return the reason why a ready backend does not serve a call, or None if it does."""
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
        ValueError: no backend has the requested name.
        RuntimeError: the requested backend cannot serve this call; the message says why.
    """
    name = chosen() if backend is None else backend
    if name is not None:
        _require_ready(name)
        refusal = _refusal(name, op, device, args)
        if refusal is not None:
            raise RuntimeError(f"Backend {name!r} was requested but cannot run this {op}: {refusal}.")
        return _kernels(name)[op]
    deferred = None
    for candidate in DEVICES:
        # Cheapest check first: on a machine without the device, its driver is never queried.
        if op in _kernels(candidate) and _refusal(candidate, op, device, args) is None and _status(candidate) == READY:
            kernel = _kernels(candidate)[op]
            if kernel.preferred is not None and not kernel.preferred(*args):
                deferred = deferred or kernel
            else:
                return deferred if deferred and candidate == "reference" else kernel
    raise AssertionError(f"the reference serves every op, {op} included")


def call(op: str, device: str, args: tuple, backend: str | None = None) -> Any:
    """Run an op on the backend that serves it, with autocast off, because ops choose their own precision."""
    if torch.jit.is_tracing():
        raise RuntimeError(
            f"fused_inr cannot be traced by torch.jit.trace, which loses the rules of {op}: use torch.export."
        )
    run = select(op, device, args, backend).run
    if not autocast_enabled(device):
        return run(*args)
    with torch.autocast(device, enabled=False):
        return run(*args)


def service(device: str) -> dict[str, tuple[str, dict[str, str]]]:
    """Return which backend serves each op on a device type, and why the faster ones do not.

    Returns:
        {op: (backend, {faster backend: reason})}. A backend that serves an op may still decline individual calls.
    """
    service_by_op = {}
    for op in OPS:
        reasons: dict[str, str] = {}
        for name in DEVICES:
            if DEVICES[name] not in (None, device):
                continue
            status = _status(name)
            if status == READY and op in _kernels(name):
                service_by_op[op] = (name, reasons)
                break
            reasons[name] = status if status != READY else f"it has no kernel for {op}"
    return service_by_op
