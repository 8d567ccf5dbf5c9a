"""How the primitives take part in function transforms (`torch.func`) and in forward-mode differentiation.

PyTorch differentiates the ops of `torch.library` in reverse mode only, and not under function transforms. Under a
transform an `Op` therefore runs as an autograd function with the same rules. In forward mode the primitives are
compositions of PyTorch calls, because only these have tangents. A program of `torch.export` calls the ops themselves;
a kernel that PyTorch runs only under transforms leads these calls to their `Op`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor
from torch._functorch.utils import unwrap_dead_wrappers
from torch.autograd import forward_ad

Save = Callable[[Any, tuple, Any], None]
Backward = Callable[..., tuple]
Batch = Callable[..., tuple[Any, Any]]

_LIBRARY = torch.library.Library("fused_inr", "IMPL")
# The first dispatch key of a call under a transform of torch.func, and of no other call.
_UNDER_TRANSFORMS = "FuncTorchDynamicLayerFrontMode"


def forward_mode() -> bool:
    """Return whether forward-mode differentiation is active, by `torch.func.jvp` or `torch.autograd.forward_ad`."""
    return forward_ad._current_level >= 0


def transforming() -> bool:
    """Return whether a function transform is active."""
    return torch._C._are_functorch_transforms_active()


def may_need_gradients(tensors: Iterable[Tensor]) -> bool:
    """Return whether a call on these tensors may be differentiated.

    Under a transform this cannot be told, because a tensor of `vmap` hides that the tensor in it requires gradients.
    """
    return torch.is_grad_enabled() and (transforming() or any(tensor.requires_grad for tensor in tensors))


class Op:
    """A PyTorch op with its rules for reverse mode and `vmap`, both defined once for all backends.

    Args:
        overload: the op. Its arguments may be lists of tensors; its result is a tensor, a tuple or a list of tensors.
        save: `save(ctx, inputs, output)` keeps what `backward` needs.
        backward: `backward(ctx, *gradients)` returns one gradient, or list of gradients, per argument.
        batch: `batch(op, size, dims, *args)` returns the op's result with an additional axis of `size` entries, and the
            position of this axis in each tensor of the result. `dims` has the structure of `args`: the position of the
            additional axis of each tensor, or None. `op` is this object.
        composed: a composition of PyTorch calls with the op's arguments and result, which runs in forward mode, and
            under transforms in torch.compile.
        prepare: `prepare(*args)` returns the arguments in the form that kernels take, such as contiguous tensors. It
            never sees the tensors of a transform, whose memory format cannot be asked for.
    """

    def __init__(
        self,
        overload: Any,
        save: Save,
        backward: Backward,
        batch: Batch,
        composed: Callable[..., Any],
        prepare: Callable[..., tuple] | None = None,
    ) -> None:
        torch.library.register_autograd(overload, backward, setup_context=save)
        returns = overload._schema.returns
        self._overload = overload
        self._composed = composed
        self._prepare = prepare
        self._returns_list = len(returns) == 1 and str(returns[0].type) == "List[Tensor]"
        self._function = self._autograd_function(save, backward, batch)
        _LIBRARY.impl(overload, self, _UNDER_TRANSFORMS)

    def __call__(self, *args: Any) -> Any:
        """Run the op, or its composition: in forward mode, batched backward passes and transforms in torch.compile."""
        # Dynamo cannot trace autograd functions that take lists, or options such as a dtype.
        compiling = torch.compiler.is_compiling()
        if forward_mode() or (transforming() and compiling) or (not compiling and _batched_backward(args[0])):
            return self._composed(*args)
        return self.without_tangents(*args)

    def without_tangents(self, *args: Any) -> Any:
        """Run the op, whose result is then constant in forward mode."""
        if not transforming():
            return self._run(*args)
        leaves, structure = _flatten(args)
        output = self._function.apply(structure, *unwrap_dead_wrappers(tuple(leaves)))
        return list(output) if self._returns_list else output

    def _run(self, *args: Any) -> Any:
        return self._overload(*(self._prepare(*args) if self._prepare else args))

    def _autograd_function(self, save: Save, backward: Backward, batch: Batch) -> type[torch.autograd.Function]:
        """Return an autograd function of the op's flattened arguments, which function transforms accept."""

        class Transformable(torch.autograd.Function):
            @staticmethod
            def forward(structure: list[int | None], *leaves: Any) -> Any:
                output = self._run(*_unflatten(leaves, structure))
                return tuple(output) if self._returns_list else output

            @staticmethod
            def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
                ctx.structure = inputs[0]
                save(ctx, _unflatten(inputs[1:], ctx.structure), output)

            @staticmethod
            def backward(ctx: Any, *gradients: Tensor) -> tuple:
                flat_needs = ctx.needs_input_grad
                ctx.needs_input_grad = _unflatten(flat_needs[1:], ctx.structure)
                try:
                    results = backward(ctx, list(gradients)) if self._returns_list else backward(ctx, *gradients)
                finally:
                    ctx.needs_input_grad = flat_needs
                return None, *_flatten(results)[0]

            @staticmethod
            def vmap(info: Any, dims: tuple, structure: list[int | None], *leaves: Any) -> tuple[Any, Any]:
                args = _unflatten(leaves, structure)
                output, places = batch(self, info.batch_size, _unflatten(dims[1:], structure), *args)
                return (tuple(output), tuple(places)) if self._returns_list else (output, places)

        return Transformable


def _batched_backward(gradients: Tensor | list[Tensor]) -> bool:
    """Return whether gradients are those of `torch.autograd.grad(..., is_grads_batched=True)`.

    Its `vmap` is older than that of `torch.func`, and ops cannot have rules for it.

    Args:
        gradients: the first argument of an op, which holds the gradients if the op is one of a backward pass.
    """
    return any(map(is_legacy_batchedtensor, gradients if isinstance(gradients, list) else [gradients]))


def _flatten(args: Sequence[Any]) -> tuple[list[Any], list[int | None]]:
    """Replace the lists of tensors among arguments by their entries; also return the length of each list, or None."""
    leaves: list[Any] = []
    structure: list[int | None] = []
    for arg in args:
        if isinstance(arg, list) and all(entry is None or isinstance(entry, Tensor) for entry in arg):
            leaves += arg
            structure.append(len(arg))
        else:
            leaves.append(arg)
            structure.append(None)
    return leaves, structure


def _unflatten(leaves: Sequence[Any], structure: Sequence[int | None]) -> tuple[Any, ...]:
    """Undo `_flatten`."""
    rest = iter(leaves)
    return tuple(next(rest) if length is None else [next(rest) for _ in range(length)] for length in structure)


def batched(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """Return a tensor with its additional axis in front, or expanded along one if it has none: `[size, ...]`."""
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def folded(tensor: Tensor, dim: int | None, size: int, axis: int = 0) -> Tensor:
    """Merge the additional axis of a tensor into another one, which it precedes."""
    return batched(tensor, dim, size).movedim(0, axis).flatten(axis, axis + 1)
