"""Runs and a predictor, as the tests of mode=demo have them."""

from tests.demo.conftest import panoptic_run, photos, predictor, semantic_run

__all__ = ["panoptic_run", "photos", "predictor", "semantic_run"]
