"""The documents name paths, functions and commands that exist, and the architecture page lists every source file."""

import ast
import importlib
import importlib.util
import inspect
import re
import shlex
from pathlib import Path

import pytest

import fused_inr as fi
from digan.cli.main import COMMANDS
from digan.cli.options import OptionParser

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    *(f"docs/{path.name}" for path in sorted(Path(__file__).parents[1].glob("docs/*.md"))),
]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
# Not preceded by what would make it the end of a longer path.
MENTION = re.compile(r"(?<![\w/.-])(?:digan|kernels|csrc|tests|benchmarks|docs|examples)/[\w./*<>-]*")
SOURCES = [
    ("digan", "*.py"),
    ("kernels/fused_inr", "*.py"),
    ("csrc", "*"),
    ("benchmarks", "*.py"),
    ("examples", "*.py"),
]
WALKS = re.findall(r"^### (From .*?)\n(.*?)^(\d+) files", ARCHITECTURE, re.MULTILINE | re.DOTALL)


def mentioned_paths(document: str) -> list[str]:
    """Return the paths of the repository that a document mentions; a placeholder becomes a pattern."""
    paths = {match.rstrip("./") for match in MENTION.findall((ROOT / document).read_text(encoding="utf-8"))}
    return sorted(re.sub(r"<\w+>", "*", path) for path in paths)


def listed_files() -> list[str]:
    """Return the files in the tables of the architecture page, each below the heading of its folder."""
    sections = re.findall(r"^### `(.*?)/`\n(.*?)(?=^##|\Z)", ARCHITECTURE, re.MULTILINE | re.DOTALL)
    return [f"{folder}/{name}" for folder, table in sections for name in re.findall(r"^\| `(.*?)` \|", table, re.M)]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_mentioned_paths_exist(document):
    paths = mentioned_paths(document)
    assert paths or document.startswith("docs/")
    # In a pattern of git, a star matches slashes too.
    missing = [path for path in paths if not any(ROOT.glob(path)) and not any(ROOT.glob(path.replace("/*", "/**/*")))]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files(document):
    targets = re.findall(r"\]\(([^)#:]+)\)", (ROOT / document).read_text(encoding="utf-8"))
    assert [target for target in targets if not (ROOT / document).parent.joinpath(target).exists()] == []


def test_the_readme_links_every_page():
    links = set(re.findall(r"\]\((docs/[^)#]+\.md)", (ROOT / "README.md").read_text(encoding="utf-8")))
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert pages - links == {"docs/index.md"}  # the start page of the site takes the README's place


def test_architecture_lists_every_source_file_once():
    files = [
        path.relative_to(ROOT).as_posix()
        for folder, pattern in SOURCES
        for path in (ROOT / folder).rglob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    ]
    # The other files of this name hold a docstring, or names of the package's own modules.
    optional = {path for path in files if path.endswith("/__init__.py")}
    listed = listed_files()
    assert len(listed) == len(set(listed))
    assert set(listed) - optional == set(files) - optional
    assert set(listed) <= set(files)


def test_architecture_counts_the_files_of_its_walks():
    assert len(WALKS) == 3
    for title, text, count in WALKS:
        assert len(set(re.findall(r"[\w/]+/\w+\.(?:py|cpp|h)\b", text))) == int(count), title


def test_architecture_names_functions_of_the_files_it_walks():
    """Each name in backticks occurs in a file of its walk."""
    for title, text, _ in WALKS:
        files = set(re.findall(r"[\w/]+/\w+\.(?:py|cpp|h)\b", text))
        code = "\n".join((ROOT / file).read_text(encoding="utf-8") for file in files)
        names = {
            part
            for name in re.findall(r"`([A-Za-z_]+(?:(?:\.|::)[A-Za-z_]+)*)`", text)
            for part in re.split(r"\.|::", name)
        }
        assert {name for name in names if not re.search(rf"\b{name}\b", code)} == set(), title


def commands() -> list[list[str]]:
    """Return the `digan` commands of the documents as words; `digan/train.py` is `digan train`."""
    text = "\n".join((ROOT / document).read_text(encoding="utf-8") for document in DOCUMENTS)
    text = re.sub(r"\\\n\s+", "", text).replace("digan/train.py", "digan train")
    lines = re.findall(r"^(?:    )?accelerate launch .*?(digan train[^#\n]*)", text, re.MULTILINE)
    return [shlex.split(line)[1:] for line in [*lines, *re.findall(r"`(digan [a-z]+ [^`]*)`", text)]]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_have_these_options(words):
    module = importlib.import_module(COMMANDS[words[0]][0])
    parser = OptionParser(words[0], **getattr(module, "PARSER", {}))
    module.configure(parser)
    parser.parse(words[1:])  # raises for an unknown option


def test_modules_that_are_run_exist():
    text = "\n".join((ROOT / document).read_text(encoding="utf-8") for document in DOCUMENTS)
    modules = set(re.findall(r"python3? -m ([a-z_]+(?:\.[a-z_]+)*)", text)) - {"venv", "build"}
    assert {"digan", "fused_inr", "fused_inr.tools.triton", "benchmarks.profile_step"} <= modules
    assert {name for name in modules if importlib.util.find_spec(name) is None} == set()


def messages() -> list[str]:
    """Return the texts in the sources, with a placeholder for each value that is filled in."""
    texts = []
    for path in [*ROOT.glob("digan/**/*.py"), *ROOT.glob("kernels/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values]
                texts.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def test_troubleshooting_quotes_messages_of_the_sources():
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^`(.*?)`$", page, re.MULTILINE)
    assert len(quoted) >= 10
    texts = messages()
    patterns = [".*".join(map(re.escape, quote.split("…"))) for quote in quoted]
    found = [any(re.search(pattern, text) for text in texts) for pattern in patterns]
    assert [quote for quote, exists in zip(quoted, found, strict=True) if not exists] == []


PUBLIC = {f"fi.{name}": getattr(fi, name) for name in fi.__all__ if name != "nn"}
PUBLIC |= {f"fi.nn.{name}": getattr(fi.nn, name) for name in fi.nn.__all__}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_function_of_fused_inr_is_documented(name):
    """Each has one heading in docs/fused_inr.md, with the parameters and defaults of the code."""
    text = (ROOT / "docs" / "fused_inr.md").read_text(encoding="utf-8")
    headings = re.findall(rf"^### `{re.escape(name)}(?:\((.*)\))?`$", text, re.MULTILINE)
    assert len(headings) == 1
    if callable(PUBLIC[name]):
        scope: dict = {}
        exec(f"def documented({headings[0]}): pass", scope)
        documented, actual = inspect.signature(scope["documented"]), inspect.signature(PUBLIC[name])
        described = [(p.name, p.kind, p.default) for p in documented.parameters.values()]
        assert described == [(p.name, p.kind, p.default) for p in actual.parameters.values()]
