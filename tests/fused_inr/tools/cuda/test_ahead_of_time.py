"""The CUDA kernels compiled without a GPU: no spills, matrix instructions, shared memory."""

import pytest

from fused_inr._backends.cuda import layout, native, nvcc
from fused_inr.tools.cuda import ahead_of_time
from fused_inr.tools.cuda.__main__ import main

KERNELS = (
    {
        (kernel, type_, width)
        for kernel in ("siren_forward", "siren_backward")
        for type_ in ahead_of_time.ELEMENTS
        for width in layout.WIDTHS
    }
    | {("pack_weights", type_, 0) for type_ in ahead_of_time.ELEMENTS}
    | {("reduce_gradients", "", 0)}
)
REGISTERS = 65536  # per multiprocessor


@pytest.fixture(scope="module")
def tools():
    if ahead_of_time.cuobjdump() is None:
        pytest.skip("no cuobjdump; it comes with CUDA and with Triton")


@pytest.fixture(scope="module")
def for_hopper(tools, tmp_path_factory) -> list[ahead_of_time.Resources]:
    """Return the resources for sm_90a, compiled here."""
    if nvcc.find() is None:
        pytest.skip("no nvcc")
    return ahead_of_time.compiled(["9.0a"], tmp_path_factory.mktemp("objects"))


@pytest.fixture(scope="module")
def installed(tools, tmp_path_factory) -> list[ahead_of_time.Resources]:
    """Return the resources of the installed library, or of the one that would be installed by default."""
    library, state = native.load()
    if library is not None:
        return ahead_of_time.resources(next(native._FOLDER.glob("_native*")))
    if nvcc.find() is None:
        pytest.skip(f"no nvcc, and no library: {state}")
    return ahead_of_time.compiled(nvcc.architectures(), tmp_path_factory.mktemp("installed"))


def check(actual: list[ahead_of_time.Resources]) -> None:
    for target in {needs.target for needs in actual}:
        of_target = [needs for needs in actual if needs.target == target]
        assert {(needs.kernel, needs.type, needs.width) for needs in of_target} == KERNELS
    for needs in actual:
        name = f"{needs.kernel} {needs.type} {needs.width} for {needs.target}"
        assert needs.spills == 0, name
        assert needs.local == 0, name
        assert (needs.matrix_instructions > 0) == needs.kernel.startswith("siren"), name


@pytest.mark.ci
def test_hopper(for_hopper):
    assert {needs.target for needs in for_hopper} == {"9.0a"}
    check(for_hopper)


def test_installed_library(installed):
    check(installed)


def test_registers_leave_room_for_the_planned_blocks(installed):
    for needs in installed:
        shape = layout.Shape(needs.width or 16, 3, 2, ahead_of_time.ELEMENTS[needs.type or "float32"])
        if needs.kernel == "siren_forward":
            threads = 32 * shape.max_warps * shape.max_blocks
        else:
            threads = 256
        assert -(-needs.registers // 8) * 8 * threads <= REGISTERS, needs


@pytest.mark.parametrize("target", ahead_of_time.MAX_SHARED)
def test_shared_memory_fits_on_the_gpu(target):
    for kernel, type_, width in KERNELS:
        needs = ahead_of_time.Resources(target, kernel, type_, width, 0, 0, 0, 0, 0)
        for layers in range(2, layout.MAX_LAYERS + 1):
            shared, warps = needs.shared(layers)
            assert 0 <= shared <= ahead_of_time.MAX_SHARED[target]
            assert (shared > 0) == (warps > 0)
        # The gradients of three layers of any width fit on every GPU.
        assert needs.shared(3)[1] > 0 or not width


def test_the_command_prints_a_table(capsys, monkeypatch, tmp_path):
    kernels = [ahead_of_time.Resources("9.0a", *kernel, 40, 0, 0, 500, 8) for kernel in KERNELS]
    monkeypatch.setattr(ahead_of_time, "resources", lambda path: kernels if path == tmp_path else [])
    main(["--library", str(tmp_path), "--target", "9.0a"])
    _, head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["target", "kernel", "type", "width"]
    assert len(lines) == len(KERNELS)
    main(["--library", str(tmp_path), "--target", "8.0"])
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_command_reports_a_missing_nvcc(monkeypatch):
    monkeypatch.setattr(nvcc, "find", lambda: None)
    with pytest.raises(SystemExit, match=r"^nvcc is missing: put it on PATH or set CUDA_HOME\.$"):
        main([])
