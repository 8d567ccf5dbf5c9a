"""`InertUnpickler`: plain values of every protocol, damage, hostile instructions, and limits on time and memory."""

import contextlib
import copyreg
import math
import pickle
import pickletools
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
    """Let every name, call and persistent id through, as records."""

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


def test_sharing_is_kept():
    value = read(pickle.dumps(PLAIN["shared"]))
    assert value[0] is value[1] is value[2]["again"]


def test_a_list_that_contains_itself():
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


def test_long_byte_strings_are_views_of_the_file():
    data = pickle.dumps(bytes(1000))
    value = read(data)
    assert isinstance(value, memoryview)
    assert value.obj is data


class Thing:
    """An object with attributes."""


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
def test_rare_instructions(data, check):
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
def test_everything_outside_the_file_is_refused(data):
    with pytest.raises(Refusal):
        read(data)


@pytest.mark.parametrize("data", [b"K\x01)R.", b"cm\nf\nK\x01R.", b"(o.", b"K\x01)\x81.", b"cm\nf\n]\x81."])
def test_calls_of_other_values(data):
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
def test_endless_instructions(repeated):
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
def test_deep_nesting_does_not_recurse(data):
    assert read(data, Naming) is not None


def test_exponential_expansion_stays_shared():
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


def test_names_are_printed_without_control_characters():
    assert str(Global("a\x1b[31m\n", "b")) == "a\\x1b[31m\\n.b"
    assert len(str(Global("x" * 1000, "y"))) < 100


STACKS = {
    "empty": b"",
    "mark": b"(",
    "number": b"K\x01",
    "text": b"\x8c\x01a",
    "long bytes": b"B\x00\x01\x00\x00" + bytes(256),
    "tuple": b"K\x01K\x02\x86",
    "list": b"]",
    "dict": b"}",
    "set": b"\x8f",
    "frozenset": b"(\x91",
    "name": b"cm\nf\n",
    "record": b"cm\nf\n)\x81",
}


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS)
def test_every_instruction_on_every_value(stack):
    for opcode in range(256):
        for argument in (b"", b"\x01", b"\x01\x00\x00\x00", b"\xff" * 9, b"1\n1\n", b"'a'\n"):
            for marked in (b"", b"(", b"(K\x01", b"(K\x01]", b"]", b"cm\nf\n", b"K\x01)", b"K\x01]", b"))", b"}"):
                with contextlib.suppress(Refusal, Damage):
                    read(stack + marked + bytes([opcode]) + argument + b".", Naming)


def test_inherited_instructions():
    """Each of these only reads its argument or moves plain values; a new one must be examined."""
    names = {opcode.code: opcode.name for opcode in pickletools.opcodes}
    inherited = {
        names[chr(code)]
        for code, step in InertUnpickler.dispatch.items()
        if step.__wrapped__ is pickle._Unpickler.dispatch.get(code)
    }
    assert inherited == set(
        "PROTO STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT "
        "BINFLOAT STRING BINSTRING SHORT_BINSTRING SHORT_BINBYTES UNICODE BINUNICODE BINUNICODE8 SHORT_BINUNICODE "
        "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST EMPTY_DICT EMPTY_SET APPEND APPENDS "
        "PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET "
        # These call methods that `InertUnpickler` overrides: find_class, _instantiate, get_extension, persistent_load.
        "GLOBAL STACK_GLOBAL INST EXT1 EXT2 EXT4 PERSID BINPERSID".split()
    )


RECORD = b"cm\nf\n)\x81"
NESTED_TUPLE = b")" + b"\x85" * NESTED
HOSTILE = {
    "STACK_GLOBAL of None": b"NN\x93.",
    "STACK_GLOBAL of bytes": b"C\x02osC\x06system\x93.",
    "STACK_GLOBAL of a tuple": b"\x8c\x02os)\x93.",
    "STACK_GLOBAL of names": b"cm\nf\n\x89\x93.",
    "STACK_GLOBAL of a record": RECORD + b"\x8c\x06system\x93.",
    "call of a record": RECORD + b")R.",
    "call of a list": b"])R.",
    "arguments in a dict": b"cm\nf\n}R.",
    "arguments in long bytes": b"cm\nf\nB\x00\x01\x00\x00" + bytes(256) + b"R.",
    "arguments in a record": b"cm\nf\n" + RECORD + b"R.",
    "object of a record": RECORD + b")\x81.",
    "object of a record with keywords": RECORD + b")}\x92.",
    "ADDITEMS on a frozenset": b"(\x91(K\x01\x90.",
    "ADDITEMS on a list": b"](K\x01\x90.",
    "ADDITEMS of a list": b"\x8f(]\x90.",
    "ADDITEMS of a list on a record": RECORD + b"(]\x90.",
    "FROZENSET of a dict": b"(}\x91.",
    "APPENDS on a tuple": b")(K\x01e.",
    "APPENDS on a name": b"cm\nf\n(K\x01e.",
    "SETITEMS on a list": b"](K\x00K\x01u.",
    "SETITEMS on a name": b"cm\nf\n(K\x00K\x01u.",
    "SETITEM on long bytes": b"B\x00\x01\x00\x00" + bytes(256) + b"K\x00K\x01s.",
    "key that is a list": b"}]Ns.",
    "key that is a dict": b"}}Ns.",
    "key that is a set": b"(\x8fNd.",
    "key that is long bytes": b"}B\x00\x01\x00\x00" + bytes(256) + b"Ns.",
    "key with a list": b"}]\x85Ns.",
    "key of deep tuples": b"}" + NESTED_TUPLE + b"Ns.",
    "key of a record that is a list": RECORD + b"]Ns.",
    "set of deep tuples": b"\x8f(" + NESTED_TUPLE + b"\x90.",
    "slots of a name": b"cm\nf\nN}\x8c\x06moduleK\x01s\x86b.",
    "EXT1": b"\x82\xf0.",
    "EXT2": b"\x83\xf0\x00.",
    "EXT4": b"\x84\xf0\x00\x00\x00.",
    "READONLY_BUFFER": b"C\x01a\x98.",
    "memo index 2**31": b"Nr" + struct.pack("<I", 2**31) + b".",
    "memo index of 5,000 digits": b"Np" + b"9" * 5000 + b"\n.",
    "GET of 5,000 digits": b"g" + b"9" * 5000 + b"\n.",
    "text that is not Unicode": b"V\\ud800\\U00110000\n.",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_instructions(data, monkeypatch):
    monkeypatch.setitem(copyreg._extension_cache, 0xF0, Thing)
    with pytest.raises((Refusal, Damage)) as error:
        read(b"\x80\x04" + data, Naming)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200


def test_slots_of_a_record_do_not_replace_its_fields():
    state = b"N}(\x8c\x03clsN\x8c\x05itemsNu\x86"
    record = read(RECORD + state + b"b.", Naming)
    assert record.cls == Global("m", "f")
    assert record.items == []
    assert record.state == (None, {"cls": None, "items": None})


def test_records_that_contain_themselves():
    record = read(RECORD + b"q\x00(h\x00h\x00uh\x00ah\x00b.", Naming)  # as key, entry, item and state
    assert record.entries == {record: record}
    assert record.items == [record]
    assert record.state is record


def test_containers_that_contain_themselves():
    value = read(b"}q\x00K\x01h\x00\x85s.")
    assert value[1][0] is value
    value = read(b"]q\x00h\x00h\x00\x86a.")
    assert value[0][0] is value[0][1] is value


def test_the_largest_memo_index_takes_little_memory():
    tracemalloc.start()
    try:
        assert read(b"K\x07r" + struct.pack("<I", 2**31 - 1) + b"0j" + struct.pack("<I", 2**31 - 1) + b".") == 7
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


SLOW = {
    "memo indices that collide": b"N" + b"".join(b"p%d\n" % (i * (2**61 - 1)) for i in range(1, 100_000)) + b".",
    "float of many digits": b"F" + b"1" * 10_000_000 + b"\n.",
    "integer of many digits": b"I" + b"1" * 10_000_000 + b"\n.",
    "hexadecimal integer": b"I0x" + b"f" * 10_000_000 + b"\n.",
    "text as arguments": b"cm\nf\nX" + struct.pack("<I", 10_000_000) + b"x" * 10_000_000 + b"R.",
    "bytes as arguments": b"cm\nf\nB" + struct.pack("<I", 10_000_000) + b"x" * 10_000_000 + b"R.",
    "frames in frames": b"".join(b"\x95" + struct.pack("<Q", 9 * n) for n in range(100_000, 0, -1)),
}


@pytest.mark.parametrize("data", SLOW.values(), ids=SLOW)
def test_slow_values(data):
    started = time.process_time()
    tracemalloc.start()
    try:
        with contextlib.suppress(Refusal, Damage):
            read(data, Naming)
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()
    assert time.process_time() - started < 10  # seconds
