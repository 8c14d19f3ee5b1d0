"""Configs of small toy datasets, for evaluations in full."""

import pytest

from panoptic_dl.config import compose
from tests.modes.erring_model import NUM_IMAGES, SIZES


@pytest.fixture
def config(tmp_path_factory):
    cache = tmp_path_factory.getbasetemp().parent / "toy_of_evaluations"

    def make(dataset: str, *overrides: str):
        numbers = [f"dataset.root.num_val={NUM_IMAGES}", "dataset.root.num_train=1"]
        place = [f"dataset.root.root={cache}", f"dataset.root.size={SIZES[dataset]}"]
        loading = ["train.num_workers=0"]
        return compose([f"dataset={dataset}", *numbers, *place, *loading, *overrides])

    return make
