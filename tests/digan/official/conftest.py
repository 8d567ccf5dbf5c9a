"""A genuine official snapshot, and helpers that write others."""

import io
import lzma
import pickle
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch

from digan.cli.main import main
from digan.official import names as official_names
from digan.official.snapshot import OfficialSnapshot

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture(scope="session")
def genuine(tmp_path_factory):
    """Return the path of a snapshot that the official implementation wrote, with narrow networks."""
    path = tmp_path_factory.mktemp("official") / "network-snapshot-000400.pkl"
    path.write_bytes(lzma.decompress((FIXTURES / "official_snapshot_small.pkl.xz").read_bytes()))
    return path


@pytest.fixture(scope="session")
def converted(genuine):
    """Convert the snapshot; return the paths of the generator and the discriminators."""
    out = genuine.with_name("g.safetensors"), genuine.with_name("d.safetensors")
    assert main(["convert", str(genuine), str(out[0]), "--discriminators", str(out[1])]) == 0
    return out


class Module:
    """An object that is pickled as the official implementation pickles its modules."""

    def __init__(self, kind, parameters=(), buffers=(), modules=(), **attributes):
        members = {"_parameters": dict(parameters), "_buffers": dict(buffers), "_modules": dict(modules)}
        self.state = members | attributes
        self.meta = {"type": "class", "version": 6, "module_src": "raise SystemExit", "class_name": kind}
        self.meta["state"] = self.state

    def __reduce__(self):
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,)


class OldTensor:
    """An object that is pickled as PyTorch 1.7 pickled tensors."""

    def __init__(self, tensor):
        self.tensor = tensor.detach().contiguous()

    def __reduce__(self):
        x = self.tensor
        return torch._utils._rebuild_tensor_v2, (OldStorage(x), 0, tuple(x.shape), x.stride(), False, {})


class OldStorage:
    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce__(self):
        buffer = io.BytesIO()
        with warnings.catch_warnings(action="ignore"):
            torch.save(self.tensor.flatten().storage(), buffer, _use_new_zipfile_serialization=False)
        return torch.storage._load_from_bytes, (buffer.getvalue(),)


def _tree(kind, tensors, **attributes):
    """Return nested modules that hold tensors under their dotted names."""
    here = {name: OldTensor(x) for name, x in tensors.items() if "." not in name}
    below = {}
    for name, x in tensors.items():
        head, dot, tail = name.partition(".")
        if dot:
            below.setdefault(head, {})[tail] = x
    children = {name: _tree(name, inner) for name, inner in below.items()}
    return Module(kind, parameters=here, modules=children, **attributes)


@pytest.fixture
def dump(monkeypatch, tmp_path):
    """Return a function that writes a snapshot of the given networks."""
    loader = types.ModuleType("torch_utils.persistence")
    exec("def _reconstruct_persistent_obj(meta): raise SystemExit", loader.__dict__)
    loader._reconstruct_persistent_obj.__module__ = loader.__name__
    monkeypatch.setitem(sys.modules, "torch_utils", types.ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, loader.__name__, loader)

    def write(protocol=3, **content):
        path = tmp_path / "network-snapshot-000000.pkl"
        path.write_bytes(pickle.dumps(content, protocol))
        return path

    return write


@pytest.fixture(scope="session")
def names(genuine):
    """Return the official names of the generator's tensors."""
    return [name for name in OfficialSnapshot(genuine).stored("G_ema").tensors if not name.endswith("resample_filter")]


@pytest.fixture
def module():
    """Return the class whose instances are pickled as official modules."""
    return Module


@pytest.fixture
def old_tensor():
    """Return the class whose instances are pickled as PyTorch 1.7 pickled tensors."""
    return OldTensor


@pytest.fixture
def tree():
    """Return a function that makes nested modules of tensors with dotted names."""
    return _tree


@pytest.fixture
def official_tensors(names):
    """Return a function that returns a generator's tensors under their official names, `more` included."""

    def rename(generator, more=()):
        state = generator.state_dict()
        return {name: state[official_names.generator_name(name)] for name in (*names, *more)}

    return rename
