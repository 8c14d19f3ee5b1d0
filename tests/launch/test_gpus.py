"""GPUs given out to jobs of a sweep: as many as they ask for, or a refusal."""

import os

import pytest

from panoptic_dl.core.files import release_lock
from panoptic_dl.launch import gpus


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(gpus, "_held", {})
    monkeypatch.setattr(gpus.tempfile, "gettempdir", lambda: str(tmp_path))
    yield
    for lock in gpus._held.values():
        release_lock(lock)


def sweep_of(names: str) -> dict[str, str]:
    environment = {gpus.VISIBLE: names}
    gpus.give_out_gpus(environment)
    return environment


def test_outside_of_such_a_sweep_nothing_is_taken(tmp_path):
    environment = {gpus.VISIBLE: "0,1"}
    assert gpus.take_gpus(1, environment) == []
    assert environment == {gpus.VISIBLE: "0,1"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "wanted", "taken"),
    [
        ("-1", None, []),
        ("", None, []),
        ("", 0, []),
        ("2,7", None, ["2"]),
        ("2,7", 0, []),
        ("2, 7", 2, ["2", "7"]),
    ],
)
def test_numbers_are_those_of_launch(names, wanted, taken):
    environment = sweep_of(names)
    assert gpus.take_gpus(wanted, environment) == taken
    assert environment[gpus.VISIBLE] == ",".join(taken)


def test_more_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"num_gpus=3, but the sweep has 2 .*launch.num_gpus=2"):
        gpus.take_gpus(3, sweep_of("0,1"))
    with pytest.raises(ValueError, match=r"Choose launch.num_gpus=0 \(the CPU\)"):
        gpus.take_gpus(1, sweep_of(""))


def test_a_folder_of_somebody_else_is_refused(tmp_path, monkeypatch):
    (tmp_path / f"panoptic-dl-gpus-{os.getuid()}").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="belongs to another user; set TMPDIR"):
        gpus.take_gpus(1, sweep_of("0"))
