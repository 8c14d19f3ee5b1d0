"""Names of results: those of the inputs where they differ, else with what tells them apart.

Names differ by more than the case of letters, for there are disks that do not tell it.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

LONGEST = 120  # characters; 255 bytes are the most that disks take, with suffixes


def result_names(files: Sequence[Path]) -> list[str]:
    """A name for each of several different files, safe as that of a file, in their order.

    `x` for x.jpg; `x_jpg` and `x_png` where x.jpg and x.png come together; `a_x` and `b_x` where
    a/x.jpg and b/x.jpg do; a number where nothing else helps.
    """
    names = [_safe(file.stem) for file in files]
    _spell_out(names, [_safe(file.name.replace(".", "_")) for file in files])
    deepest = max((len(file.parts) for file in files), default=0)
    for depth in range(2, min(deepest, 6) + 1):
        _spell_out(names, [_safe("_".join(_tail(file, depth))) for file in files])
    return _numbered(names, [name == _safe(f.stem) for name, f in zip(names, files, strict=True)])


def _numbered(names: Sequence[str], own: Sequence[bool]) -> list[str]:
    """Number those that still share a name; an input keeps its `own` before others get it."""
    final = list(names)
    taken: set[str] = set()
    for i in sorted(range(len(names)), key=lambda i: not own[i]):
        number = 1
        while _key(final[i]) in taken:
            number += 1
            final[i] = f"{names[i]}_{number}"
        taken.add(_key(final[i]))
    return final


def _spell_out(names: list[str], longer: Sequence[str]) -> None:
    """Give those that share a name their longer ones, where these tell them apart."""
    for members in _groups(names).values():
        if len(members) > 1 and len({_key(longer[i]) for i in members}) > 1:
            for i in members:
                names[i] = longer[i]


def _groups(names: Sequence[str]) -> dict[str, list[int]]:
    groups = defaultdict(list)
    for position, name in enumerate(names):
        groups[_key(name)].append(position)
    return groups


def _key(name: str) -> str:
    """What disks may take for the same name has the same key."""
    return unicodedata.normalize("NFKC", name).casefold()


def _tail(file: Path, depth: int) -> tuple[str, ...]:
    """The last folders and the name, with its suffix only if another one may differ in it."""
    return (*(part for part in file.parts[-depth:-1] if part.strip("/.\\")), file.stem)


def _safe(name: str) -> str:
    """A text as a name: no separators, nothing that cannot be printed, not too long."""
    kept = "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else "_" for c in name)
    kept = kept[-LONGEST:].strip(" .")
    while len(kept.encode()) > 2 * LONGEST:
        kept = kept[1:]
    return kept or "unnamed"
