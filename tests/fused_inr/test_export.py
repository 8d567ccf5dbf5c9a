"""Export by `torch.export`, AOTInductor and ONNX; copies and replicas; the refusal of `torch.jit.trace`."""

import contextlib
import copy
import functools
import io
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

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


class BiasAct(torch.nn.Module):
    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return fi.bias_act(x, bias, "lrelu")


class Discriminator(torch.nn.Module):
    """The other ops, one after the other."""

    def forward(self, x: Tensor, filter: Tensor, weight: Tensor, brightness: Tensor) -> Tensor:
        x = fi.upfirdn2d(x, filter, up=2, padding=1)
        x = fi.augment(x[:, None], brightness=brightness)[:, 0]
        return fi.minibatch_stddev(fi.conv2d(x, weight, padding=1), 2)


DIFFERENTIATED = {  # module, function that makes its arguments
    "siren": (Siren(), lambda: siren_tensors(2, 3)),
    "mlp_jet": (Jet(), lambda: siren_tensors(2, 3)),
    "renderer": (Renderer(), lambda: renderer_tensors(1, 2)),
    "bias_act": (BiasAct(), lambda: (torch.randn(2, 3, 2), torch.randn(3))),
    "discriminator": (
        Discriminator(),
        lambda: tuple(torch.randn(shape) for shape in [(2, 3, 2, 3), (2, 2), (2, 3, 3, 3), (2,)]),
    ),
}


@functools.cache
def exported(name: str, backend: str) -> torch.nn.Module:
    module, make = DIFFERENTIATED[name]
    with fi.backend("reference") if backend == "reference" else contextlib.nullcontext():
        return torch.export.export(module, make()).module()


def loss_of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *tensors: function(*tensors).square().sum()


def stacked(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.stack([tensor, 0.5 * tensor, 0.25 - tensor]) for tensor in tensors)


TRANSFORMS: dict[str, Callable] = {  # of a function, at its arguments, the positions of all of them
    "vmap": lambda f, ts, every: vmap(f)(*stacked(ts)),
    "vmap-of-vmap": lambda f, ts, every: vmap(vmap(f))(*stacked(stacked(ts))),
    "grad": lambda f, ts, every: grad(loss_of(f), every)(*ts),
    "jacrev": lambda f, ts, every: jacrev(f, every)(*ts),
    "vmap-of-grad": lambda f, ts, every: vmap(grad(loss_of(f), every))(*stacked(ts)),
    "jvp": lambda f, ts, every: jvp(f, ts, ts),
    "jacfwd": lambda f, ts, every: jacfwd(f, every)(*ts),
    "hessian": lambda f, ts, every: hessian(loss_of(f))(*ts),
}


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", DIFFERENTIATED)
def test_exported_programs_under_function_transforms(name, transform, backend):
    """A program calls the ops themselves, which then have the rules of the functions that call them."""
    if fi.backends()[backend] != "ready":
        pytest.skip(f"{backend}: {fi.backends()[backend]}")
    module, make = DIFFERENTIATED[name]
    torch.manual_seed(0)
    tensors = make()
    apply, every = TRANSFORMS[transform], tuple(range(len(tensors)))
    expected = torch.utils._pytree.tree_leaves(apply(module, tensors, every))
    actual = torch.utils._pytree.tree_leaves(apply(exported(name, backend), tensors, every))
    assert [a.shape for a in actual] == [e.shape for e in expected]
    # Measured on an AMD EPYC: 4e-7 where the program is that of the reference, 3e-8 elsewhere.
    largest = max(e.norm().item() for e in expected)
    assert max((a - e).norm().item() for a, e in zip(actual, expected, strict=True)) <= 1e-5 * largest


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_exported_programs_of_lists_of_tensors_are_mapped(backend):
    if fi.backends()[backend] != "ready":
        pytest.skip(f"{backend}: {fi.backends()[backend]}")

    class Lists(torch.nn.Module):
        def forward(self, coords: Tensor, parameters: list[list[Tensor]]) -> Tensor:
            return fi.siren(coords, *parameters, omega=2.0)

    coords, *tensors = siren_tensors(2, 3)
    with fi.backend("reference") if backend == "reference" else contextlib.nullcontext():
        program = torch.export.export(Lists(), (coords, [tensors[:2], tensors[2:]])).module()
    weights, biases = [list(stacked(tuple(half))) for half in (tensors[:2], tensors[2:])]
    values = vmap(program, (None, 0))(coords, [weights, biases])
    loop = [program(coords, [[w[i] for w in weights], [b[i] for b in biases]]) for i in range(3)]
    torch.testing.assert_close(values, torch.stack(loop), rtol=1e-5, atol=1e-5)
    mixed = vmap(program, (None, [[0, None], [None, 0]]))(coords, [[weights[0], tensors[1]], [tensors[2], biases[1]]])
    loop = [program(coords, [[weights[0][i], tensors[1]], [tensors[2], biases[1][i]]]) for i in range(3)]
    torch.testing.assert_close(mixed, torch.stack(loop), rtol=1e-5, atol=1e-5)


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
