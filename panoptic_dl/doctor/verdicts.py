"""What a check says: green, yellow or red; what was found; what to do about it."""

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class State(str, Enum):
    """Of a row of the table; only FAIL makes the doctor's exit code 1."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"
    UNCHECKED = "not checked"


@dataclass(frozen=True)
class Verdict:
    """Of one check.

    Attributes:
        found: what there is, in one line.
        cure: what to do, a command where there is one; None where nothing is to be done.
        problems: all that is wrong, one a line, where it is more than `found` says.
    """

    state: State
    found: str
    cure: str | None = None
    problems: tuple[str, ...] = ()


def ok(found: str) -> Verdict:
    """Green."""
    return Verdict(State.OK, found)


def warn(found: str, cure: str, problems: Sequence[str] = ()) -> Verdict:
    """Yellow: it will run, but perhaps not as meant."""
    return Verdict(State.WARN, found, cure, tuple(problems))


def fail(found: str, cure: str, problems: Sequence[str] = ()) -> Verdict:
    """Red: it will not run, or its figures will be wrong."""
    return Verdict(State.FAIL, found, cure, tuple(problems))


def judge(
    right: str, wrong: str, cure: str, failures: Sequence[str], warnings: Sequence[str] = ()
) -> Verdict:
    """Red where there are failures, yellow where there are only warnings, else green.

    Args:
        right: what is found where nothing is wrong.
        wrong: what the problems are, after their number: "images cannot be read".
    """
    problems = [*failures, *warnings]
    if not problems:
        return ok(right)
    found = f"{len(problems):,} {wrong}"
    return fail(found, cure, problems) if failures else warn(found, cure, problems)


def from_error(error: BaseException, cure: str) -> Verdict:
    """Red, in the words of an error; its own remedy, where it names one, replaces `cure`."""
    text = str(error) or type(error).__name__
    known = isinstance(error, (ValueError, OSError, FloatingPointError))
    if not known:  # such as KeyError, whose text alone says nothing
        text = f"{type(error).__name__}: {text}"
    if isinstance(error, MemoryError):
        text = "there is not enough memory for it"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        cure = "make room on the disk, or choose another run_dir"
    first, *others = [line.strip() for line in text.strip().splitlines() if line.strip()]
    for index, line in enumerate(others):
        if line.startswith("remedy:"):
            cure = " ".join([line.removeprefix("remedy:").strip(), *others[index + 1 :]])
            others = others[:index]
            break
    return fail(first, cure, others)
