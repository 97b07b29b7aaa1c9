"""A pickle machine that only builds data.

It knows the instructions that the official writers emit and no others; names are looked up in a table that hands out
inert stand-ins, and calls go to that table. Python's own unpickler is not used: what it calls and sets is decided by
the file. Byte strings and long texts are not read but remembered by their place in the file.

The format is that of the standard library's ``pickletools`` (protocols 2 to 5).
"""

import struct
from collections.abc import Callable
from typing import Any, Protocol

from scorefield.importer import limits
from scorefield.importer.errors import ImportRefused, shown
from scorefield.importer.nodes import Global, Span
from scorefield.importer.source import Stream

MARK = object()
KEY_LIMIT = 1 << 31


class Table(Protocol):
    """What a stream may name, and what comes of it; every method refuses all that it does not know."""

    def find(self, module: str, name: str) -> Global: ...

    def call(self, function: Global, arguments: tuple) -> Any: ...

    def new(self, kind: Global, arguments: tuple) -> Any: ...

    def build(self, target: Any, state: Any) -> None: ...

    def persistent(self, identity: Any) -> Any: ...


class Machine:
    """Runs one pickle stream.

    Args:
        stream: where to read. table: what the stream may name. budget: most instructions.
    """

    def __init__(self, stream: Stream, table: Table, budget: int = limits.INSTRUCTIONS):
        self.stream, self.table, self.budget = stream, table, budget
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.marks = self.text_bytes = 0

    def run(self) -> Any:
        """The value of the stream; raises ImportRefused for everything that is not plainly well formed."""
        stream, stack = self.stream, self.stack
        if stream.take(1) != b"\x80" or stream.take(1)[0] not in (2, 3, 4, 5):
            raise ImportRefused("it does not begin like a pickle of protocol 2 to 5")
        for _ in range(self.budget):
            place, code = stream.position, stream.take(1)
            if code == b".":
                if len(stack) != 1 or self.marks:
                    raise ImportRefused(f"the pickle stops with {len(stack)} values instead of one")
                return stack[0]
            handler = HANDLERS.get(code)
            if handler is None:
                raise ImportRefused(f"the pickle instruction {code!r} at byte {place} is not one that these files use")
            handler(self)
            if len(stack) > limits.STACK:
                raise ImportRefused(f"more than {limits.STACK} values wait on the stack at byte {place}")
        raise ImportRefused(f"the pickle has more than {self.budget} instructions")

    # ------------------------------------------------------------------ the stack

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """Take the top value; a mark is none."""
        if not self.stack or self.stack[-1] is MARK:
            raise ImportRefused("a pickle instruction takes a value where there is none")
        return self.stack.pop()

    def top(self, kind: type, what: str) -> Any:
        """The top value, left there, which must be exactly of ``kind``."""
        if not self.stack or type(self.stack[-1]) is not kind:
            raise ImportRefused(f"{what} where there is no {kind.__name__}")
        return self.stack[-1]

    def pop_mark(self) -> list[Any]:
        """The values above the last mark."""
        stack = self.stack
        for place in range(len(stack) - 1, -1, -1):
            if stack[place] is MARK:
                values = stack[place + 1 :]
                del stack[place:]
                self.marks -= 1
                return values
        raise ImportRefused("a pickle instruction looks for a mark where there is none")

    def mark(self) -> None:
        """Begin a run of values."""
        self.marks += 1
        if self.marks > limits.MARKS:
            raise ImportRefused(f"values are nested more than {limits.MARKS} deep")
        self.stack.append(MARK)

    def number(self, form: str, count: int) -> Any:
        """A fixed-size number from the stream."""
        return struct.unpack(form, self.stream.take(count))[0]

    # ------------------------------------------------------------------ strings

    def text(self, length: int) -> None:
        """Push a text, or its place when it is long."""
        if length > limits.SHORT_TEXT:
            self.push(Span(self.stream.skip(length), length, is_text=True))
            return
        self.text_bytes += length
        if self.text_bytes > limits.TEXT_BYTES:
            raise ImportRefused(f"the pickle holds more than {limits.TEXT_BYTES} bytes of text")
        try:
            self.push(self.stream.take(length).decode("utf-8"))
        except UnicodeDecodeError as error:
            raise ImportRefused(f"a text before byte {self.stream.position} is not UTF-8") from error

    def data(self, length: int) -> None:
        """Push the place of a byte string."""
        self.push(Span(self.stream.skip(length), length))

    def integer(self) -> None:
        """Push an integer of up to ``limits.INTEGER_BYTES`` bytes."""
        length = self.number("<B", 1)
        if length > limits.INTEGER_BYTES:
            raise ImportRefused(f"an integer of {length} bytes is longer than {limits.INTEGER_BYTES}")
        self.push(int.from_bytes(self.stream.take(length), "little", signed=True))

    # ------------------------------------------------------------------ containers

    def collect(self, count: int) -> None:
        """Push a tuple of the top ``count`` values."""
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def set_items(self, values: list[Any]) -> None:
        """Fill the dictionary on top from alternating keys and values."""
        target = self.top(dict, "items are set")
        if len(values) % 2:
            raise ImportRefused("a dictionary's key comes without a value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            check_key(key)
            if key in target:
                raise ImportRefused(f'a dictionary has the key "{shown(key)}" twice')
            target[key] = value

    def set_item(self) -> None:
        """One key and value."""
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def append(self) -> None:
        """One value for the list under it."""
        value = self.pop()
        self.top(list, "a value is appended").append(value)

    def extend(self) -> None:
        """Several values for the list under their mark."""
        values = self.pop_mark()
        self.top(list, "values are appended").extend(values)

    def add(self) -> None:
        """Several values for the set under their mark."""
        values = self.pop_mark()
        for value in values:
            check_key(value)
        self.top(set, "values are added").update(values)

    # ------------------------------------------------------------------ memo

    def remember(self, index: int) -> None:
        """Keep the top value under a number."""
        if not self.stack or self.stack[-1] is MARK:
            raise ImportRefused("the pickle remembers a value where there is none")
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        """Push the value kept under a number."""
        if index not in self.memo:
            raise ImportRefused(f"the pickle recalls value {index}, which it never kept")
        self.push(self.memo[index])

    # ------------------------------------------------------------------ names and calls

    def global_line(self) -> None:
        """A name given as two lines."""
        module, name = (self.stream.line(200).decode("ascii", "replace") for _ in range(2))
        self.push(self.table.find(module, name))

    def global_stack(self) -> None:
        """A name given as two texts on the stack."""
        name, module = self.pop(), self.pop()
        if type(module) is not str or type(name) is not str:
            raise ImportRefused("a global is named by something other than text")
        self.push(self.table.find(module, name))

    def called(self, call: Callable[[Global, tuple], Any]) -> None:
        """A call of the table, with the arguments and the name on the stack."""
        arguments, function = self.pop(), self.pop()
        if type(arguments) is not tuple or type(function) is not Global:
            raise ImportRefused(f"the pickle calls a {type(function).__name__}, which is no name from the list")
        self.push(call(function, arguments))

    def build(self) -> None:
        """Hand a state to the object under it."""
        state = self.pop()
        target = self.pop()
        self.table.build(target, state)
        self.push(target)

    def frame(self) -> None:
        """A frame is a hint for readers; only a false length matters."""
        length, stream = self.number("<Q", 8), self.stream
        if length > stream.end - stream.position:
            raise ImportRefused(f"a frame of {length} bytes reaches beyond the end of the data: it is cut short")


def check_key(key: Any) -> None:
    """Keys are texts or small integers: nothing whose hash a file could make slow or recursive."""
    if type(key) is str or (type(key) is int and -KEY_LIMIT < key < KEY_LIMIT):
        return
    raise ImportRefused(f"a dictionary or set has a key of the kind {type(key).__name__}")


HANDLERS: dict[bytes, Callable[[Machine], None]] = {
    b"\x95": Machine.frame,
    b"(": Machine.mark,
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m.stream.take(1)[0]),
    b"M": lambda m: m.push(m.number("<H", 2)),
    b"J": lambda m: m.push(m.number("<i", 4)),
    b"\x8a": Machine.integer,
    b"G": lambda m: m.push(m.number(">d", 8)),
    b"X": lambda m: m.text(m.number("<I", 4)),
    b"\x8c": lambda m: m.text(m.stream.take(1)[0]),
    b"B": lambda m: m.data(m.number("<I", 4)),
    b"C": lambda m: m.data(m.stream.take(1)[0]),
    b"\x8e": lambda m: m.data(m.number("<Q", 8)),
    b"]": lambda m: m.push([]),
    b"}": lambda m: m.push({}),
    b")": lambda m: m.push(()),
    b"\x8f": lambda m: m.push(set()),
    b"t": lambda m: m.push(tuple(m.pop_mark())),
    b"\x85": lambda m: m.collect(1),
    b"\x86": lambda m: m.collect(2),
    b"\x87": lambda m: m.collect(3),
    b"a": Machine.append,
    b"e": Machine.extend,
    b"s": Machine.set_item,
    b"u": lambda m: m.set_items(m.pop_mark()),
    b"\x90": Machine.add,
    b"q": lambda m: m.remember(m.stream.take(1)[0]),
    b"r": lambda m: m.remember(m.number("<I", 4)),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"h": lambda m: m.recall(m.stream.take(1)[0]),
    b"j": lambda m: m.recall(m.number("<I", 4)),
    b"c": Machine.global_line,
    b"\x93": Machine.global_stack,
    b"R": lambda m: m.called(m.table.call),
    b"\x81": lambda m: m.called(m.table.new),
    b"b": Machine.build,
    b"Q": lambda m: m.push(m.table.persistent(m.pop())),
}
