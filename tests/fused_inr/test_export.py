"""Export by `torch.export`, AOTInductor and ONNX; copies and replicas; the refusal of `torch.jit.trace`."""

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

import fused_inr as fi


class Siren(torch.nn.Module):
    def forward(self, coords: Tensor, first: Tensor, last: Tensor, first_bias: Tensor, last_bias: Tensor) -> Tensor:
        return fi.siren(coords, [first, last], [first_bias, last_bias], omega=2.0)


class Jet(torch.nn.Module):
    def forward(self, coords: Tensor, first: Tensor, last: Tensor, first_bias: Tensor, last_bias: Tensor) -> Tensor:
        value, jacobian, laplacian = fi.mlp_jet(
            coords, [first, last], [first_bias, last_bias], activations=["sine", "gelu"]
        )
        return (value + laplacian)[..., None] + jacobian


class Renderer(torch.nn.Module):
    def forward(
        self, frequency: Tensor, phase: Tensor, first: Tensor, last: Tensor, rgb: Tensor, bias: Tensor
    ) -> Tensor:
        stages = [
            fi.Stage(1, [fi.Layer(first, torch.zeros(5))], fi.Fourier(frequency, phase)),
            fi.Stage(2, [fi.Layer(last, bias, to_rgb=(rgb, torch.zeros(3)))]),
        ]
        return fi.render(fi.INR(stages), fi.Grid(3, 4))


def siren_tensors(n: int, points: int) -> tuple[Tensor, ...]:
    return tuple(torch.randn(shape) for shape in [(n, points, 2), (n, 4, 2), (n, 2, 4), (n, 4), (n, 2)])


def renderer_tensors(n: int, times: int) -> tuple[Tensor, ...]:
    shapes = [(n, 3, 2), (n, times, 3), (n, 5, 6), (n, 4, 5), (n, 3, 4), (n, times, 4)]
    return tuple(torch.randn(shape) for shape in shapes)


N, SECOND = torch.export.Dim("N", max=64), torch.export.Dim("M", max=4096)
MODELS = {  # module, function of (N, M) that makes its arguments, dynamic axes of the arguments
    "siren": (Siren(), siren_tensors, ({0: N, 1: SECOND}, {0: N}, {0: N}, {0: N}, {0: N})),
    "mlp_jet": (Jet(), siren_tensors, ({0: N, 1: SECOND}, {0: N}, {0: N}, {0: N}, {0: N})),
    "renderer": (Renderer(), renderer_tensors, ({0: N}, {0: N, 1: SECOND}, {0: N}, {0: N}, {0: N}, {0: N, 1: SECOND})),
}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_exported_programs_take_any_size(model, backend):
    if fi.backends()[backend] != "ready":
        pytest.skip(f"{backend}: {fi.backends()[backend]}")
    module, make, dynamic = model
    with fi.backend("reference") if backend == "reference" else torch.no_grad():
        program = torch.export.export(module, make(3, 5), dynamic_shapes=dynamic)
    kernels = [node for node in program.graph.nodes if "fused_inr" in str(node.target)]
    assert len(kernels) == (backend == "cpu")
    for sizes in [(3, 5), (7, 11), (2, 300)]:
        arguments = make(*sizes)
        torch.testing.assert_close(program.module()(*arguments), module(*arguments), rtol=1e-5, atol=1e-5)


@pytest.mark.ci
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")
def test_the_exported_renderer_is_compiled_ahead_of_time(tmp_path):
    module, make, dynamic = MODELS["renderer"]
    program = torch.export.export(module, make(3, 5), dynamic_shapes=dynamic)
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "renderer.pt2"))
    arguments = make(2, 7)
    torch.testing.assert_close(torch._inductor.aoti_load_package(package)(*arguments), module(*arguments))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the exporter and its packages
def test_onnx_of_the_reference(model):
    onnxruntime = pytest.importorskip("onnxruntime")
    module, make, dynamic = model
    with fi.backend("reference"):
        program = torch.onnx.export(module, make(3, 5), dynamo=True, dynamic_shapes=dynamic, verbose=False)
    file = io.BytesIO()
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    arguments = make(2, 7)
    names = [argument.name for argument in session.get_inputs()]
    (frames,) = session.run(None, {name: a.numpy() for name, a in zip(names, arguments, strict=True)})
    torch.testing.assert_close(torch.from_numpy(frames), module(*arguments), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_tracing_is_refused_with_the_remedy(model):
    module, make, _ = model
    with pytest.raises(RuntimeError, match=r"use torch\.export"):
        torch.jit.trace(module, make(2, 3))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_plain_data_is_copied_and_pickled(duplicate, make_inr):
    inr, grid = make_inr(dtype=torch.float32), fi.Grid(2, 3)
    torch.testing.assert_close(fi.render(duplicate(inr), duplicate(grid)), fi.render(inr, grid), rtol=0, atol=0)


def test_replicas_run_in_threads(model):
    """Replicas that share parameters run at the same time and add up their gradients, as in `DataParallel`."""
    module, make, _ = model
    parameters = [tensor.requires_grad_() for tensor in make(2, 3)]
    replicas = [copy.deepcopy(module) for _ in range(4)]

    def gradients(replica: torch.nn.Module) -> list[Tensor]:
        loss = replica(*(parameter * 1.0 for parameter in parameters)).square().sum()
        return list(torch.autograd.grad(loss, parameters))

    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(gradients, replicas))
    for result in results:
        torch.testing.assert_close(result, gradients(module), rtol=0, atol=0)


def test_gradients_of_a_program_that_was_exported_without_any(make_inr, tensors_of, with_tensors, assert_close):
    inr, grid = make_inr(dtype=torch.float32, activation="sine"), fi.Grid(4, 4)

    class Model(torch.nn.Module):
        def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
            return fi.render(with_tensors(inr, tensors), grid)

    leaves = tuple(tensors_of(inr))
    with torch.no_grad():
        program = torch.export.export(Model(), leaves).module()
    leaves = tuple(tensor.requires_grad_() for tensor in leaves)
    expected = torch.autograd.grad(Model()(*leaves).square().sum(), leaves)
    for a, b in zip(torch.autograd.grad(program(*leaves).square().sum(), leaves), expected, strict=True):
        assert_close("gradient", b, a, 1e-5)
