"""Python and the packages that the project's metadata asks for."""

import platform
from importlib import metadata

from packaging.requirements import Requirement

from panoptic_dl.environment import detectron2_origin, version

from ..patient import Patient
from ..verdicts import Verdict, fail, judge, ok

CURE = "make setup"
SAID = ("torch", "numpy", "hydra-core")  # of all packages


def look_at_packages(patient: Patient) -> Verdict:
    """Every package that `pyproject.toml` names is there, in a version that it allows."""
    python = f"Python {platform.python_version()}"
    try:
        required = metadata.requires("panoptic-dl") or []
    except metadata.PackageNotFoundError:
        return fail(f"{python}; the project itself is not installed", CURE)
    problems = []
    for text in required:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        there = version(wanted.name)
        if there == "not installed":
            problems.append(f"{wanted.name} is not installed")
        elif not wanted.specifier.contains(there, prereleases=True):
            problems.append(f"{wanted.name} is {there}, not {wanted.specifier}")
    right = ", ".join([python, *(f"{name} {version(name)}" for name in SAID)])
    return judge(right, "packages are not as the project needs them", CURE, problems)


def look_at_detectron2(patient: Patient) -> Verdict:
    """It can be imported, from wherever it comes."""
    origin = detectron2_origin()
    return fail(origin, CURE) if origin.startswith("cannot be imported") else ok(origin)
