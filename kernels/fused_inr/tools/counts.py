"""The work of the ops, counted from shapes: operations, sines and bytes. Tensors may be on "meta".

`render`, `mlp`, `siren`, `mlp_jet` and the ops of a discriminator return the minimum work of a call, however it is
implemented: no product that the lowering removes is computed, and no tensor is read or written twice. `render_steps`
and `siren_steps` return the work kernel by kernel, for kernels that compute a layer or a whole stage: their sum exceeds
the minimum by the activations that go through memory and those that a backward pass recomputes.

Operations are those of matrix products; a multiplication and an addition count as two. The rest of the arithmetic, a
few operations per output of a layer, is not counted, except for the sines. Times follow the roofline model (Williams,
Waterman and Patterson, CACM 2009).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from fused_inr.inr import INR, Grid, Layer
from fused_inr.lowering import StagePlan, lower
from fused_inr.tools.traffic import Counts, Kernel, LayerKernels, Program, StageKernels, Step, total

__all__ = [
    "Counts",
    "Step",
    "bias_act",
    "minibatch_stddev",
    "mlp",
    "mlp_jet",
    "naive_flops",
    "render",
    "render_steps",
    "siren",
    "siren_steps",
    "total",
    "upfirdn2d",
]


def render(inr: INR, grid: Grid, *, dtype: torch.dtype | None = None, backward: bool = False) -> Counts:
    """Count the minimum work of `fi.render`: every tensor of the INR read once and the frames written once.

    Args:
        inr, grid, dtype: as in `fi.render`; None means the type of the result.
        backward: count the gradients of all tensors of the INR instead of the frames: two products for each one of the
            forward pass, the derivatives of sines, and the bytes of the tensors, of the gradient of the frames, and of
            the gradients. Recomputing values of the forward pass is not counted, as they can be stored.
    """
    return _render_program(inr, grid, (dtype or inr.dtype).itemsize).least(backward)


def naive_flops(inr: INR, grid: Grid) -> int:
    """Count the operations of the matrix products of the naive path, with upsampling and concatenation."""
    flops = 0
    for stage in inr.stages:
        rows = inr.batch * inr.times * grid.height * grid.width * stage.scale**2
        flops += sum(2 * rows * layer.outputs * (layer.inputs + _colours(layer)) for layer in stage.layers)
    return flops


def render_steps(
    inr: INR,
    grid: Grid,
    *,
    dtype: torch.dtype | None = None,
    backward: bool = False,
    stored: bool = False,
    fused: Collection[int] = (),
) -> list[Step]:
    """Count the work of `fi.render` kernel by kernel, in the order in which they run.

    Every stage with features has a kernel for the sines and cosines of their rows and columns ("tables"). After it
    comes either a kernel for each layer, which includes bias, activation, gain and read-out, and one for the product
    with the output of the previous stage ("parent"); or a single kernel for all of them.

    Args:
        inr, grid, dtype: as in `render`; activations in memory have this dtype, images and tables that of the result.
        backward: count the kernels that compute the gradients of all tensors instead of those that compute the frames.
        stored: the forward pass writes the outputs of all layers and the backward pass reads them. Otherwise the
            backward pass has the outputs of stages only, and recomputes the layers of a stage before their gradients.
        fused: indices of the stages that are a single kernel.

    Returns:
        One step per kernel. It counts every tensor that it reads, and those that it writes if others read them, once.
    """
    return _render_program(inr, grid, (dtype or inr.dtype).itemsize).steps(backward, stored, fused)


def mlp(
    coords: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    *,
    activations: Sequence[str],
    skips: Collection[int] = (),
    dtype: torch.dtype | None = None,
    backward: bool = False,
    coords_gradient: bool = False,
) -> Counts:
    """Count the minimum work of `fi.mlp`: every tensor read once and the result written once.

    Args:
        coords, weights, biases, activations, skips, dtype: as in `fi.mlp`; None means the type of the result.
        backward: count the gradients of weights and biases instead of the values, as in `render`.
        coords_gradient: also count the gradients of the coordinates.
    """
    return _mlp_program(coords, weights, biases, activations, skips, dtype, coords_gradient).least(backward)


def siren(
    coords: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    *,
    final: str = "linear",
    dtype: torch.dtype | None = None,
    backward: bool = False,
    coords_gradient: bool = False,
) -> Counts:
    """Count the minimum work of `fi.siren`, as `mlp` does that of `fi.mlp`."""
    return _siren_program(coords, weights, biases, final, dtype, coords_gradient).least(backward)


def siren_steps(
    coords: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    *,
    final: str = "linear",
    dtype: torch.dtype | None = None,
    backward: bool = False,
    coords_gradient: bool = False,
    stored: bool = False,
    fused: bool = True,
) -> list[Step]:
    """Count the work of `fi.siren` kernel by kernel: one for the whole network, or one for each layer.

    Args:
        coords, weights, biases, final, dtype, backward, coords_gradient: as in `siren`; activations in memory have this
            dtype.
        stored: as in `render_steps`.
        fused: whether the whole network is one kernel.
    """
    program = _siren_program(coords, weights, biases, final, dtype, coords_gradient)
    return program.steps(backward, stored, (0,) if fused else ())


def mlp_jet(
    coords: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    *,
    skips: Collection[int] = (),
    order: int = 2,
    hessian: bool = False,
    backward: bool = False,
    coords_gradient: bool = False,
) -> Counts:
    """Count the minimum work of `fi.mlp_jet`: every tensor read once and the results written once; sines not counted.

    A point has a row for its value, one for the derivative along each axis, and one for the Laplacian or one for each
    pair of axes. A layer multiplies all of them by its weight, except that the derivatives of the coordinates are unit
    vectors, whose products are columns of the weight.

    Args:
        coords, weights, biases, skips, order, hessian: as in `fi.mlp_jet`.
        backward, coords_gradient: as in `siren`; the gradients of all results are read.
    """
    tensors = [(coords, 3), *((w, 3) for w in weights), *((b, 2) for b in biases)]
    batch = max(tensor.shape[0] if tensor.ndim == axes else 1 for tensor, axes in tensors)
    points, axes = batch * coords.shape[-2], coords.shape[-1]
    pairs = axes * (axes + 1) // 2 if hessian else 1
    rows = 1 + axes + (pairs if order == 2 else 0)
    flops = 0
    for index, weight in enumerate(weights):
        outputs, inputs = weight.shape[-2:]
        own = axes if index == 0 or index in skips else 0  # inputs that are coordinates
        products = rows * (inputs - own) + own
        if backward:
            products += rows * (inputs - own) + (own if coords_gradient else 0)
        flops += 2 * points * outputs * products
    parameters = sum(_bytes(tensor) for tensor in (*weights, *biases))
    per_value = 1 + axes + (order == 2) + (axes**2 if hessian else 0)
    wide = 8 if any(tensor.dtype == torch.float64 for tensor, _ in tensors) else 4
    moved = _bytes(coords) + parameters + points * weights[-1].shape[-2] * per_value * wide
    if backward:
        moved += parameters + (_bytes(coords) if coords_gradient else 0)
    return Counts(flops, moved)


def bias_act(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    residual: bool = False,
    act: str = "lrelu",
    clamp: float | None = None,
    backward: bool = False,
) -> Counts:
    """Count the minimum bytes that `fi.bias_act` moves; `residual` is whether a residual is added.

    The backward pass reads the gradient and, unless all slopes are equal, x or the output to determine the slope.
    """
    shift = 0 if bias is None else _bytes(bias)
    reads_two = (act != "linear" or clamp is not None) if backward else residual
    return Counts(bytes=(3 if reads_two else 2) * x.nbytes + shift)


def upfirdn2d(x: Tensor, filter: Tensor, up: int = 1, down: int = 1, padding: int | Sequence[int] = 0) -> Counts:
    """Count the minimum bytes that `fi.upfirdn2d` moves, forward or backward: x and the result, once each.

    Args:
        x: [N, C, H, W].
        filter, up, down: as in `fi.upfirdn2d`.
        padding: an integer, (x, y) or (x0, x1, y0, y1).
    """
    sides = [padding] if isinstance(padding, int) else list(padding)
    x0, x1, y0, y1 = sides if len(sides) == 4 else [sides[0]] * 2 + [sides[-1]] * 2
    height = (x.shape[2] * up + y0 + y1 - filter.shape[0]) // down + 1
    width = (x.shape[3] * up + x0 + x1 - filter.shape[-1]) // down + 1
    return Counts(bytes=x.nbytes + x.shape[0] * x.shape[1] * height * width * x.itemsize + _bytes(filter))


def minibatch_stddev(x: Tensor, channels: int = 1, *, backward: bool = False) -> Counts:
    """Count the minimum bytes that `fi.minibatch_stddev` moves: x and the result, or backward x and both gradients.

    Args:
        x: [N, C, H, W].
        channels: planes that are appended.
    """
    result = x.nbytes // x.shape[1] * (x.shape[1] + channels)
    return Counts(bytes=result + (2 if backward else 1) * x.nbytes)


def _render_program(inr: INR, grid: Grid, size: int) -> Program:
    """Return the program of an INR whose activations take `size` bytes each."""
    frames, wide, plans = inr.batch * inr.times, inr.dtype.itemsize, lower(inr, grid)
    read_out = any(_colours(layer) for plan in plans for layer in plan.layers)
    stages: list[StageKernels] = []
    # The tensors and pixels of the last layer so far.
    output: dict[str, int] = {}
    image: dict[str, int] = {}
    rows = 0
    for index, plan in enumerate(plans):
        name = f"stage {index}"
        stage = StageKernels(name, [], [])
        stages.append(stage)
        if plan.parent is not None:
            parent = _parent(name, plan.parent, output, rows, size)
            stage.layers.append(parent)
            output = parent.outputs
        rows = frames * plan.grid.height * plan.grid.width
        for number, layer in enumerate(plan.layers):
            result = not read_out and plan is plans[-1] and layer is plan.layers[-1]
            own = _layer(f"{name} layer {number}", layer, plan.inner if number == 0 else layer.weight, rows)
            if number == 0:
                own.added = output
                stage.tables = _give_tables(own, plan, wide)
            else:
                own.multiplied = output
            own.outputs = output = {f"{own.name} output": rows * layer.outputs * (wide if result else size)}
            if layer.to_rgb is not None:
                own.image, own.new_image = image, {f"image of {rows} rows": rows * _colours(layer) * wide}
                image = own.new_image
            stage.layers.append(own)
    if not read_out:
        return Program(stages, *output)
    stages[-1].layers[-1].handed_on = False
    frames_of_result = {f"image of {rows} rows": rows * inr.channels * wide}
    if image.keys() != frames_of_result.keys():
        enlarged = LayerKernels("image", 0, {}, image=image, new_image=frames_of_result)
        stages.append(StageKernels("image", [], [enlarged]))
    return Program(stages, *frames_of_result)


def _parent(stage: str, weight: Tensor, source: dict[str, int], rows: int, size: int) -> LayerKernels:
    """Return the product with the output of the previous stage, which has `rows` pixels over all frames."""
    _, outputs, inputs = weight.shape
    name = f"{stage} parent"
    values = {f"{name} output": rows * outputs * size}
    weights = {f"{name} weight": _bytes(weight)}
    return LayerKernels(name, 2 * rows * outputs * inputs, values, multiplied=source, weights=weights, sloped=False)


def _layer(name: str, layer: Layer, weight: Tensor, rows: int) -> LayerKernels:
    """Return a layer with its own tensors; the caller adds its inputs and outputs."""
    weights, biases = {f"{name} weight": _bytes(weight)}, {f"{name} bias": _bytes(layer.bias)}
    if layer.to_rgb is not None:
        weights[f"{name} read-out weight"], biases[f"{name} read-out bias"] = map(_bytes, layer.to_rgb)
    return LayerKernels(
        name,
        2 * rows * layer.outputs * (weight.shape[2] + _colours(layer)),
        {},
        weights=weights,
        biases=biases,
        sines=rows * layer.outputs if layer.activation == "sine" else 0,
        sloped=layer.activation != "linear" or layer.to_rgb is not None,
    )


def _give_tables(layer: LayerKernels, plan: StagePlan, wide: int) -> list[Kernel]:
    """Make a layer read tables of the sines and cosines of its rows and columns; return the kernel that writes them."""
    if plan.fourier is None:
        return []
    frequency, phase = plan.fourier.frequency, plan.fourier.phase
    clips = max(frequency.shape[0], phase.shape[0])
    angles = clips * phase.shape[1] * plan.grid.height + frequency.shape[0] * plan.grid.width
    values = 2 * frequency.shape[1] * angles
    layer.fourier = {f"{layer.name} frequency": _bytes(frequency), f"{layer.name} phase": _bytes(phase)}
    layer.tables = {f"{layer.name} tables": values * wide}
    return [Kernel(layer.name.replace("layer 0", "tables"), layer.fourier, layer.tables, sines=values)]


def _siren_program(
    coords: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    final: str,
    dtype: torch.dtype | None,
    coords_gradient: bool,
) -> Program:
    activations = [*["sine"] * (len(weights) - 1), final]
    return _mlp_program(coords, weights, biases, activations, (), dtype, coords_gradient)


def _mlp_program(
    coords: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activations: Sequence[str],
    skips: Collection[int],
    dtype: torch.dtype | None,
    coords_gradient: bool,
) -> Program:
    batched = [(coords, 3), *((w, 3) for w in weights), *((b, 2) for b in biases)]
    batch = max(tensor.shape[0] if tensor.ndim == axes else 1 for tensor, axes in batched)
    wide = 8 if any(tensor.dtype == torch.float64 for tensor, _ in batched) else 4
    rows = batch * coords.shape[-2]
    layers: list[LayerKernels] = []
    source: dict[str, int] = {}
    for index, (weight, bias, activation) in enumerate(zip(weights, biases, activations, strict=True)):
        outputs, inputs = weight.shape[-2:]
        size = wide if index == len(weights) - 1 or dtype is None else dtype.itemsize
        name = f"layer {index}"
        own = {"coords": _bytes(coords)} if index == 0 or index in skips else {}
        layers.append(
            LayerKernels(
                name,
                2 * rows * outputs * inputs,
                {f"{name} output": rows * outputs * size},
                multiplied=source | own if coords_gradient else source,
                tables={} if coords_gradient else own,  # which are read as well, but get no gradient
                weights={f"{name} weight": _bytes(weight)},
                biases={f"{name} bias": _bytes(bias)},
                sines=rows * outputs * (activation in ("sine", "finer")),
                sloped=activation != "linear",
                input_gradient=index > 0 or coords_gradient,
            )
        )
        source = layers[-1].outputs
    return Program([StageKernels("network", [], layers)], *source)


def _colours(layer: Layer) -> int:
    return 0 if layer.to_rgb is None else layer.to_rgb[0].shape[1]


def _bytes(tensor: Tensor) -> int:
    """Return the bytes that a tensor covers, counting expanded values once."""
    sizes = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or not size]
    return math.prod(sizes) * tensor.itemsize
