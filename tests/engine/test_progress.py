"""What a long loop says about itself."""

import logging

import pytest

from panoptic_dl.core import parallel as progress
from panoptic_dl.core.parallel import BatchProgress


def test_a_line_has_rate_and_time_left():
    loop = BatchProgress(500, what="evaluated", shown=False)
    loop.add(120)
    assert loop.line(60.0) == "evaluated 120/500 images  2 images/s  ETA 0:03:10"


@pytest.mark.parametrize("shown", [True, False])
def test_lines_come_by_time_and_at_the_end(monkeypatch, caplog, shown):
    clock = iter([0.0, *(4.0 * step for step in range(1, 7))])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    caplog.set_level(logging.INFO, logger="panoptic_dl")
    loop = BatchProgress(6, what="evaluated", shown=shown)
    for _ in range(6):
        loop.add(1)
    said = [record.getMessage().split()[1] for record in caplog.records]
    assert said == (["3/6", "6/6"] if shown else [])
