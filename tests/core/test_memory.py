"""Memory of the process, in MiB."""

import sys

import numpy as np
import pytest
import torch

from panoptic_dl.core import memory


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not forget a peak")
def test_a_peak_counts_from_the_reset_on():
    np.ones(2**26)  # 512 MiB, freed at once
    before = memory.reset_peaks(torch.device("cpu"))
    assert memory.peak_host() < before + 100
    np.ones(2**25)  # 256 MiB
    assert before + 200 < memory.peak_device(torch.device("cpu")) < before + 400
    assert memory.host() < before + 100


def test_other_systems_know_the_peak_of_the_process(monkeypatch):
    monkeypatch.setattr(memory, "_status", lambda key: None)
    assert memory.host() == memory.peak_host() > 50
