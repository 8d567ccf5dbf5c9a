"""The choice of backends: reports, explicit choices, a substituted backend, compiled code."""

import threading
import types

import pytest
import torch

import fused_inr as fi
from fused_inr._backends.implementation import Implementation
from fused_inr.ops import dispatch
from fused_inr.ops.dispatch import DEVICES, OPS, call, service


@pytest.fixture
def cpu_backend(monkeypatch):
    """A CPU backend whose bias_act adds 100 and takes float32 only."""

    def supports(x, *others):
        return (True, "") if x.dtype == torch.float32 else (False, f"it computes float32 only, not {x.dtype}")

    module = types.SimpleNamespace(
        status=lambda: module.state,
        state="ready",
        KERNELS={"bias_act": Implementation(supports, lambda x, *others: x + 100)},
    )
    monkeypatch.setitem(dispatch._modules, "cpu", module)
    return module


def test_every_backend_is_ready_or_says_why():
    states = fi.backends()
    assert list(states) == ["reference", "cpu", "triton", "cuda"]
    assert states["reference"] == "ready"
    for name in ("triton", "cuda"):
        assert torch.cuda.is_available() or states[name] != "ready"
    assert all(state and "\n" not in state for state in states.values())


def test_missing_requirements_are_distinguished(monkeypatch):
    monkeypatch.setattr(dispatch, "_modules", {})
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(dispatch.importlib.util, "find_spec", lambda name: None)
    assert fi.backends()["triton"] == "triton is not installed"
    monkeypatch.setattr(dispatch.importlib.util, "find_spec", lambda name: object())
    assert fi.backends()["triton"] == "no CUDA device"
    assert fi.backends()["cuda"] == "no CUDA device"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert fi.backends()["triton"] == "this version of fused_inr has no triton kernels"
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    assert fi.backends()["cuda"] == "this PyTorch is built without CUDA"


def test_unknown_names_are_refused(make_inr):
    with (
        pytest.raises(ValueError, match="backend must be one of reference, cpu, triton, cuda, not 'gpu'"),
        fi.backend("gpu"),
    ):
        pass
    with pytest.raises(ValueError, match="not 'gpu'"):
        fi.render(make_inr(), fi.Grid(2, 2), backend="gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine on which a backend cannot run")
def test_a_backend_that_cannot_run_says_why(make_inr):
    why = f"Backend 'cuda' was requested but cannot run: {fi.backends()['cuda']}."
    with pytest.raises(RuntimeError) as caught, fi.backend("cuda"):
        pass
    assert str(caught.value) == why
    with pytest.raises(RuntimeError) as caught:
        fi.siren(torch.zeros(1, 2), [torch.zeros(1, 2)], [torch.zeros(1)], backend="cuda")
    assert str(caught.value) == why


def test_the_fastest_backend_that_supports_the_call_serves_it(cpu_backend):
    x = torch.zeros(2, 3)
    assert fi.bias_act(x)[0, 0] == 100
    assert fi.bias_act(x.double())[0, 0] == 0, "a declined call falls back to the reference"
    assert fi.bias_act(x.to("meta")).device.type == "meta", "tensors on another device fall back to the reference"
    cpu_backend.state = "the extension is broken"
    assert fi.bias_act(x)[0, 0] == 0


def test_kernel_that_is_not_preferred_serves_only_before_the_reference(cpu_backend, monkeypatch):
    x = torch.zeros(2, 3)
    kernel = cpu_backend.KERNELS["bias_act"]
    calls = []
    cpu_backend.KERNELS["bias_act"] = kernel._replace(preferred=lambda *args: calls.append(args) or False)
    assert fi.bias_act(x)[0, 0] == 100
    assert calls, "only the reference is left"
    other = types.SimpleNamespace(
        status=lambda: "ready",
        KERNELS={"bias_act": Implementation(lambda *args: (True, ""), lambda x, *others: x + 7)},
    )
    monkeypatch.setitem(dispatch.DEVICES, "triton", "cpu")
    monkeypatch.setitem(dispatch._modules, "triton", cpu_backend)
    monkeypatch.setitem(dispatch._modules, "cpu", other)
    assert fi.bias_act(x)[0, 0] == 7, "the next backend takes precedence"
    with fi.backend("triton"):
        assert fi.bias_act(x)[0, 0] == 100, "an explicit choice is kept"
    cpu_backend.KERNELS["bias_act"] = kernel._replace(preferred=lambda *args: True)
    assert fi.bias_act(x)[0, 0] == 100


def test_explicit_choices_are_kept_or_raise(cpu_backend):
    x = torch.zeros(2, 3)
    with fi.backend("reference"):
        assert fi.bias_act(x)[0, 0] == 0
        with fi.backend("cpu"):
            assert fi.bias_act(x)[0, 0] == 100
            with pytest.raises(RuntimeError, match=r"cannot run this bias_act: it computes float32 only, not torch.f"):
                fi.bias_act(x.double())
            with pytest.raises(RuntimeError, match="cannot run this bias_act: it takes tensors on cpu, not on meta"):
                fi.bias_act(x.to("meta"))
            with pytest.raises(RuntimeError, match="it has no kernel for minibatch_stddev"):
                fi.minibatch_stddev(torch.zeros(1, 1, 1, 1))
        assert fi.bias_act(x)[0, 0] == 0
    assert fi.bias_act(x)[0, 0] == 100


def test_argument_takes_precedence_over_the_context(cpu_backend):
    args = (torch.zeros(2, 3), None, "linear", 0.2, 1.0, None, 1)
    with fi.backend("reference"):
        assert call("bias_act", "cpu", args, "cpu")[0, 0] == 100


def test_the_choice_belongs_to_the_thread(cpu_backend):
    seen = []
    with fi.backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(fi.bias_act(torch.zeros(1, 1)).item()))
        thread.start()
        thread.join()
    assert seen == [100]


def test_a_choice_ends_with_its_block_even_when_blocks_of_threads_overlap():
    first, second = fi.backend("reference"), fi.backend("reference")
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with second:
            entered.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with first:
        thread.start()
        entered.wait()
    assert dispatch._compiled_choice == "reference"
    leave.set()
    thread.join()
    assert dispatch._compiled_choice is None


def test_compiled_code_follows_the_choice(cpu_backend):
    compiled = torch.compile(fi.bias_act, fullgraph=True, backend="eager")
    x = torch.zeros(2, 3)
    assert compiled(x)[0, 0] == 100
    with fi.backend("reference"):
        assert compiled(x)[0, 0] == 0
    assert compiled(x)[0, 0] == 100


def test_service_reports_which_backend_serves(cpu_backend):
    services = service("cpu")
    assert tuple(services) == OPS
    assert services["bias_act"] == ("cpu", {})
    assert services["render"] == ("reference", {"cpu": "it has no kernel for render"})
    cpu_backend.state = "the extension is broken"
    assert service("cpu")["bias_act"] == ("reference", {"cpu": "the extension is broken"})


def test_render_chunks_uses_the_count_of_the_backend(make_inr, cpu_backend):
    inr, grid = make_inr(2, 2, dtype=torch.float32), fi.Grid(6, 2)
    rows = []

    def run(inr, grid, dtype):
        rows.append(grid.height)
        return fi.render(inr, grid, dtype=dtype, backend="reference")

    cpu_backend.KERNELS["render"] = Implementation(
        lambda *args: (True, ""), run, lambda inr, grid, dtype: inr.batch * grid.height * 100
    )
    assert len(list(fi.render_chunks(inr, grid, memory=400))) == 2
    assert rows == [2, 2, 2] * 2
    with pytest.raises(ValueError, match="it takes at least memory=100"):
        fi.render_chunks(inr, grid, memory=99)
    del rows[:]
    list(fi.render_chunks(inr, grid, memory=1 << 30, backend="reference"))
    assert rows == []


def test_reference_serves_every_device():
    assert DEVICES["reference"] is None
    assert all(name == "reference" for name, _ in service("mps").values())
