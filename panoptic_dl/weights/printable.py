"""Texts of a file, for people: a name may hold what moves a terminal's cursor or forges a line."""

from typing import Any

LONGEST = 200


def printable(value: Any, longest: int = LONGEST) -> str:
    """A name or text that comes from a file, with `?` for control characters, cut to a length.

    Containers are named by their type: what is in them may be too large, or nested too deeply, to
    be written out.
    """
    if value is None or type(value) in (bool, int, float):
        # Not an int of a million digits: writing it takes minutes, or is an error of Python.
        if type(value) is int and value.bit_length() > 256:
            return "a very large number"
        return str(value)
    if not isinstance(value, str):
        return f"({type(value).__name__})"
    text = "".join(c if c.isprintable() else "?" for c in value[:longest])
    return text + ("..." if len(value) > longest else "")
