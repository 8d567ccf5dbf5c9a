"""What the distribution needs, and that its versions are written once or agree."""

import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Modules whose names differ from those of their packages.
MODULES = {"pillow": "PIL", "pyyaml": "yaml"}


def package_names(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w-]+", requirement)[0] for requirement in requirements} - {"digan"}


def constraints() -> dict[str, str]:
    return dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())


def run_without(packages: set[str], script: str) -> subprocess.CompletedProcess:
    """Run a script in a new process in which some packages seem to be missing, once `digan` is imported."""
    names = [MODULES.get(package, package) for package in packages]
    script = f"import sys, digan\nsys.modules.update(dict.fromkeys({names}))\n{script}"
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}", "PATH": ""}
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=120, check=False
    )


def run_command(packages: set[str], *arguments: str) -> subprocess.CompletedProcess:
    script = f"import runpy\nsys.argv[1:] = {arguments}\nrunpy.run_module('digan', run_name='__main__', alter_sys=True)"
    return run_without(packages, script)


def test_importing_loads_nothing_of_the_extra():
    script = "import sys, digan, fused_inr\nprint(*{name.partition('.')[0] for name in sys.modules})"
    modules = set(run_without(set(), script).stdout.split())
    assert {"digan", "fused_inr", "torch"} <= modules
    # huggingface_hub needs pyyaml and tqdm and may load them.
    extra = package_names(PROJECT["optional-dependencies"]["train"]) - {"pyyaml", "tqdm"}
    assert not modules & {MODULES.get(package, package) for package in extra}


@pytest.mark.parametrize(("command", "extra"), [("sample", "train"), ("explore", "explore"), ("report", "report")])
def test_commands_name_all_packages_of_their_extra(command, extra):
    extras = PROJECT["optional-dependencies"]
    packages = package_names(extras["train"]) | package_names(extras[extra])
    result = run_command(packages, command, "none")
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    sentence = rf"digan {command} needs packages that are not installed \((.*)\): pip install 'digan\[{extra}\]'\n"
    assert set(re.fullmatch(sentence, result.stderr)[1].split(", ")) == packages


def test_one_missing_package_is_named():
    evaluate = run_command({"accelerate"}, "evaluate", "--help")
    assert evaluate.returncode == 2
    expected = "digan evaluate needs packages that are not installed (accelerate): pip install 'digan[train]'\n"
    assert evaluate.stderr == expected


def test_a_missing_package_outside_the_extra_is_not_hidden():
    sample = run_command({"numpy"}, "sample", "--help")
    assert sample.returncode == 1
    assert "ModuleNotFoundError" in sample.stderr


def test_every_requirement_is_pinned():
    groups = [["setuptools"], PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    requirements = [requirement for group in groups for requirement in group]
    assert not package_names(requirements) - constraints().keys()


def test_hooks_run_the_pinned_versions():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    pins = {pin for repo in config["repos"] for hook in repo["hooks"] for pin in hook["additional_dependencies"]}
    assert {pin.split("==")[0] for pin in pins} == {"clang-format", "codespell", "ruff"}
    assert all(constraints()[name] == version for name, version in (pin.split("==") for pin in pins))


@pytest.mark.parametrize("fullname", ["fused_inr.x.cpu._native", "fused_inr.x.cuda._native"])
def test_libraries_are_named_for_every_python(fullname, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("setuptools.setup", lambda **options: None)
    build_ext = runpy.run_path("setup.py")["BuildExt"]
    assert build_ext.get_ext_filename(None, fullname) == f"{fullname.replace('.', '/')}.so"
