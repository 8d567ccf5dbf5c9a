"""The pickle machine: plain values of every protocol, damage, and bounds on time and memory."""

import contextlib
import math
import pickle
import random
import struct
import time
import tracemalloc

import pytest

from digan.official.unpickle import MAX_INSTRUCTIONS, Budget, Damage, Global, InertUnpickler, Record, Refusal, Stream

SHARED = ["shared"]
PLAIN = {
    "none and truth": [None, True, False],
    "integers": [0, 1, 255, 256, 65535, -1, 2**31 - 1, -(2**31), 2**40, 2**100, -(2**300)],
    "floats": [0.5, -1e300, math.inf, 10**0.5],
    "text": ["", "plain", "ünïcode ☃ \U0001f600", "x" * 300, "line\nend \\u0041", "\x00"],
    "containers": [
        (),
        (1,),
        (1, 2),
        (1, 2, 3),
        (1, 2, 3, 4),
        [],
        [[1], [2]],
        {},
        {"a": {"b": 1}, 2: None, (1, "x"): 3},
    ],
    "shared": [SHARED, SHARED, {"again": SHARED}],
    "large": [*range(3000), {i: str(i) for i in range(3000)}],
}
BYTES = [b"", b"short", bytes(range(256)) * 2, bytearray(b"array")]


class Naming(InertUnpickler):
    """Lets every name, call and persistent id through, as records."""

    def find_global(self, name):
        return name

    def call(self, function, args):
        return self.record(function, args)

    def persistent_load(self, pid):
        return ["outside", pid]


def read(data, unpickler=InertUnpickler, budget=None):
    return unpickler(Stream(memoryview(data), budget or Budget())).load()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", PLAIN.values(), ids=PLAIN)
def test_plain_values(value, protocol):
    assert read(pickle.dumps(value, protocol)) == value


def test_what_is_shared_stays_shared():
    value = read(pickle.dumps(PLAIN["shared"]))
    assert value[0] is value[1] is value[2]["again"]


def test_a_value_that_holds_itself():
    value = []
    value.append(value)
    again = read(pickle.dumps(value))
    assert again[0] is again


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_bytes_and_sets(protocol):
    data = pickle.dumps(BYTES, protocol)
    if protocol == 5:
        assert [bytes(x) for x in read(data)] == BYTES
    assert read(pickle.dumps({1, "a", None}, 4)) == {1, "a", None}
    assert read(pickle.dumps(frozenset([1, (2, 3)]), 4)) == frozenset([1, (2, 3)])


def test_long_byte_strings_are_windows_on_the_file():
    data = pickle.dumps(bytes(1000))
    value = read(data)
    assert isinstance(value, memoryview)
    assert value.obj is data


class Thing:
    """Has attributes, items and, as a list, elements."""


@pytest.mark.parametrize("protocol", range(6))
def test_objects_are_records(protocol):
    thing = Thing()
    thing.x, thing.y = 1, [2]
    record = read(pickle.dumps(thing, protocol), Naming)
    assert isinstance(record, Record)
    assert record.state == {"x": 1, "y": [2]}
    cls = record.cls if protocol >= 2 else record.args[0]  # before, copyreg._reconstructor made objects
    assert cls == Global(Thing.__module__, "Thing")


@pytest.mark.parametrize(
    ("data", "check"),
    [
        (b"(cm\nf\nK\x01o.", lambda r: r.args == (1,)),
        (b"(K\x01K\x02im\nf\n.", lambda r: r.args == (1, 2)),
        (b"cm\nf\n)}\x92.", lambda r: r.args == ((), {})),
        (b"cm\nf\n)\x81K\x01a.", lambda r: r.items == [1]),
        (b"cm\nf\n)\x81(K\x01K\x02\x90.", lambda r: r.items == [1, 2]),
        (b"cm\nf\n)\x81K\x01K\x02s.", lambda r: r.entries == {1: 2}),
        (b"c__builtin__\nset\n)R.", lambda r: r.cls == Global("builtins", "set")),
        (b"Pid\n.", lambda r: r == ["outside", "id"]),
        (b"K\x07Q.", lambda r: r == ["outside", 7]),
        (b"K\x01K\x022.", lambda r: r == 2),
        (b"K\x01(K\x0220.", lambda r: r == 2),
        (b"K\x01(0.", lambda r: r == 1),
        (b"K\x01(K\x02K\x031.", lambda r: r == 1),
        (b"(K\x01K\x02l.", lambda r: r == [1, 2]),
        (b"(K\x01K\x02d.", lambda r: r == {1: 2}),
        (b"(K\x01K\x02t.", lambda r: r == (1, 2)),
    ],
    ids="OBJ INST NEWOBJ_EX APPEND ADDITEMS SETITEM Python-2 PERSID BINPERSID "
    "DUP POP POP-mark POP_MARK LIST DICT TUPLE".split(),
)
def test_instructions_that_are_rare(data, check):
    assert check(read(data, Naming))


@pytest.mark.parametrize(
    "data",
    [
        b"cos\nsystem\n.",
        b"\x8c\x02os\x8c\x06system\x93.",
        b"(ios\nsystem\n.",
        b"Pid\n.",
        b"]Q.",
        b"\x82\x01.",
        b"\x97.",
    ],
    ids="GLOBAL STACK_GLOBAL INST PERSID BINPERSID EXT1 NEXT_BUFFER".split(),
)
def test_the_bare_machine_refuses_everything_outside_of_the_file(data):
    with pytest.raises(Refusal):
        read(data)


@pytest.mark.parametrize("data", [b"K\x01)R.", b"cm\nf\nK\x01R.", b"(o.", b"K\x01)\x81.", b"cm\nf\n]\x81."])
def test_calls_of_what_is_no_name(data):
    with pytest.raises(Refusal, match="asks"):
        read(data, Naming)


DAMAGED = {
    "unknown instruction": b"\xff.",
    "empty": b"",
    "no end": b"K\x01",
    "empty stack": b".",
    "below the mark": b"K\x01(R.",
    "no mark": b"K\x01t.",
    "append to a number": b"K\x01K\x02a.",
    "items of a list": b"]K\x01K\x02s.",
    "odd items": b"}(K\x01u.",
    "attributes of a number": b"K\x01}b.",
    "absent memo": b"h\x05.",
    "protocol 9": b"\x80\x09.",
    "name that is no text": b"K\x01K\x02\x93.",
    "not UTF-8": b"\x8c\x02\xff\xff.",
    "not a number": b"Ixyz\n.",
    "no end of line": b"I12",
    "negative memo": b"K\x01p-1\n.",
    "huge memo": b"K\x01p99999999999999\n.",
    "huge binary memo": b"K\x01r\xff\xff\xff\xff.",
    "FRAME": b"\x95" + struct.pack("<Q", 2**60) + b"K\x01.",
    "BINBYTES8": b"\x8e" + struct.pack("<Q", 2**63) + b"x.",
    "BINUNICODE8": b"\x8d" + struct.pack("<Q", 2**62) + b"x.",
    "BYTEARRAY8": b"\x96" + struct.pack("<Q", 2**40) + b"x.",
    "BINBYTES": b"B\xff\xff\xff\xffx.",
    "BINUNICODE": b"X\xff\xff\xff\x7fx.",
    "BINSTRING": b"T\xff\xff\xff\xffx.",
    "LONG4": b"\x8b\xff\xff\xff\x7fx.",
    "negative LONG4": b"\x8b\xff\xff\xff\xffx.",
    "digits": b"L" + b"9" * 100_000 + b"L\n.",
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_damage(data):
    with pytest.raises(Damage):
        read(data, Naming)


def mutations(data, count):
    rng = random.Random(0)
    for _ in range(count):
        changed = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(data))] = rng.randrange(256)
        yield bytes(changed[: rng.randint(1, len(data))] if rng.random() < 0.3 else changed)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@pytest.mark.parametrize("protocol", range(6))
def test_any_damage_is_noticed_or_harmless(protocol):
    thing = Thing()
    thing.x, thing.y = {"k": (1, 2.5)}, [2**70, None, "text", b"bytes", thing]
    data = pickle.dumps([thing, {1, 2}, {"a": thing}], protocol)
    for changed in [data[:n] for n in range(len(data))] + list(mutations(data, 1000)):
        with contextlib.suppress(Refusal, Damage):
            read(changed, Naming)


NESTED = 200_000
TIMES = range(16, 2000)
ENDLESS = [b"\x80\x02", b"(", b"}0", b"]\x94", b"]2", b"N\x85"]
BOMBS = {
    "PROTO": b"\x80\x02" * (MAX_INSTRUCTIONS + 1),
    "EMPTY_SET": b"\x8f" * (MAX_INSTRUCTIONS + 1),
    "text": (b"X" + struct.pack("<I", 8_000_000) + b"x" * 8_000_000 + b"0") * 9 + b"N.",
    "integer": b"\x8b" + struct.pack("<i", 1_000_000) + b"\x7f" * 1_000_000 + b".",
    "keys that collide": b"}(" + b"".join(pickle.dumps(i * (2**61 - 1), 2)[2:-1] + b"N" for i in TIMES) + b"u.",
    "keys that nest": b"}K\x01" + b"2\x86" * 60 + b"Ns.",
    "set of what nests": b"\x8f(K\x01" + b"2\x86" * 60 + b"\x90.",
}  # fmt: skip


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
def test_bombs_are_refused_in_time_and_memory(data):
    started = time.process_time()
    with pytest.raises(Refusal):
        read(data)
    assert time.process_time() - started < 10  # seconds; measured: below 1.5


@pytest.mark.parametrize("repeated", ENDLESS, ids="PROTO MARK DICT-POP MEMOIZE DUP TUPLE1".split())
def test_what_has_no_end(repeated):
    with pytest.raises(Refusal, match="instructions"):
        read(repeated * 10_001, budget=Budget(instructions=10_000))


@pytest.mark.parametrize("data", [BOMBS["text"], BOMBS["keys that nest"], DAMAGED["BINBYTES8"], DAMAGED["LONG4"]])
def test_bombs_take_little_memory(data):
    tracemalloc.start()
    try:
        with pytest.raises((Refusal, Damage)):
            read(data)
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [b"]" * NESTED + b"a" * (NESTED - 1) + b".", b")" + b"\x85" * NESTED + b".", b"cm\nf\n)\x81" + b"2b" * 10 + b"."],
    ids=["lists", "tuples", "state of itself"],
)
def test_deep_nesting_is_no_recursion(data):
    assert read(data, Naming) is not None


def test_what_would_unfold_to_billions_stays_folded():
    data = b"(" + b"N" * 10 + b"l"
    for level in range(40):  # each list holds the one before ten times
        data += b"r" + struct.pack("<I", level) + b"0(" + 10 * (b"j" + struct.pack("<I", level)) + b"l"
    tracemalloc.start()
    try:
        value = read(data + b".")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    depth = 0
    while value[0] is not None:
        assert len(value) == 10
        value, depth = value[0], depth + 1
    assert depth == 40


def test_pickles_in_one_file_share_a_budget():
    budget = Budget(instructions=10)
    for _ in range(5):
        assert read(b"N.", budget=budget) is None
    with pytest.raises(Refusal, match="instructions"):
        read(b"N.", budget=budget)


def test_names_are_shown_without_control_characters():
    assert str(Global("a\x1b[31m\n", "b")) == "a\\x1b[31m\\n.b"
    assert len(str(Global("x" * 1000, "y"))) < 100
