"""The C structs of csrc/cpu/abi.h and their mirrors in `native`: every field, offset and size."""

import ctypes
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fused_inr._backends.cpu import native

HEADER = Path(__file__).parents[4] / "csrc" / "cpu" / "abi.h"
MIRRORS = {
    f"FusedInr{name.removesuffix('Struct')}": mirror
    for name, mirror in vars(native).items()
    if name.endswith("Struct") and issubclass(mirror, ctypes.Structure)
}


def fields_of_header() -> dict[str, list[str]]:
    """Return the field names of every struct of the header, in order."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
    return {
        name: [
            re.search(r"\w+(?=\s*(?:\[\w*\])?$)", declarator.strip())[0]
            for declaration in body.split(";")[:-1]
            for declarator in declaration.split(",")
        ]
        for name, body in re.findall(r"^struct\s+(\w+)\s*\{(.*?)\}\s*;", text, re.DOTALL | re.MULTILINE)
    }


def test_every_struct_has_a_mirror():
    assert set(MIRRORS) == set(fields_of_header())


def test_fields_are_those_of_the_header():
    names = {"in": "inputs", "out": "outputs"}  # fields of a layer; `in` is a Python keyword
    for struct, fields in fields_of_header().items():
        expected = [names.get(field, field) for field in fields] if struct == "FusedInrLayer" else fields
        assert [field[0] for field in MIRRORS[struct]._fields_] == expected, struct


def test_offsets_and_sizes_are_those_of_the_header(tmp_path):
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    numbers = [
        number
        for struct, fields in fields_of_header().items()
        for number in (f"sizeof({struct})", *(f"offsetof({struct}, {field})" for field in fields))
    ]
    source, program = tmp_path / "offsets.cpp", tmp_path / "offsets"
    prints = "\n".join(f'  printf("%zu\\n", static_cast<size_t>({number}));' for number in numbers)
    source.write_text(
        f'#include <cstddef>\n#include <cstdio>\n\n#include "{HEADER.name}"\n\nint main() {{\n{prints}\n}}\n'
    )
    command = [*compiler.split(), "-std=c++17", f"-I{HEADER.parent}", str(source), "-o", str(program)]
    compiled = subprocess.run(command, capture_output=True, text=True, check=False)
    assert compiled.returncode == 0, compiled.stderr
    printed = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout.split()
    expected = []
    for struct in fields_of_header():
        mirror = MIRRORS[struct]
        expected += [ctypes.sizeof(mirror), *(getattr(mirror, field[0]).offset for field in mirror._fields_)]
    assert dict(zip(numbers, map(int, printed), strict=True)) == dict(zip(numbers, expected, strict=True))
