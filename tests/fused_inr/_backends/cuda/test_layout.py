"""Which networks fit on a GPU and which are refused; byte counts against those of the C++ sources."""

import itertools

import pytest
import torch

from fused_inr._backends import cuda
from fused_inr._backends.cuda import layout, native, networks
from fused_inr.primitives.mlp import siren_layers

A100, H100 = 163 * 1024, 227 * 1024


def weights_of(*sizes: int) -> list[torch.Tensor]:
    return [torch.empty(2, outputs, inputs, device="meta") for inputs, outputs in itertools.pairwise(sizes)]


def struct_of(shape: layout.Shape, warps: int) -> native.SirenStruct:
    layers = [native.LayerStruct(inputs=shape.inputs)] * shape.layers
    return native.SirenStruct(
        layers=(native.LayerStruct * native.MAX_LAYERS)(*layers),
        num_layers=shape.layers,
        width=shape.width,
        type=native.TYPES[torch.float32 if shape.element == 4 else torch.float16],
        warps=warps,
    )


@pytest.mark.parametrize("element", [2, 4], ids=["half", "float32"])
@pytest.mark.parametrize("width", layout.WIDTHS)
def test_byte_counts_match_the_kernels(width, element, built_library):
    for layers, inputs, warps in itertools.product((2, 3, 7, 32), (0, 1, 2, 8, 9, 16), (1, 2, 8)):
        shape = layout.Shape(width, layers, inputs, element)
        struct = struct_of(shape, warps)
        assert shape.packed == built_library.fused_inr_siren_packed(struct)
        assert shape.forward_shared(warps) == built_library.fused_inr_siren_shared(struct, 0)
        assert shape.backward_shared(warps) == built_library.fused_inr_siren_shared(struct, 1)


@pytest.mark.parametrize(
    ("sizes", "element", "limit", "backward", "reason"),
    [
        ((2, 64, 64, 64, 3), 2, A100, True, None),
        ((2, 128, 128, 128, 128, 3), 2, A100, True, None),
        ((2, 128, 128, 128, 128, 3), 4, H100, False, None),
        ((16, 16, 16), 4, A100, True, None),
        ((2, 3), 2, H100, False, "it takes 2 to 32 layers, not 1"),
        ((2, *[16] * 32, 3), 2, H100, False, "it takes 2 to 32 layers, not 33"),
        ((17, 16, 3), 2, H100, False, "it takes at most 16 coordinates, not 17"),
        ((2, 16, 17), 2, H100, False, "it takes at most 16 outputs, not 17"),
        ((2, 64, 129, 3), 2, H100, False, "it takes hidden layers of at most 128, not 129"),
        (
            (2, 128, 128, 128, 128, 3),
            4,
            A100,
            False,
            "its values take 208256 bytes of shared memory, and the device has 166912 for a block",
        ),
        (
            (2, 128, 128, 128, 128, 3),
            4,
            H100,
            True,
            "its gradients take 251264 bytes of shared memory, and the device has 232448 for a block",
        ),
    ],
)
def test_refusals(sizes, element, limit, backward, reason):
    assert layout.refusal(weights_of(*sizes), element, limit, backward) == reason


def test_as_many_warps_as_fit():
    small, large = layout.Shape(64, 5, 2, 2), layout.Shape(128, 5, 2, 2)
    assert small.forward_warps(A100) == 4
    assert large.forward_warps(A100) == 8
    assert small.backward_warps(A100) == 8
    assert [large.backward_warps(limit) for limit in (A100, H100)] == [2, 4]
    assert large.backward_warps(100 * 1024) is None


def test_gradients_that_do_not_fit_are_refused_only_if_needed(monkeypatch):
    needed = layout.Shape(64, 4, 2, 4).backward_shared(1)
    weights = [torch.empty(1, outputs, inputs) for inputs, outputs in itertools.pairwise((2, 64, 64, 64, 3))]
    biases = [torch.empty(1, weight.shape[1]) for weight in weights]
    supports = cuda.KERNELS["mlp"].supports
    arguments = (torch.empty(1, 9, 2), weights, biases, *siren_layers(4, 30.0, 30.0, "linear"), torch.float32)
    weights[0].requires_grad_()
    monkeypatch.setattr(networks, "limits", lambda device: networks.Limits((8, 6), needed, 84))
    assert supports(*arguments) == (True, "")
    monkeypatch.setattr(networks, "limits", lambda device: networks.Limits((8, 6), needed - 1, 84))
    reason = f"its gradients take {needed} bytes of shared memory, and the device has {needed - 1} for a block"
    assert supports(*arguments) == (False, reason)
    with torch.no_grad():
        assert supports(*arguments) == (True, "")


def test_float64_is_refused():
    coords = torch.empty(1, 9, 2, dtype=torch.float64)
    arguments = (coords, weights_of(2, 16, 3), [], *siren_layers(2, 1.0, 1.0, "linear"), torch.float64)
    reason = "it computes in float32, bfloat16 or float16, not in torch.float64"
    assert cuda.KERNELS["mlp"].supports(*arguments) == (False, reason)


@pytest.mark.parametrize(
    ("dtype", "width", "first"), [(torch.bfloat16, 128, True), (torch.float16, 16, True), (torch.float32, 16, False)]
)
def test_precedence_over_triton(dtype, width, first):
    preferred = cuda.KERNELS["mlp"].preferred
    assert preferred(None, weights_of(2, width, 3), [], *siren_layers(2, 1.0, 1.0, "linear"), dtype) is first
