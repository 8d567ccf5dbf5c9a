"""The commands and the Python of the documents run, at small sizes; what needs data or a GPU is marked."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
MARKS = ("<!-- needs data -->", "<!-- needs a GPU -->")
BLOCK = re.compile(r"(?:^|\n)([^\n]*)\n```(sh|python)\n(.*?)```", re.DOTALL)
# Widths and lengths that train in seconds.
SMALL = (
    "--kimg 0.032 --channel-base 128 --channel-max 8 --z-dim 8 --w-dim 8 --fourier-dim 4 --fmm-rank 2 --workers 0 "
    "--metrics none --report-to none --samples 1"
)
# Commands that are not run here, and who runs them.
SKIPPED = {
    "python3 -m venv .venv && . .venv/bin/activate": "CI runs the README's test command, which begins with it",
    "pip install -c constraints.txt -e '.[test]'": "CI runs the README's test command, which contains it",
    "ruff check && ruff format --check && pytest -n auto": "CI runs the README's test command, which ends with it",
    "pip install -c constraints.txt -e '.[train]'": "a part of the extra `test`, which CI installs",
    "pip install .": "CI installs the wheel that is built from the source distribution",
    "pytest benchmarks/ --benchmark-only": "takes 10 minutes; tests/benchmarks/test_suite.py runs it with tiny sizes",
    "python -m benchmarks.report FILE": "FILE is what the benchmarks write; tests/benchmarks/test_suite.py runs it",
}


def blocks(language: str) -> list[tuple[str, str]]:
    """Return (document, text) of the blocks of a language that are not marked."""
    found = []
    for document in DOCUMENTS:
        for before, kind, text in BLOCK.findall((ROOT / document).read_text(encoding="utf-8")):
            if kind == language and before not in MARKS:
                found.append((document, text))
    return found


def command_lines(text: str) -> list[str]:
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def small(line: str) -> list[str]:
    """Return the words of a command of a document, which runs in seconds."""
    words = shlex.split(line, comments=True)
    if words[:3] == ["accelerate", "launch", "digan/train.py"]:
        words = ["digan", "train", *words[3:], *SMALL.split()]
    if words[:2] == ["digan", "sample"]:
        words += ["--frames", "2", "--videos", "1"]
    return [sys.executable, "-m", *words] if words[0] in ("digan", "pytest") else words


@pytest.fixture
def folder(tmp_path):
    """A folder with videos, in which the commands run."""
    from digan.data import make_demo_videos

    make_demo_videos(tmp_path / "my_videos", videos=4, frames=16, resolution=32)
    return tmp_path


def run(words: list[str], folder: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"


@pytest.mark.ci
@pytest.mark.parametrize("document", sorted({document for document, _ in blocks("sh")}))
def test_commands_run(document, folder):
    for _, text in (block for block in blocks("sh") if block[0] == document):
        for line in command_lines(text):
            if line not in SKIPPED:
                run(small(line), folder)


@pytest.mark.slow
@pytest.mark.parametrize("document", sorted({document for document, _ in blocks("python")}))
def test_python_runs(document, folder):
    """The blocks of a document run one after the other; a network lies where the README has one."""
    from digan import Generator
    from digan.config import GeneratorConfig

    snapshots = folder / "runs" / "00000-demo-32x16-batch8" / "snapshots"
    snapshots.mkdir(parents=True)
    config = GeneratorConfig(resolution=32, z_dim=8, w_dim=8, fourier_dim=4, channel_base=128, channel_max=8)
    Generator(config).save(snapshots / "network-snapshot-000400.safetensors")
    text = "\n".join(text for name, text in blocks("python") if name == document)
    (folder / "snippet.py").write_text(text, encoding="utf-8")
    run([sys.executable, "snippet.py"], folder)


def test_skipped_commands_occur_in_documents():
    lines = {line for _, text in blocks("sh") for line in command_lines(text)}
    assert set(SKIPPED) <= lines


def test_unmarked_blocks_exist():
    assert {document for document, _ in blocks("sh")} >= {"README.md", "docs/your-videos.md"}
    assert {document for document, _ in blocks("python")} >= {"README.md", "docs/renderer.md"}


def test_the_test_command_is_found_below_its_heading():
    """`.ci/run` runs the block below the README's heading Test, which is also its second block of shell commands."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    below = BLOCK.findall(text.partition("\n## Test\n")[2])
    assert [block for _, kind, block in below if kind == "sh"] == [blocks("sh")[1][1]]
    assert blocks("sh")[1][0] == "README.md"
    assert "pytest" in blocks("sh")[1][1]
