"""A pickle machine that imports and calls nothing: names stay names, objects become records of what they were given.

A pickle is a program for a stack machine; the usual reader imports the functions and classes that it names and calls
them. ``Machine`` is a reader of its own for the instructions of protocols 0 to 5. What a name, a call and a reference
to something outside of the file mean is for subclasses to say, and without them all three are refused. It is a loop,
never recursive, copies no large byte string, and what it takes in time and memory has bounds.
"""

from __future__ import annotations

import pickletools
import re
import struct
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

# A full snapshot (G, D and G_ema at 128x128) has about 240,000 instructions, and less than 1 MB of text.
MAX_INSTRUCTIONS = 1_000_000
MAX_TEXT = 64 * 2**20  # bytes, over the whole file: text, numbers, short byte strings
MAX_INTEGER_BITS = 512
MAX_MEMO_INDEX = 2**31 - 1
_KEY_BITS = 64  # larger integers can be made to collide in a hash table


class Refusal(Exception):
    """The file asks for what it must not. The message goes on after the file's name: "asks to call os.system"."""


class Damage(Exception):
    """The file does not follow the format."""


@dataclass(frozen=True, slots=True)
class Global:
    """The name of a function or class. Nothing was imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return shown(f"{self.module}.{self.name}")


@dataclass(eq=False, repr=False, slots=True)  # a value may hold itself, and be large
class Record:
    """An object as the file describes it: its class (or the function that would have made it) and what it was given."""

    cls: Global
    args: tuple = ()
    state: Any = None
    items: list = field(default_factory=list)
    entries: dict = field(default_factory=dict)


def shown(text: str) -> str:
    """Text out of the file, as it may be printed on a terminal."""
    return ascii(text[:80])[1:-1]


@dataclass
class Budget:
    """What the file and all pickles inside it may use together."""

    instructions: int = MAX_INSTRUCTIONS
    text: int = MAX_TEXT

    def spend(self, instructions: int = 0, text: int = 0) -> None:
        self.instructions -= instructions
        self.text -= text
        if self.instructions < 0:
            raise Refusal(f"has more than {MAX_INSTRUCTIONS:,} pickle instructions")
        if self.text < 0:
            raise Refusal(f"holds more than {MAX_TEXT >> 20} MiB of text")


class Stream:
    """Bytes, with the methods of a file that pickletools' argument readers use, and a bound on what they take."""

    def __init__(self, view: memoryview, budget: Budget) -> None:
        self.bytes = view
        self.budget = budget
        self.position = 0

    def read(self, count: int) -> bytes:
        view = self.view(count)
        self.budget.spend(text=count)
        return bytes(view)

    def readline(self) -> bytes:
        end = _LINE_END.search(self.bytes, self.position, self.position + self.budget.text + 1)
        return self.read((end.end() if end else len(self.bytes)) - self.position)

    def byte(self) -> int:
        if self.position >= len(self.bytes):
            raise Damage("it has no end")
        self.position += 1
        return self.bytes[self.position - 1]

    def view(self, count: int) -> memoryview:
        """The next bytes, not copied."""
        if not 0 <= count <= len(self.bytes) - self.position:
            raise Damage(f"it announces {count:,} bytes where {len(self.bytes) - self.position:,} are left")
        self.position += count
        return self.bytes[self.position - count : self.position]


_LINE_END = re.compile(b"\n")
_LONG_BYTES = {"BINBYTES": struct.Struct("<I"), "BINBYTES8": struct.Struct("<Q"), "BYTEARRAY8": struct.Struct("<Q")}
_OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # names of Python 2
_PLAIN = (type(None), bool, int, float, str, bytes, tuple, frozenset, memoryview, Global)


class Machine:
    """A stack, marks on it and a memo; one instance reads one pickle.

    Attributes:
        inert: how often each class occurred of which an object became a record.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.inert: Counter[str] = Counter()

    def name(self, name: Global) -> Global:
        """What a name on the stack is: itself, unless a subclass raises Refusal."""
        raise Refusal(f"names {name}")

    def call(self, function: Global, args: tuple) -> Any:
        """The stand-in for the result of a call."""
        raise Refusal(f"asks to call {function}")

    def persistent(self, identity: Any) -> Any:
        """The stand-in for an object outside of the pickle."""
        raise Refusal("refers to an object outside of the file")

    def run(self) -> Any:
        """The value that the next pickle of the stream describes."""
        stream, budget = self.stream, self.stream.budget
        while True:
            if budget.instructions <= 0:
                budget.spend(instructions=1)
            budget.instructions -= 1
            instruction = _INSTRUCTIONS[stream.byte()]
            if instruction is None:
                raise Damage("it has a byte that is no pickle instruction")
            opcode, execute = instruction
            if opcode.name == "STOP":
                return self.pop()
            try:
                execute(self, None if opcode.arg is None else self.argument(opcode))
            except (ValueError, TypeError, struct.error) as error:
                raise Damage(f"{opcode.name}: {shown(str(error))}") from None

    def argument(self, opcode: pickletools.OpcodeInfo) -> Any:
        if opcode.name in _LONG_BYTES:
            length = _LONG_BYTES[opcode.name]
            return self.stream.view(*length.unpack(self.stream.read(length.size)))
        value = opcode.arg.reader(self.stream)
        if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
            raise Refusal(f"holds an integer of more than {MAX_INTEGER_BITS} bits")
        return value

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise Damage("it takes from an empty stack")
        return self.stack.pop()

    def top(self) -> Any:
        value = self.pop()
        self.stack.append(value)
        return value

    def pop_mark(self) -> list:
        if not self.marks:
            raise Damage("it lacks a mark")
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def push_tuple(self, length: int) -> None:
        items = [self.pop() for _ in range(length)]
        self.stack.append(tuple(reversed(items)))

    def refuse(self, reason: str) -> None:
        raise Refusal(reason)

    def do_proto(self, version: int) -> None:
        if version > 5:
            raise Damage(f"pickle protocol {version} does not exist")

    def do_frame(self, length: int) -> None:
        if length > len(self.stream.bytes) - self.stream.position:
            raise Damage(f"it announces a frame of {length:,} bytes beyond its end")

    def do_pop_mark(self, _: None) -> None:
        self.pop_mark()

    def do_mark(self, _: None) -> None:
        self.marks.append(len(self.stack))

    def do_pop(self, _: None) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.pop()

    def do_dup(self, _: None) -> None:
        self.stack.append(self.top())

    def do_put(self, index: int) -> None:
        if not 0 <= index <= MAX_MEMO_INDEX:
            raise Damage(f"it has the memo index {index:,}")
        self.memo[index] = self.top()

    do_binput = do_long_binput = do_put

    def do_memoize(self, _: None) -> None:
        self.do_put(len(self.memo))

    def do_get(self, index: int) -> None:
        if index not in self.memo:
            raise Damage(f"nothing has the memo index {index:,}")
        self.stack.append(self.memo[index])

    do_binget = do_long_binget = do_get

    def do_append(self, _: None) -> None:
        item = self.pop()
        self.extend([item])

    def do_appends(self, _: None) -> None:
        self.extend(self.pop_mark())

    def extend(self, items: list) -> None:
        target = self.top()
        target = target.items if isinstance(target, Record) else target
        if not isinstance(target, list):
            raise Damage("it appends to what is no list")
        target.extend(items)

    def do_additems(self, _: None) -> None:
        items, target = self.pop_mark(), self.top()
        if isinstance(target, set):
            target.update(map(hashable, items))
        else:
            self.extend(items)

    def do_setitem(self, _: None) -> None:
        value, key = self.pop(), self.pop()
        self.put([key, value])

    def do_setitems(self, _: None) -> None:
        self.put(self.pop_mark())

    def put(self, items: list) -> None:
        target = self.top()
        target = target.entries if isinstance(target, Record) else target
        if not isinstance(target, dict):
            raise Damage("it sets items of what is no mapping")
        put_items(target, items)

    def do_global(self, names: str) -> None:
        self.stack.append(self.named(*names.split(" ", 1)))

    def do_stack_global(self, _: None) -> None:
        name, module = self.pop(), self.pop()
        self.stack.append(self.named(module, name))

    def named(self, module: Any, name: Any) -> Global:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Damage("it has a name that is no text")
        return self.name(Global(_OLD_MODULES.get(module, module), name))

    def do_reduce(self, _: None) -> None:
        args, function = self.pop(), self.pop()
        self.stack.append(self.checked_call(function, args))

    def do_inst(self, names: str) -> None:
        args = tuple(self.pop_mark())
        self.stack.append(self.checked_call(self.named(*names.split(" ", 1)), args))

    def do_obj(self, _: None) -> None:
        function, *args = self.pop_mark() or [None]
        self.stack.append(self.checked_call(function, tuple(args)))

    def checked_call(self, function: Any, args: Any) -> Any:
        if not isinstance(function, Global) or not isinstance(args, tuple):
            raise Refusal("asks to call something that is not a name")
        return self.call(function, args)

    def do_newobj(self, _: None) -> None:
        args, cls = self.pop(), self.pop()
        self.stack.append(self.record(cls, args))

    def do_newobj_ex(self, _: None) -> None:
        keywords, args, cls = self.pop(), self.pop(), self.pop()
        self.stack.append(self.record(cls, (args, keywords)))

    def record(self, cls: Any, args: Any) -> Record:
        if not isinstance(cls, Global) or not isinstance(args, tuple):
            raise Refusal("asks for an object of something that is not a name")
        self.inert[str(cls)] += 1
        return Record(cls, args)

    def do_build(self, _: None) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, Record):
            target.state = state
        elif isinstance(target, _PLAIN):  # attributes of containers and of what calls returned are of no interest
            raise Damage("it gives attributes to a plain value")

    def do_persid(self, identity: str) -> None:
        self.stack.append(self.persistent(identity))

    def do_binpersid(self, _: None) -> None:
        self.stack.append(self.persistent(self.pop()))


def put_items(target: dict, items: list) -> dict:
    """Set items [key, value, key, value, ...]."""
    if len(items) % 2:
        raise Damage("it has a key without a value")
    target.update(zip(map(hashable, items[::2]), items[1::2], strict=True))
    return target


def hashable(value: Any) -> Hashable:
    """A value that may be a key: none whose hash takes long, or that nests."""
    if isinstance(value, tuple) and len(value) <= 8 and not any(isinstance(item, tuple) for item in value):
        return tuple(map(hashable, value))
    if isinstance(value, int) and value.bit_length() > _KEY_BITS:
        raise Refusal(f"has a key of more than {_KEY_BITS} bits")
    if not isinstance(value, type(None) | int | float | str | bytes | Global | Record):
        raise Refusal("has a key that is no plain value")
    return value


_Step = Callable[[Machine, Any], None]


def _steps() -> dict[str, _Step]:
    """The instructions that are not methods of the machine."""
    values = "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8"
    text = "STRING BINSTRING SHORT_BINSTRING UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8"
    new = {"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_TUPLE": tuple}
    new |= {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
    marked = {"LIST": list, "TUPLE": tuple, "DICT": lambda items: put_items({}, items)}
    marked |= {"FROZENSET": lambda items: frozenset(map(hashable, items))}
    outside = dict.fromkeys(("EXT1", "EXT2", "EXT4"), "refers to Python's extension registry")
    outside |= dict.fromkeys(("NEXT_BUFFER", "READONLY_BUFFER"), "refers to memory outside of the file")
    return {
        **{name: lambda machine, value: machine.stack.append(value) for name in f"{values} {text}".split()},
        **{name: lambda machine, _, make=make: machine.stack.append(make()) for name, make in new.items()},
        **{
            name: lambda machine, _, make=make: machine.stack.append(make(machine.pop_mark()))
            for name, make in marked.items()
        },
        **{f"TUPLE{length}": lambda machine, _, length=length: machine.push_tuple(length) for length in (1, 2, 3)},
        **{name: lambda machine, _, reason=reason: machine.refuse(reason) for name, reason in outside.items()},
    }


def _instructions() -> list[tuple[pickletools.OpcodeInfo, _Step] | None]:
    """What each byte means."""
    table: list[tuple[pickletools.OpcodeInfo, _Step] | None] = [None] * 256
    steps = _steps()
    for opcode in pickletools.opcodes:
        step = steps.get(opcode.name) or getattr(Machine, f"do_{opcode.name.lower()}", None)  # STOP ends the loop
        table[ord(opcode.code)] = opcode, step
    return table


_INSTRUCTIONS = _instructions()
