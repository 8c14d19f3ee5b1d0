"""Pickles are programs: which instructions weights need, and what executes just these.

Two gates. `check_program` reads the instructions without executing any and refuses those outside
the list; `PlainReader` executes the rest, where every name that the file may call stands for a
function of ours and never for the original.
"""

import io
import pickle
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from .errors import WeightsError
from .printable import printable

# Instructions that make plain containers and values, name something, call it, or use the memo.
ALLOWED_INSTRUCTIONS = frozenset(
    (
        *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP"),
        *("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2"),
        *("LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        *("EMPTY_LIST", "LIST", "APPEND", "APPENDS"),
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
        *("EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
        *("GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"),
        *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
    )
)
SLACK = 1 << 16  # bytes beside a budget, for what is made of almost nothing


class Budget:
    """Bytes that a file may make of each kind: as many as it has itself.

    A file can name one part of it a thousand times, and each time it would be copied.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.spent: dict[str, int] = {}

    def take(self, kind: str, size: int) -> None:
        """Count bytes before they are made.

        Raises:
            WeightsError: there are more than the file has.
        """
        self.spent[kind] = self.spent.get(kind, 0) + size
        if self.spent[kind] > self.size + SLACK:
            raise WeightsError(f"it makes more {kind} than it has bytes")


class Stand:
    """Something on the pickle's stack, which the pickle may not change."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise WeightsError("it tries to change an object")


class Function(Stand):
    """A name that the file may call."""

    __slots__ = ("budget", "make")
    make: Callable[..., Any]
    budget: Budget

    def __init__(self, make: Callable[..., Any], budget: Budget) -> None:
        object.__setattr__(self, "make", make)
        object.__setattr__(self, "budget", budget)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise WeightsError("it tries to change a function")

    def __call__(self, *arguments: Any) -> Any:
        return self.make(self.budget, *arguments)


def check_program(
    data: io.BytesIO, size: int, allowed: frozenset[str] = ALLOWED_INSTRUCTIONS
) -> None:
    """Refuse instructions outside the list, and memo places that only exhaust memory.

    Args:
        data: read from where it is to behind the program's end.
        size: bytes in all.

    Raises:
        WeightsError: there is such an instruction.
    """
    for instruction, argument, _ in pickletools.genops(data):
        name = instruction.name
        if name not in allowed:
            raise WeightsError(f"it uses the pickle instruction {name}, which weights do not need")
        if name in ("PUT", "LONG_BINPUT") and not 0 <= int(argument or 0) <= size:
            raise WeightsError(f"it asks for {printable(argument)} places of memory")


_Unpickler: Any = pickle._Unpickler  # Any: typeshed hides how it is made


class PlainReader(_Unpickler):
    """Executes a checked program; names outside `names` are refused, the others are ours.

    It is Python's own reader in Python and not the one in C: keys of dicts can be looked at before
    they are hashed. The hash of nested tuples takes time without a bound, or all of the stack.
    """

    names: Mapping[tuple[str, str], Callable[..., Any]]
    budget: Budget

    def find_class(self, module: str, name: str) -> Any:
        make = self.names.get((module, name))
        if make is None:
            raise WeightsError(f"it asks for {printable(f'{module}.{name}', 80)}")
        return Function(make, self.budget)

    def persistent_load(self, pid: Any) -> Any:
        raise WeightsError("it refers to something outside of the file")

    def check_setitem(self) -> None:
        check_keys(self.stack[-2:-1])
        _Unpickler.load_setitem(self)

    def check_setitems(self) -> None:
        check_keys(self.stack[::2])  # what lies above the mark: key, value, key, value
        _Unpickler.load_setitems(self)

    def check_dict(self) -> None:
        check_keys(self.stack[::2])
        _Unpickler.load_dict(self)

    dispatch = {  # noqa: RUF012
        **_Unpickler.dispatch,
        pickle.SETITEM[0]: check_setitem,
        pickle.SETITEMS[0]: check_setitems,
        pickle.DICT[0]: check_dict,
    }


def check_keys(keys: list[Any]) -> None:
    """Refuse keys of dicts that are not texts or numbers.

    Raises:
        WeightsError: there is one.
    """
    for key in keys:
        if type(key) not in (str, int, float, bool, bytes, type(None)):
            raise WeightsError(f"it names a value by {printable(key)}, and not by a text or number")
