"""`Predictor`: the maps of mode=eval, for images of any size and kind, in batches and threads."""

import json
import pickle
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.evaluation import DatasetEvaluator
from PIL import Image

from panoptic_dl import PanopticResult, Predictor
from panoptic_dl.config import build, compose
from panoptic_dl.core.errors import DemoError, WeightsError
from panoptic_dl.modes.evaluate import predict
from panoptic_dl.weights.load import load_model
from tests.demo.samples import ROW, scene

GUIDE = (Path(__file__).parents[2] / "docs" / "how-to" / "demo.md").read_text()


class Remembers(DatasetEvaluator):
    """Keeps what mode=eval's loop gives to evaluators."""

    def __init__(self):
        self.seen = []

    def process(self, inputs, outputs):
        self.seen += list(zip(inputs, outputs, strict=True))


@pytest.fixture(scope="module")
def evaluated(panoptic_run, tmp_path_factory):
    """Inputs and outputs of mode=eval's own loader, model and loop on toy images."""
    cache = tmp_path_factory.getbasetemp().parent / "toy_of_demo"
    numbers = ["dataset.root.num_train=1", "dataset.root.num_val=3", "dataset.root.size=[96,192]"]
    config = compose([*ROW, *numbers, f"dataset.root.root={cache}"])
    model = build(config.task.model).eval()
    load_model(model, panoptic_run.folder)
    remembers = Remembers()
    predict(model, build(config.task.evaluation.loader), [remembers])
    return remembers.seen


def test_maps_are_those_of_mode_eval(panoptic_run, evaluated):
    predictor = Predictor.from_run(panoptic_run.folder, device="cpu")
    for item, output in evaluated:  # 96 x 192, which the network sees as 64 x 128
        result = predictor(item["file_name"])
        panoptic = output["panoptic_seg"][0].numpy()
        assert np.array_equal(result.panoptic, panoptic)
        assert len(np.unique(panoptic)) > 3
        assert np.array_equal(result.semantic, output["sem_seg"].argmax(dim=0).numpy())
        things = [segment for segment in result.segments if segment.is_thing]
        instances = output["instances"]
        assert len(things) == len(instances) > 0
        for number, segment in enumerate(things):
            assert segment.category == int(instances.pred_classes[number])
            assert segment.score == pytest.approx(float(instances.scores[number]))
            assert np.array_equal(result.mask(segment), instances.pred_masks[number].numpy())
            assert list(segment.box) == instances.pred_boxes.tensor[number].tolist()
            assert segment.area == int(instances.pred_masks[number].sum())


def test_an_image_of_the_test_size_is_predicted_as_by_mode_eval(panoptic_run, evaluated, tmp_path):
    model = panoptic_run.model
    predictor = Predictor.from_run(panoptic_run.folder, device="cpu", maps="network")
    for item, _ in evaluated:
        image = item["image"]  # of the size that the network sees: 64 x 128
        file = tmp_path / "image.png"
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
        with torch.no_grad():
            (output,) = model([{"image": image, "height": 64, "width": 128}])
        assert np.array_equal(predictor(file).panoptic, output["panoptic_seg"][0].numpy())


def test_arrays_pillow_images_and_paths_are_the_same_image(predictor, tmp_path):
    array = scene(64, 128)
    Image.fromarray(array).save(tmp_path / "a.png")
    first = predictor(array)
    assert isinstance(first, PanopticResult)
    for other in (Image.fromarray(array), tmp_path / "a.png", str(tmp_path / "a.png")):
        assert np.array_equal(predictor(other).panoptic, first.panoptic)
    with pytest.raises(DemoError, match="a dict is no image"):
        predictor({})
    with pytest.raises(DemoError, match=r"cannot read nowhere\.jpg \(missing\)"):
        predictor("nowhere.jpg")


def test_it_can_be_pickled(predictor, semantic_run):
    for one in (predictor, Predictor.from_run(semantic_run.folder, device="cpu")):
        other = pickle.loads(pickle.dumps(one))
        first, second = one(scene(80, 120)), other(scene(80, 120))
        assert np.array_equal(first.semantic, second.semantic)
        assert first.segments == second.segments
        assert pickle.loads(pickle.dumps(second)).segments == first.segments


def test_channels_are_those_that_the_model_wants(panoptic_run):
    rgb, bgr = (Predictor.from_run(panoptic_run.folder, device="cpu") for _ in range(2))
    bgr.mapper.image_format = "BGR"
    array = scene(64, 128)
    assert np.array_equal(bgr(array[..., ::-1]).panoptic, rgb(array).panoptic)
    assert not np.array_equal(bgr(array).semantic, rgb(array).semantic)


def test_a_list_is_a_batch(predictor):
    images = [scene(64, 128, 0), scene(128, 64, 1), scene(64, 128, 2), scene(80, 200, 3)]
    sizes = []
    network = predictor.model.network
    predictor.model.network = lambda x: sizes.append(tuple(x.shape)) or network(x)
    try:
        together = predictor(images)
    finally:
        predictor.model.network = network
    assert sorted(size[0] for size in sizes) == [1, 1, 2]  # images of one size go together
    assert [r.image.shape for r in together] == [image.shape for image in images]
    for image, result in zip(images, together, strict=True):
        alone = predictor(image)
        assert (alone.semantic == result.semantic).mean() > 0.999  # sums in another order
        assert (alone.panoptic == result.panoptic).mean() > 0.99
    assert predictor([]) == []
    assert len(predictor((images[0],))) == 1


def test_many_threads_get_what_one_gets(predictor):
    images = [scene(64, 128, seed) for seed in range(4)]
    expected = [predictor(image) for image in images]
    wrong = []

    def work(offset):
        for turn in range(6):
            number = (offset + turn) % len(images)
            result = predictor(images[number])
            for name in ("panoptic", "semantic", "center", "offset"):
                if not np.array_equal(getattr(result, name), getattr(expected[number], name)):
                    wrong.append((number, name))
            if result.segments != expected[number].segments:
                wrong.append((number, "segments"))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_from_run_takes_the_weights_that_are_named(panoptic_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(panoptic_run.folder, run)
    state = torch.load(run / "model_final.pth", weights_only=True)["model"]
    other = {k: v + 1 if v.is_floating_point() else v for k, v in state.items()}
    torch.save({"model": other}, run / "model_best.pth")
    torch.save({"model": other}, tmp_path / "other.pth")
    expected = next(iter(other.values()))
    for weights in ("model_best.pth", tmp_path / "other.pth", str(tmp_path / "other.pth")):
        model = Predictor.from_run(run, weights=weights, device="cpu").model
        assert torch.equal(next(iter(model.state_dict().values())), expected)
    with pytest.raises(WeightsError, match=r"none\.pth"):
        Predictor.from_run(run, weights="none.pth")
    torch.save({"model": {"backbone.a": torch.zeros(1), "head.b": torch.zeros(1)}}, run / "w.pth")
    with pytest.raises(WeightsError):
        Predictor.from_run(run, weights="w.pth")


def test_the_precision_of_this_machine(panoptic_run, predictor, monkeypatch):
    # Of a network that has hardly been trained bf16 changes many pixels.
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    auto = Predictor.from_run(panoptic_run.folder, device="cpu", precision="auto")
    assert not any("BatchNorm" in type(module).__name__ for module in auto.model.modules())
    for each in (scene(64, 128), scene(80, 200, 3)):
        other, same = auto(each), predictor(each)
        assert (other.panoptic == same.panoptic).mean() > 0.99
        assert (other.semantic == same.semantic).mean() > 0.99


def test_settings_that_cannot_be_are_refused(panoptic_run, tmp_path):
    with pytest.raises(DemoError, match="maps=huge"):
        Predictor.from_run(panoptic_run.folder, maps="huge")
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        Predictor.from_run(panoptic_run.folder, device="cpu", precision="fp16")
    with pytest.raises(DemoError, match="device=cuda:99"):
        Predictor.from_run(panoptic_run.folder, device="cuda:99")
    with pytest.raises(DemoError, match="device=tpu0"):
        Predictor.from_run(panoptic_run.folder, device="tpu0")
    with pytest.raises(ValueError, match="is no run folder"):
        Predictor.from_run(tmp_path)


def test_classes_of_the_run_take_the_place_of_the_datasets(panoptic_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(panoptic_run.folder, run)
    names = [f"kind ${{{i}}}" for i in range(19)]
    classes = {"names": names, "colors": [[i, 2 * i, 3 * i] for i in range(19)], "thing_ids": [18]}
    (run / "classes.json").write_text(json.dumps(classes))
    text = (run / ".hydra" / "config.yaml").read_text()
    # As a config has it whose classes are read from files of the dataset.
    reading = "num_classes: {_target_: panoptic_dl.data.catalog.nowhere.count}"
    assert "num_classes: 19" in text
    (run / ".hydra" / "config.yaml").write_text(text.replace("num_classes: 19", reading))
    predictor = Predictor.from_run(run, device="cpu")
    assert list(predictor.classes.names) == names
    assert predictor.model.thing_ids == (18,)
    predictor(scene(64, 128))
    (run / "classes.json").write_text('{"names": ["a"], "colors": [], "thing_ids": []}')
    with pytest.raises(ValueError, match=r"classes\.json does not describe classes"):
        Predictor.from_run(run)
    classes["names"].append("one more")
    classes["colors"].append([0, 0, 0])
    (run / "classes.json").write_text(json.dumps(classes))
    with pytest.raises(WeightsError):  # the model has one class more than the weights
        Predictor.from_run(run)


def test_the_lines_of_python_run(panoptic_run, tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    run = tmp_path / "outputs" / "toy_quickstart"
    run.mkdir(parents=True)
    (run / "TIME").symlink_to(panoptic_run.folder)
    Image.fromarray(scene(64, 128)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, "docs/how-to/demo.md", "exec"), names)
    assert "(64, 128)" in capsys.readouterr().out
    assert names["picture"].dtype == np.uint8
    one, two = names["results"]
    assert np.array_equal(one.panoptic, two.panoptic)
