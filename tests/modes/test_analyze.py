"""mode=analyze: every combination uses the truths it names, and measures them rightly."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog

from panoptic_dl.config import build, compose
from panoptic_dl.core.images import read_panoptic_ids
from panoptic_dl.data.mapper import TruthMapper
from panoptic_dl.models.panoptic_deeplab import PanopticDeepLab
from panoptic_dl.modes.analyze import COMBINATIONS
from panoptic_dl.postprocess.semantic import upsample
from panoptic_dl.run import work
from tests.evaluation.model_outputs import REAL
from tests.modes.small_runs import small_coco

pytestmark = pytest.mark.thorough

BRANCHES = ("semantic", "center", "offset")


@pytest.fixture(scope="module")
def overrides(tmp_path_factory):
    return small_coco(tmp_path_factory.mktemp("coco"))


def run(tmp_path, overrides, *more, mode="analyze"):
    folder = tmp_path / mode
    folder.mkdir(parents=True, exist_ok=True)
    return work("cpu", compose([*overrides, *more, f"mode={mode}", f"run_dir={folder}"]), ())


def row(result, *branches):
    (found,) = (r for r in result["combinations"] if r["truth"] == list(branches))
    return found["metrics"]


@pytest.fixture
def middling(overrides, monkeypatch):
    """The network's output is the truth with faults in each branch; counts its calls in a list."""
    config = compose(overrides)
    records = DatasetCatalog.get(build(config.dataset.test.panoptic))
    mapper = TruthMapper(
        mapper=lambda record: record, num_classes=133, thing_ids=range(80), gaussian_sigma=3
    )
    calls = []

    def network(self, images):
        record = records[len(calls) % len(records)]
        calls.append(record["image_id"])
        random = np.random.default_rng(record["image_id"])
        ids = read_panoptic_ids(record["pan_seg_file_name"])
        truth = mapper.maps(ids, record["segments_info"])
        height, width = (padded // 4 for padded in images.shape[2:])
        classes = torch.full((4 * height, 4 * width), 3)
        h, w = truth.classes.shape
        classes[:h, :w] = truth.classes.where(truth.labeled, torch.tensor(0))
        shape = (1, 133, height, width)
        logits = torch.from_numpy(random.normal(0, 0.1, shape)).float()
        logits[0].scatter_(0, classes.roll(5, dims=1)[None, ::4, ::4], 5.0)
        center, offset = torch.zeros(1, 1, 4 * height, 4 * width), torch.zeros(1, 2, *classes.shape)
        center[0, :, :h, : w - 9] = truth.center[..., 9:]
        center[0, 0, 3, 3] = 0.8
        offset[0, :, :h, :w] = 0.6 * truth.offset + 0.25
        if self.needs_logits:
            logits = upsample(logits[0], 4)[None]
        return logits, center, offset

    monkeypatch.setattr(PanopticDeepLab, "network", network)
    return calls


def test_without_truth_the_figures_are_those_of_an_evaluation(tmp_path, overrides, middling):
    """And the network sees each image once."""
    result = run(tmp_path, overrides)
    assert middling == [100, 101, 102]
    evaluated = run(tmp_path, overrides, mode="eval")["metrics"]
    model = row(result)
    assert 10 < model["PQ"] < 90
    assert model == {name: evaluated[name] for name in model}
    assert result["metrics"]["PQ"] == model["PQ"]
    gains = [r["gain"] for r in result["combinations"]]
    assert gains == [r["metrics"]["PQ"] - model["PQ"] for r in result["combinations"]]


def test_predictions_at_another_size_than_the_files(tmp_path, overrides, monkeypatch):
    """The network's maps are scaled to the files, and equal those of an evaluation."""
    sizes = ["dataset.min_size_test=90", "dataset.max_size_test=120"]
    maps = {"analyze": [], "eval": []}
    merge = PanopticDeepLab.merge
    mode = "analyze"

    def spy(self, images):
        outputs = merge(self, images)
        maps[mode].append((images[0], outputs[0]["panoptic_seg"][0]))
        return outputs

    monkeypatch.setattr(PanopticDeepLab, "merge", spy)
    run(tmp_path, overrides, *sizes)
    mode = "eval"
    run(tmp_path, overrides, *sizes, mode="eval")
    for (ours, ours_merged), (usual, usual_merged) in zip(*maps.values(), strict=True):
        assert sorted(ours.classes.shape) == [60, 80]
        for name in ("classes", "center", "offset"):
            assert torch.equal(getattr(ours, name), getattr(usual, name)), name
        assert torch.equal(ours_merged, usual_merged)


def test_all_truth_is_perfect(tmp_path, overrides, middling):
    result = run(tmp_path, overrides, "mode.unlabelled=void")
    assert row(result, *BRANCHES)["PQ"] == 100.0
    assert result["combinations"][-1]["segments"] == {"matched": 9, "missed": 0, "wrong": 0}
    assert row(result, "semantic")["PQ_th"] < 90


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "coco").is_dir(), reason=f"no real data in {REAL}")
def test_all_truth_of_real_coco_is_perfect_but_for_small_stuff(tmp_path, overrides):
    """What docs/how-to/analysis.md says of the 100 images of val2017; the model is untrained."""
    real = [*overrides, f"dataset.root={REAL}", "mode.unlabelled=void"]
    assert row(run(tmp_path / "whole", real), *BRANCHES)["PQ"] == 100.0
    published = run(tmp_path / "published", real, "dataset.stuff_area=4096")
    assert row(published, *BRANCHES)["PQ_th"] == 100.0
    assert published["combinations"][-1]["segments"] == {"matched": 1000, "missed": 73, "wrong": 0}


def test_true_semantics_make_perfect_stuff(tmp_path, overrides, middling):
    result = run(tmp_path, overrides)
    for combination in result["combinations"]:
        perfect = combination["metrics"]["PQ_st"] == 100.0
        assert perfect == ("semantic" in combination["truth"])
    # ... but for stuff below the area that counts: 80 x 30 less a person's part is below 2400.
    small = run(tmp_path, overrides, "dataset.stuff_area=2400", "mode.unlabelled=void")
    assert row(small, *BRANCHES)["PQ_st"] == 0.0
    assert row(small, *BRANCHES)["PQ_th"] == 100.0
    assert small["combinations"][-1]["segments"]["missed"] == 3


@pytest.mark.parametrize("unlabelled", ["predicted", "void"])
def test_each_combination_uses_exactly_its_truths(
    tmp_path, overrides, middling, monkeypatch, unlabelled
):
    seen, truths = [], []
    merge, call = PanopticDeepLab.merge, TruthMapper.__call__

    def spy_merge(self, images):
        seen.append((images, merge(self, images)))
        return seen[-1][1]

    def spy_call(self, record):
        sample = call(self, record)
        truths.append(sample["truth"])
        return sample

    monkeypatch.setattr(PanopticDeepLab, "merge", spy_merge)
    monkeypatch.setattr(TruthMapper, "__call__", spy_call)
    run(tmp_path, overrides, f"mode.unlabelled={unlabelled}")
    assert len(seen) == len(truths) == 3
    for (images, _), truth in zip(seen, truths, strict=True):
        model = images[0]
        assert len(images) == len(COMBINATIONS) == len(set(COMBINATIONS)) == 8
        assert (~truth.labeled).any()
        assert (~truth.has_offset).any()
        for branches, maps in zip(COMBINATIONS, images, strict=True):
            true = {name: name in branches for name in BRANCHES}
            same = {
                "semantic": torch.equal(maps.classes[truth.labeled], truth.classes[truth.labeled]),
                "center": torch.equal(maps.center, truth.center),
                "offset": torch.equal(
                    maps.offset[:, truth.has_offset], truth.offset[:, truth.has_offset]
                ),
            }
            assert same == true
            kept = {
                "semantic": torch.equal(maps.classes, model.classes),
                "center": torch.equal(maps.center, model.center),
                "offset": torch.equal(maps.offset, model.offset),
            }
            assert kept == {name: not is_true for name, is_true in true.items()}
            # Where the truth says nothing, the prediction stays.
            nowhere = ~truth.has_offset
            assert torch.equal(maps.offset[:, nowhere], model.offset[:, nowhere])
            stays = torch.equal(maps.classes[~truth.labeled], model.classes[~truth.labeled])
            assert stays == (unlabelled == "predicted" or "semantic" not in branches)


def hand_made(segments, size=(40, 60)):
    """PQ with all truth of drawn rectangles (id, class, top, left, bottom, right), as a function
    of the model's numbers."""
    ids = np.zeros(size, dtype=np.int64)
    for number, _, top, left, bottom, right in segments:
        ids[top:bottom, left:right] = number
    infos = [{"id": s[0], "category_id": s[1], "iscrowd": 0} for s in segments]
    mapper = TruthMapper(mapper=dict, num_classes=133, thing_ids=range(80), gaussian_sigma=3)
    truth = mapper.maps(ids, infos)

    def things_found(**numbers):
        from panoptic_dl.postprocess import get_panoptic_segmentation

        panoptic, _ = get_panoptic_segmentation(
            truth.classes[None],
            truth.center,
            truth.offset,
            thing_ids=range(80),
            label_divisor=1000,
            stuff_area=0,
            void_label=-1,
            **numbers,
        )
        return sum(
            len(panoptic[0][torch.from_numpy(ids == number)].unique()) == 1
            and (panoptic == panoptic[0, top, left]).sum() == (ids == number).sum()
            for number, _, top, left, *_ in segments
        )

    return things_found


def test_what_is_left_with_all_truth_has_these_causes():
    """docs/how-to/analysis.md names them."""
    near = [(1, 90, 0, 0, 40, 60), (2, 0, 10, 10, 20, 13), (3, 0, 10, 13, 20, 16)]
    assert hand_made(near)(nms_kernel=41) == 3, "true peaks are equal: no window suppresses one"
    nested = [(1, 90, 0, 0, 40, 60), (2, 0, 10, 10, 30, 30), (3, 1, 16, 16, 24, 24)]
    assert hand_made(nested)() == 1, "one centre for two objects: one is lost, the other spoilt"
    three = [*near, (4, 1, 30, 40, 38, 50)]
    assert hand_made(three)(top_k=4) == 4
    assert hand_made(three)(top_k=3) == 1, "of top_k equal peaks none is above the last"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["weights=null"], "mode=analyze needs weights=FILE"),
        (["weights=/nowhere.pth"], "weights=/nowhere.pth: there is no such file"),
        (["task=semantic"], "choose task=panoptic"),
        (["predictions=folder"], "needs a network, not predictions=FOLDER"),
        (["evaluation.flip=true"], "looks at each image once"),
        (["mode.unlabelled=ignored"], "mode.unlabelled=ignored is unknown; choose predicted or"),
    ],
)
def test_what_cannot_be_is_one_message(tmp_path, overrides, capsys, more, message):
    with pytest.raises(SystemExit):
        run(tmp_path, overrides, *more)
    assert message in capsys.readouterr().err
