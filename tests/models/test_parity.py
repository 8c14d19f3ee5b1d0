"""Every published row computes what the reference did, from the same weights and image."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.golden import golden
from tests.models.golden_rows import (
    ROWS,
    captured_outputs,
    fill_weights,
    freeze_statistics,
    load_figures,
    load_shapes,
    make_sample,
    seeded_model,
)

pytestmark = pytest.mark.thorough

STRIDE = golden.STRIDE


def assert_close(actual, expected, tolerance=1e-4):
    """Largest difference at most `tolerance` of the largest expected magnitude."""
    actual = np.asarray(actual)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


@pytest.fixture(scope="module")
def features():
    """What backbones return, by dataset, features and sum of weights: rows share some of them."""
    return {}


@pytest.fixture(scope="module", params=ROWS)
def result(request, features):
    """One evaluation and one loss computation per row; only the figures stay in memory."""
    row = request.param
    model = seeded_model(row)
    names = {name: list(value.shape) for name, value in model.state_dict().items()}
    fill_weights(model, row)
    sample = make_sample(row)
    with torch.no_grad(), captured_outputs(model) as outputs:
        model.eval()
        weights = sum(p.double().sum().item() for p in model.backbone.state_dict().values())
        key = (row.split("_")[0], *model.backbone.output_shape(), weights)
        if key not in features:
            features[key] = model.backbone(model.preprocess([sample]).tensor)
            outputs.clear()
        model.backbone.forward = lambda images: features[key]
        prediction = model([{"image": sample["image"]}])[0]
        means = {name: x[0].mean((1, 2)) for name, x in outputs["backbone"].items()}
        network = {"net_sem_seg": outputs["sem_seg_head"][0][0]}
        if "ins_embed_head" in outputs:
            network["net_center"], network["net_offset"] = (
                x[0] for x in outputs["ins_embed_head"][:2]
            )
        network = {name: x[..., ::STRIDE, ::STRIDE].clone() for name, x in network.items()}
        outputs.clear()
        freeze_statistics(model)
        losses = {name: loss.item() for name, loss in model([sample]).items()}
    return SimpleNamespace(
        row=row,
        golden=load_figures(row),
        names=names,
        features=means,
        network=network,
        prediction=prediction,
        losses=losses,
    )


def test_parameters_have_the_published_names_and_shapes_in_order(result):
    assert list(result.names.items()) == list(load_shapes(result.row).items())


def test_features_match(result):
    expected = {key for key in result.golden if key.startswith("feat_")}
    assert {f"feat_{name}_mean" for name in result.features} == expected
    for name, mean in result.features.items():
        assert_close(mean, result.golden[f"feat_{name}_mean"])


def test_network_outputs_match(result):
    assert set(result.network) == {key for key in result.golden if key.startswith("net_")}
    for name, output in result.network.items():
        assert_close(output, result.golden[name])


def test_semantic_logits_match(result):
    assert_close(result.prediction["sem_seg"][:, ::STRIDE, ::STRIDE], result.golden["sem_seg"])


@pytest.mark.skipif(
    not torch.backends.mkl.is_available(), reason="the golden dropout masks were drawn by MKL"
)
def test_losses_match(result):
    assert set(result.losses) == {key for key in result.golden if key.startswith("loss_")}
    for name, loss in result.losses.items():
        assert loss == pytest.approx(float(result.golden[name]), rel=1e-4)


def test_panoptic_map_matches(result):
    if "semantic" in result.row:
        assert set(result.prediction) == {"sem_seg"}
        return
    panoptic, info = result.prediction["panoptic_seg"]
    assert info is None
    assert (panoptic.numpy() == result.golden["panoptic_seg"]).mean() >= 0.9999


def test_instances_match(result):
    if "semantic" in result.row:
        return
    instances = result.prediction["instances"]
    assert instances.image_size == golden.image_size(result.row)
    np.testing.assert_array_equal(instances.pred_classes, result.golden["classes"])
    # The map may differ in a few pixels, by the CPU's instructions; a score is a mean over pixels.
    areas = instances.pred_masks.sum((1, 2)).numpy()
    same = areas == result.golden["areas"]
    assert same.mean() >= 0.9
    assert_close(instances.scores[same], result.golden["scores"][same])
    num_pixels = instances.pred_masks[0].numel()
    assert np.abs(areas - result.golden["areas"]).sum() <= 1e-4 * num_pixels
    boxes = instances.pred_boxes.tensor.numpy()
    assert (boxes == result.golden["boxes"]).mean() >= 0.99
