"""Hostile files: each payload takes effect in Python's own unpickler, and has no effect in ours."""

import contextlib
import copyreg
import gc
import io
import os
import pickle
import random
import struct
import subprocess
import sys
import time
import tracemalloc
import types
import warnings
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from digan.errors import NetworkError
from digan.official.policy import _CALLS, StoredTensor, load
from digan.official.unpickle import Global, Record

MODULE = "a_library_of_payloads"  # not a standard one


class Calls:
    """An object that is pickled as the call of a function or class."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.fixture
def library(monkeypatch):
    """Make a module whose classes have effects: each touches the file that is its argument or in its state."""
    module = types.ModuleType(MODULE)

    class OnInit:
        def __init__(self, path):
            Path(path).touch()

    class OnNew:
        def __new__(cls, path):
            Path(path).touch()
            return super().__new__(cls)

        def __getnewargs__(self):
            return (self.path,)

    class OnSetState:
        def __setstate__(self, state):
            Path(state["path"]).touch()

    class OnHash:
        def __init__(self, path):
            self.path = path

        def __setstate__(self, state):
            self.path = state["path"]

        def __hash__(self):
            if hasattr(self, "path"):
                Path(self.path).touch()
            return 1

    class OnAppend(list):
        path = None

        def extend(self, items):
            Path(next(iter(items))).touch()

        append = extend

    class OnKeywords:
        def __new__(cls, *, path):
            Path(path).touch()
            return super().__new__(cls)

    class OnSetItem(dict):
        def __setitem__(self, key, value):
            Path(key).touch()

    class OnAdd:
        def add(self, item):
            Path(item).touch()

    def run_source(meta):
        exec(meta["module_src"])
        return {}

    module.run_source = run_source
    for cls in (OnInit, OnNew, OnSetState, OnHash, OnAppend, OnKeywords, OnSetItem, OnAdd):
        cls.__module__, cls.__qualname__ = MODULE, cls.__name__
        setattr(module, cls.__name__, cls)
    monkeypatch.setitem(sys.modules, MODULE, module)
    return module


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "marker"


def snapshot(tmp_path, data):
    path = tmp_path / "network-snapshot-000000.pkl"
    path.write_bytes(data)
    return path


def is_live(data, marker):
    """Return whether Python's unpickler lets the payload touch the marker, and remove it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a payload may open the marker and leave it open
        with contextlib.suppress(Exception):  # many payloads fail after their effect
            pickle.loads(data)
        gc.collect()
    live = marker.exists()
    marker.unlink(missing_ok=True)
    return live


def refuses(tmp_path, data, marker, match):
    path = snapshot(tmp_path, data)
    with pytest.raises(NetworkError, match=match) as error:
        load(path)
    assert not marker.exists()
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def text(value):
    return b"X" + struct.pack("<I", len(str(value))) + str(value).encode()


def called(name, *args):
    """Return the instructions for a call, as in the oldest binary protocol."""
    return b"c" + name.replace(" ", "\n").encode() + b"\n(" + b"".join(args) + b"tR"


def storage(description=None, data=bytes(4), numel=1, persistent=None):
    """Return what torch.save wrote of a storage; `description` replaces its third pickle, `persistent` its identity."""
    pickles = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    parts = [pickle.dumps(value, 2) for value in pickles]
    parts[2] = description or parts[2]
    name = b"ctorch\nFloatStorage\n"
    identity = b"(" + text("storage") + name + text("0") + text("cpu") + b"J" + struct.pack("<i", numel) + b"Nt"
    parts.append(b"\x80\x02" + (persistent or identity) + b"Q.")
    parts.append(pickle.dumps(["0"], 2))
    return b"".join(parts) + struct.pack("<q", numel) + data


def encodable(data):
    """Return the instructions for the text whose latin1 encoding is `data`."""
    encoded = data.decode("latin1").encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def stored(data):
    """Return the instructions for a storage inside a snapshot."""
    return called("torch.storage _load_from_bytes", b"B" + struct.pack("<I", len(data)) + data)


def tensor(memory, offset=0, shape=(1,), stride=(1,)):
    layout = [pickle.dumps(x, 2)[2:-1] for x in (offset, shape, stride)]
    return called("torch._utils _rebuild_tensor_v2", memory, *layout, b"\x89", b"}")


def touch(marker):
    return f"open({str(marker)!r}, 'w').close()"


def shell(marker):
    return text(f"touch {marker}")


def on_init():
    return f"{MODULE}\nOnInit\n".encode()


CALLS = {
    "os.system": lambda m: called("os system", shell(m)),
    "posix.system": lambda m: called("posix system", shell(m)),
    "subprocess.call": lambda m: called("subprocess call", b"](" + text("touch") + text(m) + b"e"),
    "exec": lambda m: called("builtins exec", text(touch(m))),
    "eval of Python 2": lambda m: called("__builtin__ eval", text(touch(m))),
    "commands of Python 2": lambda m: called("commands getoutput", shell(m)),
    "open": lambda m: called("builtins open", text(m), text("w")),
    "getattr": lambda m: called("builtins getattr", called("importlib import_module", text("os")), text("system"))
    + b"(" + shell(m) + b"tR",
    "functools.partial": lambda m: called("functools partial", b"cos\nsystem\n", shell(m)) + b")R",
    "operator.methodcaller": lambda m: called("operator methodcaller", text("touch")) + b"("
    + called("pathlib Path", text(m)) + b"tR",
    "pickle.loads": lambda m: called("pickle loads", pickle.dumps(called("os system", shell(m)) + b".", 3)[2:-1]),
    "method of a class": lambda m: called("pathlib Path.touch", called("pathlib Path", text(m))),
    "function of a library": lambda m: called("torch.serialization os.system", shell(m)),
    "library's own function": lambda m: called("numpy savetxt", text(m), b"]"),
    "text as a name": lambda m: text("torch") + text("serialization.os.system") + b"\x93(" + shell(m) + b"tR",
    "dotted name in a module that may be named": lambda m: text("typing") + text("contextlib.os.system") + b"\x93("
    + shell(m) + b"tR",
    "INST": lambda m: b"(" + shell(m) + b"ios\nsystem\n",
    "OBJ": lambda m: b"(cos\nsystem\n" + shell(m) + b"o",
    "a class": lambda m: called(f"{MODULE} OnInit", text(m)),
    "a class by INST": lambda m: b"(" + text(m) + b"i" + on_init(),
    "a class by OBJ": lambda m: b"(c" + on_init() + text(m) + b"o",
}  # fmt: skip


class TestCalls:
    @pytest.mark.parametrize("payload", CALLS.values(), ids=CALLS)
    def test_refused(self, payload, tmp_path, marker, library):
        pickles = [b"\x80" + bytes([protocol]) + payload(marker) + b"." for protocol in (2, 4)]
        assert any(is_live(data, marker) for data in pickles)  # each protocol has names of its own
        for data in pickles:
            refuses(tmp_path, data, marker, "(asks to call|names) .*no official snapshot does; nothing of it was run")

    @pytest.mark.parametrize("protocol", range(6))
    def test_reducers(self, protocol, tmp_path, marker, library):
        for call in [(subprocess.call, ["touch", str(marker)]), (library.OnInit, str(marker)), (exec, touch(marker))]:
            data = pickle.dumps({"G_ema": Calls(*call)}, protocol)
            assert is_live(data, marker)
            refuses(tmp_path, data, marker, "asks to call|names")

    def test_in_any_position(self, tmp_path, marker):
        evil = called("os system", text(f"touch {marker}"))
        for data in (b"](" + evil + b"e.", b"}(" + text("G_ema") + evil + b"u.", evil + b"0N.", b"(" + evil + b"1N."):
            assert is_live(data, marker)
            refuses(tmp_path, data, marker, "names os.system")

    def test_as_a_key(self, tmp_path, marker, library):
        data = pickle.dumps({library.OnHash(str(marker))}, 4)
        marker.unlink()
        assert is_live(data, marker)
        load(snapshot(tmp_path, data))  # a record has a hash of its own
        assert not marker.exists()


class TestObjects:
    """Creating an object and setting its state would call methods of its class; records call nothing and may pass."""

    def test_new(self, tmp_path, marker, library):
        thing = library.OnNew(str(marker))
        thing.path = str(marker)
        for protocol in (2, 4):
            data = pickle.dumps(thing, protocol)
            assert is_live(data, marker)
            value = load(snapshot(tmp_path, data)).value
            assert isinstance(value, Record)
            assert value.args == (str(marker),)
        assert not marker.exists()

    @pytest.mark.parametrize("protocol", range(6))
    def test_setstate(self, protocol, tmp_path, marker, library):
        thing = library.OnSetState()
        thing.path = str(marker)
        data = pickle.dumps(thing, protocol)
        assert is_live(data, marker)
        loaded = load(snapshot(tmp_path, data))
        assert not marker.exists()
        assert loaded.value.state == {"path": str(marker)}
        assert sum(loaded.inert.values()) == 1

    def test_new_with_keywords(self, tmp_path, marker, library):
        data = b"\x80\x04" + f"c{MODULE}\nOnKeywords\n".encode() + b")}" + text("path") + text(marker) + b"s\x92."
        assert is_live(data, marker)
        assert load(snapshot(tmp_path, data)).value.args == ((), {"path": str(marker)})
        assert not marker.exists()

    @pytest.mark.parametrize("items", [b"s", b"u"], ids=["SETITEM", "SETITEMS"])
    def test_setting_items(self, items, tmp_path, marker, library):
        mark = b"(" if items == b"u" else b""
        data = b"\x80\x04" + f"c{MODULE}\nOnSetItem\n".encode() + b")\x81" + mark + text(marker) + b"N" + items + b"."
        assert is_live(data, marker)
        assert load(snapshot(tmp_path, data)).value.entries == {str(marker): None}
        assert not marker.exists()

    def test_adding_items(self, tmp_path, marker, library):
        data = b"\x80\x04" + f"c{MODULE}\nOnAdd\n".encode() + b")\x81(" + text(marker) + b"\x90."
        assert is_live(data, marker)
        assert load(snapshot(tmp_path, data)).value.items == [str(marker)]
        assert not marker.exists()

    def test_setting_attributes_of_a_class(self, tmp_path, library):
        data = b"\x80\x04" + f"c{MODULE}\nOnAdd\n".encode() + b"N}" + text("payload") + b"K\x01s\x86b."
        pickle.loads(data)
        assert library.OnAdd.payload == 1
        del library.OnAdd.payload
        with pytest.raises(NetworkError, match="attributes to a plain value"):
            load(snapshot(tmp_path, data))
        assert not hasattr(library.OnAdd, "payload")

    def test_extension_registry(self, tmp_path, marker, monkeypatch):
        monkeypatch.setitem(copyreg._extension_cache, 0xF0, os.system)
        for code in (b"\x82\xf0", b"\x83\xf0\x00", b"\x84\xf0\x00\x00\x00"):
            data = b"\x80\x04" + code + b"(" + shell(marker) + b"tR."
            assert is_live(data, marker)
            refuses(tmp_path, data, marker, "extension registry")

    def test_appending(self, tmp_path, marker, library):
        data = b"\x80\x04" + f"c{MODULE}\nOnAppend\n".encode() + b")\x81(" + text(marker) + b"e."
        assert is_live(data, marker)
        assert load(snapshot(tmp_path, data)).value.items == [str(marker)]
        assert not marker.exists()

    def test_source_code_that_the_official_loader_runs(self, tmp_path, marker, library, monkeypatch):
        loader = types.ModuleType("torch_utils.persistence")
        loader._reconstruct_persistent_obj = library.run_source
        monkeypatch.setitem(sys.modules, "torch_utils", types.ModuleType("torch_utils"))
        monkeypatch.setitem(sys.modules, loader.__name__, loader)
        meta = {"type": "class", "version": 6, "module_src": touch(marker), "class_name": "Generator", "state": {}}
        data = called("torch_utils.persistence _reconstruct_persistent_obj", pickle.dumps(meta, 2)[2:-1]) + b"."
        assert is_live(data, marker)
        assert load(snapshot(tmp_path, data)).value.args[0]["class_name"] == "Generator"
        assert not marker.exists()

    def test_of_standard_classes(self, tmp_path, marker):
        data = b"\x80\x02csubprocess\nPopen\n)\x81."
        refuses(tmp_path, data, marker, "names subprocess.Popen")


class TestStorages:
    """torch.storage._load_from_bytes unpickles the pickles inside the pickle, and runs what they call."""

    @pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
    def test_genuine(self, tmp_path):
        def legacy(x):
            buffer = io.BytesIO()
            torch.save(x.storage(), buffer, _use_new_zipfile_serialization=False)
            loaded = Calls(torch.storage._load_from_bytes, buffer.getvalue())
            return Calls(
                torch._utils._rebuild_tensor_v2, loaded, x.storage_offset(), tuple(x.shape), x.stride(), False, {}
            )

        numbers = torch.arange(24)
        tensors = [numbers.to(t).view(2, 3, 4) for t in (torch.float32, torch.float64, torch.float16, torch.bfloat16)]
        tensors += [numbers.to(t) for t in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)]
        tensors += [tensors[0][1:, ::2].transpose(0, 2), torch.tensor(1.5), torch.empty(0, 3)]
        for protocol in (2, 3, 4, 5):
            data = pickle.dumps([legacy(x) for x in tensors], protocol)
            for x, again in zip(tensors, load(snapshot(tmp_path, data)).value, strict=True):
                assert isinstance(again, StoredTensor)
                assert again.read().dtype == x.dtype
                assert torch.equal(again.read(), x)

    @pytest.mark.parametrize("depth", [1, 2])
    def test_hostile_pickle_inside(self, depth, tmp_path, marker):
        evil = called("os system", text(f"touch {marker}"))
        for _ in range(depth):
            evil = stored(storage(description=evil + b"."))
        assert is_live(evil + b".", marker)
        refuses(tmp_path, evil + b".", marker, "where the storage of a tensor is described")

    def test_hostile_zip_file_inside(self, tmp_path, marker):
        buffer = io.BytesIO()
        torch.save(Calls(subprocess.call, ["touch", str(marker)]), buffer)
        data = stored(buffer.getvalue()) + b"."
        assert is_live(data, marker)
        refuses(tmp_path, data, marker, "damaged")

    def test_persistent_ids(self, tmp_path, marker):
        calls = called("os system", text(f"touch {marker}"))
        assert is_live(stored(storage(persistent=calls)) + b".", marker)
        named = b"(" + text("storage") + b"cos\nsystem\n" + text("0") + text("cpu") + b"K\x01Nt"
        module = b"(" + text("module") + b"ctorch\nFloatStorage\n" + text("a.py") + text("source") + b"t"
        for identity in (calls, named, module, b"K\x01"):
            refuses(tmp_path, stored(storage(persistent=identity)) + b".", marker, "storage of a tensor is described")
        for data in (b"Pos.system\n.", text("storage") + b"Q."):
            refuses(tmp_path, data, marker, "outside the file")

    @pytest.mark.parametrize(
        "data",
        [
            tensor(stored(storage()), shape=(2**40,), stride=(0,)),
            tensor(stored(storage()), shape=(2**62, 4), stride=(1, 1)),
            tensor(stored(storage()), shape=(2,)),
            tensor(stored(storage()), offset=1),
            tensor(stored(storage()), offset=-1),
            tensor(stored(storage()), stride=(-1,)),
            tensor(stored(storage()), shape=(1,) * 100_000, stride=(1,) * 100_000),
            tensor(stored(storage()), shape=(1.5,)),
            tensor(stored(storage()), shape=(1, 1)),
            tensor(stored(storage()), shape=3),
            tensor(stored(storage()), shape=[1]),
            tensor(stored(storage()), stride=[1]),
            tensor(b"N"),
            stored(storage(numel=2)),
            stored(storage(numel=2**31 - 1)),
            stored(storage(numel=-1)),
            stored(storage(data=b"")),
            stored(storage(description=pickle.dumps({"little_endian": False}, 2))),
            stored(storage()[:-9]),
            stored(b""),
        ],
    )
    def test_wrong_sizes(self, data, tmp_path, marker):
        refuses(tmp_path, data + b".", marker, "damaged")

    def test_slots_do_not_change_what_was_checked(self, tmp_path):
        evil = pickle.dumps((None, {"shape": (2**40,), "stride": (0,), "offset": 10**9, "numel": 2**40}), 2)[2:-1]
        data = tensor(stored(storage()) + evil + b"b") + evil + b"b."
        value = load(snapshot(tmp_path, data)).value
        assert (value.offset, value.shape, value.stride, value.storage.numel) == (0, (1,), (1,), 1)
        assert value.read().shape == (1,)

    def test_key_whose_hash_never_ends(self, tmp_path, marker):
        # torch.load(weights_only=True) computes it.
        nested = b"K\x01" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(60))
        data = stored(storage(description=b"\x80\x02}" + nested + b"Ns.")) + b"."
        refuses(tmp_path, data, marker, "key that is not a plain value")

    def test_storage_without_elements(self, tmp_path, marker):
        data = storage().replace(pickle.dumps(["0"], 2), pickle.dumps([], 2))
        refuses(tmp_path, stored(data) + b".", marker, "damaged")

    def test_any_damage_is_noticed_or_harmless(self, tmp_path):
        rng = random.Random(0)
        data = pickle.dumps({"a": [OrderedDict(b=np.float32(1)), torch.Size([2])], "c": {1, 2}}, 2)[:-1] + b"0"
        data += tensor(stored(storage(data=bytes(24), numel=6)), 1, (2, 2), (2, 1)) + b"."
        for _ in range(800):
            changed = bytearray(data)
            for _ in range(rng.randint(1, 3)):
                changed[rng.randrange(len(data))] = rng.randrange(256)
            with contextlib.suppress(NetworkError):
                value = load(snapshot(tmp_path, changed)).value
                if isinstance(value, StoredTensor):
                    assert value.read().numel() <= 6


@pytest.mark.parametrize("function", _CALLS, ids=str)
def test_calls_with_any_arguments(function, tmp_path):
    values = [b"N", b"K\x01", b"J\xff\xff\xff\xff", text("latin1"), b"]", b"}", b"(K\x01K\x02t", b"]K\x01a", b"\x8f"]
    values += [b"cnumpy\ndtype\n", called("numpy dtype", text("f4")), b"B\x04\x00\x00\x00abcd", b"](]K\x01ee"]
    values += [stored(storage()), tensor(stored(storage()))]
    for args in [(), *((a,) for a in values), *((a, b) for a in values for b in values), (values[1],) * 4]:
        data = b"\x80\x04" + called(f"{function.module} {function.name}", *args) + b"."
        with contextlib.suppress(NetworkError):
            load(snapshot(tmp_path, data))


BOMBS = {
    "lists copied": b"(" + 100_000 * b"N" + b"t\x940c__builtin__\nlist\n\x940" + 50_000 * b"h\x01h\x00\x85R",
    "texts encoded": text("x" * 1_000_000) + b"\x94" + text("latin1") + b"\x86\x940c_codecs\nencode\n\x940"
    + 1000 * b"h\x02h\x01R",
    "texts as tensors": b"c_codecs\nencode\n(" + encodable(storage(data=bytes(4_000_000), numel=1_000_000))
    + text("latin1") + b"tR\x85\x940ctorch.storage\n_load_from_bytes\n\x940" + 10_000 * b"h\x01h\x00R",
    "tensors read again": b"B" + struct.pack("<I", len(storage())) + storage() + b"\x85\x940"
    + b"ctorch.storage\n_load_from_bytes\n\x940" + 300_000 * b"h\x01h\x00R0",
}  # fmt: skip


LARGE = b"(" + 100_000 * b"N" + b"t\x940"
REPEATED = {
    "arguments": LARGE + b"ctorch._utils\n_rebuild_parameter\n\x940" + 100_000 * b"h\x01h\x00R0",
    "shapes": LARGE + b"ctorch._utils\n_rebuild_tensor_v2\n\x940(" + stored(storage()) + b"K\x00h\x00h\x00t\x940"
    + 100_000 * b"h\x01h\x02R0",
}  # fmt: skip


@pytest.mark.parametrize("data", REPEATED.values(), ids=REPEATED)
def test_large_arguments_are_not_passed_on(data, tmp_path, marker):
    started = time.process_time()
    refuses(tmp_path, b"\x80\x04" + data + b".", marker, "damaged")
    assert time.process_time() - started < 2  # seconds; measured: below 0.2


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_amplification_is_refused_in_time(bomb, tmp_path, marker):
    started = time.process_time()
    refuses(tmp_path, b"\x80\x04" + bomb + b".", marker, "more than")
    assert time.process_time() - started < 10  # seconds; measured: below 1.1


@pytest.mark.parametrize("bomb", [name for name in BOMBS if name != "tensors read again"])  # which keeps nothing
def test_amplification_is_refused_in_memory(bomb, tmp_path, marker):
    tracemalloc.start()
    try:
        refuses(tmp_path, b"\x80\x04" + BOMBS[bomb] + b".", marker, "more than")
        assert tracemalloc.get_traced_memory()[1] < 128 * 2**20  # measured: below 64 MiB
    finally:
        tracemalloc.stop()


class TestKnownCalls:
    @pytest.mark.parametrize("protocol", range(6))
    def test_containers_and_numbers(self, protocol, tmp_path):
        value = {
            "ordered": OrderedDict(a=1),
            "default": defaultdict(dict, b=2),
            "set": {1, 2},
            "frozen": frozenset("a"),
            "size": torch.Size([2, 3]),
            "numbers": [np.float64(0.1), np.float32(0.5), np.int64(-7), np.bool_(True), np.uint8(200)],
            "bytes": b"\xff\x00",
        }
        again = load(snapshot(tmp_path, pickle.dumps(value, protocol))).value
        assert again == {**value, "size": (2, 3)}
        assert {type(x) for x in again["numbers"]} == {float, int, bool}

    def test_of_libraries_stay_records(self, tmp_path):
        data = (
            b"](" + called("omegaconf.base SCMode", b"K\x01") + called("numpy dtype", text("f8")) + b"ctyping\nAny\ne."
        )
        value = load(snapshot(tmp_path, data)).value
        assert [type(x) for x in value] == [Record, Record, Global]

    def test_typed_configurations(self, tmp_path, marker):
        data = called("operator getitem", b"ctyping\nOptional\n", b"c__builtin__\nint\n")
        assert load(snapshot(tmp_path, data + b".")).value.cls == Global("typing", "Optional")
        refuses(
            tmp_path, called("operator getitem", b"cos\nenviron\n", text("HOME")) + b".", marker, "names os.environ"
        )
        refuses(tmp_path, called("operator getitem", b"ctorch\nops\n", text("x")) + b".", marker, "operator.getitem")


FOREIGN = {
    b"<!DOCTYPE html><html>quota exceeded</html>": "web page",
    b"\xef\xbb\xbf  <html>": "web page",
    b"": "empty",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n": "git lfs pull",
    b"PK\x03\x04" + bytes(30): "zip file",
    b"\x1f\x8b\x08" + bytes(30): "compressed",
    struct.pack("<Q", 20) + b'{"__metadata__":{}}     ': "safetensors",
    b"just some text\n": "not a pickle",
    b"\x80\x04": "not a pickle, or is damaged",
}


@pytest.mark.parametrize(("content", "message"), FOREIGN.items(), ids=list(FOREIGN.values()))
def test_other_files(content, message, tmp_path, marker):
    refuses(tmp_path, content, marker, message)


def test_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "absent.pkl"):
        with pytest.raises(NetworkError, match="is not a file"):
            load(path)
