"""Unpickle without importing or calling anything: names stay names, and objects become records of their parts.

A pickle is a program for a stack machine, and the standard reader imports and calls whatever it names. Overriding
`find_class` alone does not make that reader safe. Calls, object creation and attribute updates still run on whatever is
on the stack, and a file of a few hundred bytes can take unlimited time or memory: a key of tuples nested 60 deep whose
hash takes 2**60 steps, keys with equal hashes, a call with a copy of a huge tuple. The C implementation offers no hook
for these instructions, so `InertUnpickler` derives from the pure-Python one and replaces them.
"""

from __future__ import annotations

import functools
import pickle
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NoReturn

# A full snapshot (G, D and G_ema at 128x128) has about 240,000 instructions and less than 1 MB of text.
MAX_INSTRUCTIONS = 1_000_000
MAX_TEXT = 64 * 2**20  # bytes of text, numbers and short byte strings in the whole file
MAX_INTEGER_BITS = 512
# Larger integers can be chosen to collide in a hash table.
MAX_MEMO_INDEX = 2**31 - 1
MAX_KEY_BITS = 64
MAX_KEY_ITEMS = 8  # of a tuple


class Refusal(Exception):
    """The file asks for something forbidden. The message continues a sentence about the file: "names os.system"."""


class Damage(Exception):
    """The file does not follow the format."""


@dataclass(frozen=True, slots=True)
class Global:
    """The name of a function or class, which is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return printable(f"{self.module}.{self.name}")


@dataclass(eq=False, repr=False, slots=True)  # a record may contain itself, and may be large
class Record:
    """An object as the file describes it: its class, or the function that would return it, and what it is made of."""

    cls: Global
    args: tuple = ()
    state: Any = None
    items: list = field(default_factory=list)
    entries: dict = field(default_factory=dict)

    def append(self, item: Any) -> None:
        """Add an item of a list or set."""
        self.items.append(item)

    add = append

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value


def printable(text: str) -> str:
    """Return text from the file, shortened and escaped so that it can be printed on a terminal."""
    return ascii(text[:80])[1:-1]


@dataclass
class Budget:
    """What the file and all pickles inside it may use together."""

    instructions: int = MAX_INSTRUCTIONS
    text: int = MAX_TEXT

    def spend(self, instructions: int = 0, text: int = 0) -> None:
        """Subtract from the budget.

        Raises:
            Refusal: The budget is exceeded.
        """
        self.instructions -= instructions
        self.text -= text
        if self.instructions < 0:
            raise Refusal(f"has more than {MAX_INSTRUCTIONS:,} pickle instructions")
        if self.text < 0:
            raise Refusal(f"holds more than {MAX_TEXT >> 20} MiB of text")


class Stream:
    """Bytes in memory with the methods of a file that an unpickler uses, paid for from a budget."""

    def __init__(self, data: memoryview, budget: Budget) -> None:
        self.data = data
        self.budget = budget
        self.position = 0

    def read(self, count: int) -> bytes:
        """Return a copy of the next bytes, exactly `count` of them."""
        view = self.view(count)
        if count > 8:  # the limit on instructions covers shorter ones
            self.budget.spend(text=count)
        return view.tobytes()

    def readline(self) -> bytes:
        """Return a copy of the bytes up to and including the next newline, or up to the end."""
        newline = _NEWLINE.search(self.data, self.position, self.position + self.budget.text + 1)
        return self.read((newline.end() if newline else len(self.data)) - self.position)

    def view(self, count: int) -> memoryview:
        """Return the next bytes without copying them."""
        start, end = self.position, self.position + count
        if not start <= end <= len(self.data):
            raise Damage(f"it announces {count:,} bytes where {len(self.data) - start:,} are left")
        self.position = end
        return self.data[start:end]


_NEWLINE = re.compile(b"\n")
_PYTHON_2_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_IMMUTABLE = (type(None), bool, int, float, str, bytes, tuple, frozenset, memoryview, Global)


def set_items(target: Any, items: list) -> Any:
    """Set items `[key, value, key, value, ...]` of a dict or a record, and return it."""
    if not isinstance(target, dict | Record):
        raise Damage("it sets items of something that is not a mapping")
    keys = items[::2]
    check_keys(keys)
    for key, value in zip(keys, items[1::2], strict=True):
        target[key] = value
    return target


def check_keys(keys: Iterable) -> None:
    """Check that values may be hashed: a hash must take little time, and must not be chosen freely.

    Raises:
        Refusal: One may not.
    """
    for key in keys:
        if isinstance(key, tuple) and len(key) <= MAX_KEY_ITEMS and not any(isinstance(item, tuple) for item in key):
            check_keys(key)
        elif isinstance(key, int) and key.bit_length() > MAX_KEY_BITS:
            raise Refusal(f"has a key of more than {MAX_KEY_BITS} bits")
        elif not isinstance(key, type(None) | int | float | str | bytes | Global | Record):
            raise Refusal("has a key that is not a plain value")


def _check_call(function: Any, args: Any) -> None:
    if not isinstance(function, Global) or not isinstance(args, tuple):
        raise Refusal("asks to call something that is not a name")


class _Memo(dict):
    def __setitem__(self, index: int, value: Any) -> None:
        if index > MAX_MEMO_INDEX:
            raise Damage(f"it has a memo index above {MAX_MEMO_INDEX:,}")
        super().__setitem__(index, value)


class InertUnpickler(pickle._Unpickler):
    """Read one pickle of protocol 0 to 5 without running any of it.

    Subclasses decide what names, calls and references to objects outside the file stand for; here all are refused.
    Builtin containers, numbers and text are real; long byte strings are views of the stream.

    Attributes:
        inert: How many records were made of each class.
    """

    # Members of the base class that its stub leaves out; `load` sets the first three.
    stack: list[Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream, encoding="latin1")
        self.stream = stream
        self.memo = _Memo()
        self.inert: Counter[str] = Counter()

    def load(self) -> Any:
        """Return the value that the next pickle of the stream describes.

        Raises:
            Refusal: It names, calls or refers to something forbidden, or exceeds a limit.
            Damage: It does not follow the format.
        """
        try:
            return super().load()
        except (Refusal, Damage):
            raise
        except Exception as error:  # the base class does not check what instructions find on the stack
            raise Damage(f"{type(error).__name__}: {printable(str(error))}") from None

    def find_global(self, name: Global) -> Global:
        """Return what a name on the stack stands for."""
        raise Refusal(f"names {name}")

    def call(self, function: Global, args: tuple) -> Any:
        """Return what stands for the result of a call."""
        raise Refusal(f"asks to call {function}")

    def persistent_load(self, pid: Any) -> Any:
        """Return what stands for an object outside the pickle."""
        raise Refusal("refers to an object outside the file")

    def record(self, cls: Global, args: tuple) -> Record:
        """Return a record of an object, and count it."""
        self.inert[str(cls)] += 1
        return Record(cls, args)

    def find_class(self, module: str, name: str) -> Global:
        """Return what a name stands for, in Python 3's module layout."""
        return self.find_global(Global(_PYTHON_2_MODULES.get(module, module), name))

    def get_extension(self, code: int) -> NoReturn:
        """Refuse names registered with `copyreg.add_extension`."""
        raise Refusal("refers to Python's extension registry")

    def load_reduce(self) -> None:
        """Execute REDUCE: call a function."""
        args, function = self.stack.pop(), self.stack.pop()
        _check_call(function, args)
        self.append(self.call(function, args))

    def load_newobj(self) -> None:
        """Execute NEWOBJ: create an object."""
        args, cls = self.stack.pop(), self.stack.pop()
        _check_call(cls, args)
        self.append(self.record(cls, args))

    def load_newobj_ex(self) -> None:
        """Execute NEWOBJ_EX: create an object with keyword arguments."""
        keywords, args, cls = self.stack.pop(), self.stack.pop(), self.stack.pop()
        _check_call(cls, args)
        self.append(self.record(cls, (args, keywords)))

    def load_obj(self) -> None:
        """Execute OBJ: create an object of a class on the stack."""
        cls, *args = self.pop_mark() or [None]
        self._instantiate(cls, args)

    def _instantiate(self, klass: Any, args: list) -> None:  # INST and OBJ
        _check_call(klass, tuple(args))
        self.append(self.call(klass, tuple(args)))

    def load_build(self) -> None:
        """Execute BUILD: set the state of an object."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Record):
            target.state = state
        elif isinstance(target, _IMMUTABLE):  # attributes of containers and tensors are ignored
            raise Damage("it gives attributes to a plain value")

    def load_frame(self) -> None:
        """Execute FRAME: check that the announced frame is in the stream."""
        # Framing only saves calls to `read`, and would copy what the stream can give without a copy.
        (length,) = struct.unpack("<Q", self.read(8))
        if length > len(self.stream.data) - self.stream.position:
            raise Damage(f"it announces a frame of {length:,} bytes beyond its end")

    def load_binbytes(self) -> None:
        """Execute BINBYTES: push a view of a byte string."""
        (length,) = struct.unpack("<I", self.read(4))
        self.append(self.stream.view(length))

    def load_binbytes8(self) -> None:
        """Execute BINBYTES8 and BYTEARRAY8: push a view of a byte string."""
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(self.stream.view(length))

    load_bytearray8 = load_binbytes8

    def load_next_buffer(self) -> NoReturn:
        """Refuse buffers outside the pickle."""
        raise Refusal("refers to memory outside the file")

    load_readonly_buffer = load_next_buffer

    def load_unknown(self) -> NoReturn:
        """Reject a byte that is not an instruction."""
        raise Damage("it has a byte that is not a pickle instruction")

    def load_setitem(self) -> None:
        """Execute SETITEM: set one item of a mapping."""
        value, key = self.stack.pop(), self.stack.pop()
        set_items(self.stack[-1], [key, value])

    def load_setitems(self) -> None:
        """Execute SETITEMS: set items of a mapping."""
        items = self.pop_mark()
        set_items(self.stack[-1], items)

    def load_dict(self) -> None:
        """Execute DICT: push a new dict."""
        items = self.pop_mark()
        self.append(set_items({}, items))

    def load_additems(self) -> None:
        """Execute ADDITEMS: add items to a set."""
        check_keys(self.stack)
        super().load_additems()

    def load_frozenset(self) -> None:
        """Execute FROZENSET: push a new frozenset."""
        check_keys(self.stack)
        super().load_frozenset()


def _limited(opcode: int) -> Callable[[InertUnpickler], None]:
    """Return the method that executes an instruction, within the limits."""
    inherited = pickle._Unpickler.dispatch.get(opcode)
    execute = getattr(InertUnpickler, inherited.__name__) if inherited else InertUnpickler.load_unknown
    makes_integer = bytes([opcode]) in (pickle.INT, pickle.LONG, pickle.LONG1, pickle.LONG4)

    @functools.wraps(execute)
    def limited(unpickler: InertUnpickler) -> None:
        budget = unpickler.stream.budget
        budget.instructions -= 1
        if budget.instructions < 0:
            budget.spend()
        execute(unpickler)
        if makes_integer and unpickler.stack[-1].bit_length() > MAX_INTEGER_BITS:
            raise Refusal(f"holds an integer of more than {MAX_INTEGER_BITS} bits")

    return limited


InertUnpickler.dispatch = {opcode: _limited(opcode) for opcode in range(256)}
