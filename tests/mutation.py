"""Mutation testing: change one operator or number of a module, and see whether the module's own tests notice.

    python tests/mutation.py training models        # a fixed sample of 25 mutants of each area
    python tests/mutation.py --all --mutants 40

The mutants are those of cosmic-ray. Each runs the test files that mirror its module in a forked process, in which
PyTorch is loaded already, on a copy of the tree.
"""

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import importlib
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings

os.environ["OMP_NUM_THREADS"] = "1"  # before PyTorch is loaded: a process with threads cannot be forked
sys.dont_write_bytecode = True  # a mutant may have the size and the time of the file before it

ROOT = pathlib.Path(__file__).resolve().parents[1]

AREAS = {  # the modules of each
    "training": ["digan/training/*.py"],
    "models": ["digan/models/*.py"],
    "ops": ["kernels/fused_inr/ops/*.py"],
    "primitives": ["kernels/fused_inr/primitives/*.py"],
    "rendering": [f"kernels/fused_inr/{name}.py" for name in ("composed", "lowering", "render")],
    "metrics": ["digan/metrics/*.py"],
    "sampling": ["digan/sampling/*.py"],
    "data": ["digan/data/*.py"],
}

# Test files of a module besides the one that mirrors it; an op and its derivatives are tested together.
ALSO = {
    "kernels/fused_inr/primitives/mlp_jet.py": [
        "tests/fused_inr/test_compile.py",
        "tests/fused_inr/primitives/test_transforms.py",
    ],
    "digan/models/generator.py": ["tests/digan/models/test_hub.py"],
    "digan/training/trainer.py": ["tests/digan/training/test_iteration.py"],
    "kernels/fused_inr/ops/mlp.py": ["tests/fused_inr/test_networks.py"],
    "kernels/fused_inr/ops/precision.py": ["tests/fused_inr/ops/test_render.py", "tests/fused_inr/ops/test_mlp.py"],
    **{
        f"kernels/fused_inr/primitives/{op}.py": [
            f"tests/fused_inr/ops/test_{op}.py",
            "tests/fused_inr/primitives/test_transforms.py",
        ]
        for op in ("augment", "bias_act", "conv2d", "minibatch_stddev", "mlp", "render", "upfirdn2d")
    },
    "digan/data/decode.py": ["tests/digan/data/test_readers.py"],
    "digan/data/index.py": ["tests/digan/data/test_sources.py"],
    **{
        f"digan/data/{name}.py": ["tests/digan/data/test_sources.py", "tests/digan/data/test_clips.py"]
        for name in ("archive", "image", "timing", "training_data", "video")
    },
}

# Mutants that change no result: (module, line as mutated) and why.
EQUIVALENT: dict[tuple[str, str], str] = {
    (
        "digan/models/generator.py",
        "(save_directory / CONFIG_FILE).write_text(json.dumps(asdict(self.config), indent= 1))",
    ): "indentation of JSON",
    (
        "kernels/fused_inr/primitives/bias_act.py",
        "return (dx if with_x else None, sums if with_bias else None, gradient if with_residual else None, "
        "*[None] * 6)",
    ): "PyTorch ignores gradients of more arguments than there are, if they are None",
    (
        "kernels/fused_inr/primitives/bias_act.py",
        "dim = min(1, x.ndim - 2) if x.ndim else 0  # the axis is irrelevant without a bias",
    ): "images keep axis 1, and a matrix or a vector has one memory format",
    (
        "kernels/fused_inr/primitives/render.py",
        "def backward(ctx: Any, gradient: Tensor) -> tuple:",
    ): "PyTorch takes it from the class, where a static method is a plain function",
    (
        "kernels/fused_inr/ops/mlp.py",
        "for index, (weight, bias) in enumerate(zip(weights, biases, strict=False)):",
    ): "the lengths are compared before",
    ("kernels/fused_inr/ops/augment.py", "size = (0, 1)"): "nothing is cut out",
    ("kernels/fused_inr/render.py", "low, high = 0, limit | 1"): "the limit does not fit, nor does what is above it",
    ("kernels/fused_inr/render.py", "middle = (low + high + 2) // 2"): "the bisection takes other steps to its end",
    (
        "digan/training/flops.py",
        "while duration < seconds / 40 and size != 16384:  # a product must take longer than its launch",
    ): "sizes are doubled from 512, so none is larger",
    ("digan/models/layers.py", "spread = self.fir.shape[ 1] // 2"): "the filter is square",
    ("digan/training/augment.py", "@dataclass(frozen=False)"): "nothing assigns to its fields",
    ("digan/models/mapping.py", "if z_dim == 0 and num_classes <= 0:"): "a number of classes is not negative",
    (
        "digan/training/trainer.py",
        "for p, gradient in zip(params, gradients, strict=False):",
    ): "the gradients were cut into as many parts as there are parameters",
}

PRELOAD = "torch torch._dynamo torch.testing accelerate pytest scipy.linalg safetensors.torch av PIL.Image yaml".split()
CPU_SECONDS = 300
WALL_SECONDS = 600


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change of one module: an occurrence of one of cosmic-ray's operators."""

    path: str
    line: int
    column: int
    operator: str
    occurrence: int

    def code(self) -> str:
        """Return the mutated source text."""
        from cosmic_ray.mutating import mutate_code
        from cosmic_ray.plugins import get_operator

        return mutate_code(
            (ROOT / self.path).read_text(encoding="utf-8"), get_operator(self.operator)(), self.occurrence
        )

    def compiles(self) -> bool:
        """Whether the mutated text is sensible Python: operators are replaced without regard to where they stand."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # such as identity with a literal
            try:
                compile(self.code(), self.path, "exec")
            except SyntaxError:
                return False
        return True

    def changed(self) -> str:
        """Return the first line that differs, as mutated."""
        pairs = zip(source_lines(self.path), self.code().splitlines(), strict=False)
        return next((new.strip() for old, new in pairs if old != new), "")

    def __str__(self) -> str:
        return f"{self.path}:{self.line}  {self.changed()}"


@functools.cache
def source_lines(path: str) -> list[str]:
    """Return the lines of a module."""
    return (ROOT / path).read_text(encoding="utf-8").splitlines()


def in_annotation(node) -> bool:
    """Whether a node is part of a type annotation, which has no effect at run time."""
    while node.parent is not None:
        parent = node.parent
        if parent.type in ("tfpdef", "annassign") and node is parent.children[2 if parent.type == "tfpdef" else 1]:
            return True
        if parent.type == "funcdef" and node is parent.annotation:
            return True
        node = parent
    return False


def mutants_of(path: str) -> list[Mutant]:
    """Return every mutant of a module."""
    from cosmic_ray.ast import ast_nodes, get_ast_from_path
    from cosmic_ray.plugins import get_operator, operator_names

    nodes, found = list(ast_nodes(get_ast_from_path(ROOT / path))), []
    for name in operator_names():
        operator = get_operator(name)
        if operator.arguments():
            continue
        places = [(node, *start) for node in nodes for start, _ in operator().mutation_positions(node)]
        found += [
            Mutant(path, line, column, name, occurrence)
            for occurrence, (node, line, column) in enumerate(places)
            if not in_annotation(node)
        ]
    return found


def sample(area: str, count: int, seed: int) -> list[Mutant]:
    """Draw mutants of an area: `count` places in its modules, and one mutant of each place.

    The order is that of digests of the text, so that editing one line leaves the rest of the sample as it is.
    """
    places: dict[tuple[str, int, int], list[Mutant]] = {}
    for path in sorted(path.relative_to(ROOT).as_posix() for pattern in AREAS[area] for path in ROOT.glob(pattern)):
        for mutant in mutants_of(path) if tests_of(path) else ():
            places.setdefault((path, mutant.line, mutant.column), []).append(mutant)

    def digest(*parts: object) -> str:
        return hashlib.sha256(repr((seed, *parts)).encode()).hexdigest()

    def of_place(place: tuple[str, int, int]) -> str:
        path, line, column = place
        return digest(path, source_lines(path)[line - 1].strip(), column)

    chosen: list[Mutant] = []
    for place in sorted(places, key=lambda place: (of_place(place), place)):
        here = sorted(places[place], key=lambda mutant: digest(mutant.operator, mutant.occurrence % 2))
        chosen += [mutant for mutant in here if mutant.compiles()][:1]
        if len(chosen) == count:
            break
    return sorted(chosen, key=lambda m: (m.path, m.line, m.column))


def tests_of(path: str) -> list[str]:
    """Return the test files of a module: the one that mirrors it, and those of `ALSO`."""
    place = pathlib.PurePosixPath(path.removeprefix("kernels/"))
    mirror = pathlib.PurePosixPath("tests") / place.with_name(f"test_{place.name}")
    return [*([str(mirror)] if (ROOT / mirror).exists() else []), *ALSO.get(path, [])]


def run_tests(tree: pathlib.Path, tests: list[str]) -> None:
    """Run test files on a tree, in a process of its own; the exit status is that of pytest."""
    import pytest

    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    log = os.open(tree / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(tree)
    own = [str(tree), str(tree / "kernels")]
    sys.path[:] = own + [entry for entry in sys.path if not pathlib.Path(entry).is_relative_to(ROOT)]
    os.environ["PYTHONPATH"] = os.pathsep.join(own)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    options = ["-x", "-q", "-m", "not gpu", "-p", "no:cacheprovider", "-p", "no:xdist", "--basetemp", str(tree / "tmp")]
    status = int(pytest.main([*options, *tests]))
    sys.stdout.flush()
    os._exit(status)


class Runner:
    """Runs the tests of mutants on copies of the tree, several at a time."""

    def __init__(self, folder: pathlib.Path, jobs: int) -> None:
        self.trees = [folder / str(number) for number in range(jobs)]
        skipped = shutil.ignore_patterns(".*", "__pycache__", "build", "runs", "results")
        for tree in self.trees:
            shutil.copytree(ROOT, tree, ignore=skipped)

    def outcomes(self, mutants: list[Mutant | None], tests: list[list[str]]):
        """Yield (mutant, outcome, log) as they come: "killed" or "survived"; None is the tree unchanged."""
        waiting, free, running = list(zip(mutants, tests, strict=True)), list(self.trees), {}
        context = multiprocessing.get_context("fork")
        while waiting or running:
            while waiting and free:
                (mutant, files), tree = waiting.pop(0), free.pop()
                if mutant is not None:
                    (tree / mutant.path).write_text(mutant.code(), encoding="utf-8")
                process = context.Process(target=run_tests, args=(tree, files))
                process.start()
                running[process] = (mutant, tree, time.monotonic() + WALL_SECONDS)
            multiprocessing.connection.wait([process.sentinel for process in running], timeout=5)
            for process, (mutant, tree, deadline) in list(running.items()):
                late = time.monotonic() > deadline
                if process.is_alive() and not late:
                    continue
                with contextlib.suppress(ProcessLookupError):  # what the tests started ends with them
                    os.killpg(process.pid, signal.SIGKILL)
                process.join()
                del running[process]
                free.append(tree)
                if mutant is not None:
                    shutil.copyfile(ROOT / mutant.path, tree / mutant.path)
                outcome = "survived" if process.exitcode == 0 else "killed"
                yield mutant, outcome, tree / "log.txt"


def main() -> int:
    """Run a sample of each area and print what survived, and how many were killed of each module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("areas", nargs="*", metavar="AREA", help=", ".join(AREAS))
    parser.add_argument("--all", action="store_true", help="every area")
    parser.add_argument("--mutants", type=int, default=25, help="number of mutants of each area (25)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample (0)")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time (1)")
    parser.add_argument("--match", default="", help="only the mutants of the sample whose line contains this text")
    parser.add_argument("--list", action="store_true", help="print the sample without running it")
    options = parser.parse_args()
    areas = list(AREAS) if options.all else options.areas
    if not areas or not set(areas) <= set(AREAS):
        parser.error(f"name some of {', '.join(AREAS)}, or --all.")
    if absent := [name for names in ALSO.values() for name in names if not (ROOT / name).exists()]:
        parser.error(f"ALSO names {absent[0]}, which does not exist.")
    samples = {area: sample(area, options.mutants, options.seed) for area in areas}
    samples = {area: [m for m in mutants if options.match in str(m)] for area, mutants in samples.items()}
    if options.list:
        print("\n".join(str(m) for mutants in samples.values() for m in mutants))
        return 0
    for name in PRELOAD:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        runner = Runner(pathlib.Path(folder), options.jobs)
        return max(report(area, mutants, runner) for area, mutants in samples.items())


def report(area: str, mutants: list[Mutant], runner: Runner) -> int:
    """Run the mutants of an area and print the outcome; return 1 where fewer than 90 % were killed."""
    counts: dict[str, list[int]] = {}
    unproven = {tuple(tests_of(m.path)) for m in mutants}
    for mutant, outcome, _ in runner.outcomes(mutants, [tests_of(m.path) for m in mutants]):
        if outcome == "survived":
            unproven.discard(tuple(tests_of(mutant.path)))
            if (mutant.path, mutant.changed()) in EQUIVALENT:
                outcome = "equivalent"
        count = counts.setdefault(mutant.path, [0, 0, 0])
        count[0] += outcome == "killed"
        count[1] += outcome != "equivalent"
        count[2] += outcome == "equivalent"
        print(f"{outcome:10s}  {mutant}", flush=True)
    # A survivor shows that the tests pass; where all were killed, they must pass without a mutant.
    for _, outcome, log in runner.outcomes([None] * len(unproven), [list(tests) for tests in sorted(unproven)]):
        if outcome != "survived":
            sys.exit(f"tests fail without any mutant:\n{log.read_text()[-2000:]}")
    for path in sorted(counts):
        killed, total, equivalent = counts[path]
        print(f"{killed:4d} of {total:3d} killed, {equivalent} equivalent  {path}")
    killed, total = (sum(count[i] for count in counts.values()) for i in (0, 1))
    print(f"{killed:4d} of {total:3d} killed  {area}", flush=True)
    return int(killed < 0.9 * total)


if __name__ == "__main__":
    sys.exit(main())
