"""Load weights completely or not at all."""

import collections
import copy
import json
import pickle
from functools import lru_cache

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from panoptic_dl.config import compose
from panoptic_dl.core.classes import Classes, record_classes
from panoptic_dl.core.errors import WeightsError
from panoptic_dl.core.run_folder import find_checkpoint
from panoptic_dl.weights.files import SUFFIXES, read_weights, write_weights
from panoptic_dl.weights.load import compare, load_model, load_to_train, start_from
from panoptic_dl.weights.names import KNOWN_DTYPES, find_statistics, fit
from tests.golden import golden
from tests.models.golden_rows import ROWS, build_model, load_shapes
from tests.train.tiny_run import TinyModel, run_training
from tests.weights.tiny_weights import Tiny, provenance, same

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize("wrap", ["plain", "model", "state_dict"])
def test_pth_in_each_wrapping(tmp_path, wrap):
    source, target = Tiny(), Tiny()
    state = source.state_dict()
    torch.save(state if wrap == "plain" else {wrap: state, "iteration": 7}, tmp_path / "w.pth")
    load_model(target, tmp_path / "w.pth")
    assert same(source, target)


def test_safetensors(tmp_path):
    source, target = Tiny(), Tiny()
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    load_model(target, tmp_path / "w.safetensors")
    assert same(source, target)


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone."])
@pytest.mark.parametrize("counters", [True, False])
def test_a_backbone_alone_with_a_classifier_beside_it(tmp_path, prefix, counters):
    source, target = Tiny(), Tiny()
    state = {prefix + k: v for k, v in source.backbone.state_dict().items()}
    if not counters:
        del state[prefix + "1.num_batches_tracked"]
    if "backbone." not in prefix:
        state[prefix + "classifier.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "w.pth")
    head = target.head.weight.clone()
    load_to_train(target, tmp_path / "w.pth")
    assert same(source.backbone, target.backbone)
    assert torch.equal(head, target.head.weight)


@pytest.mark.parametrize("prefix", ["", "net."])
def test_the_backbone_of_another_whole_model_starts_one_of_ours(tmp_path, prefix, caplog):
    caplog.set_level("INFO")
    source, target = Tiny(), Tiny()
    state = {f"{prefix}backbone.{k}": v for k, v in source.backbone.state_dict().items()}
    state |= {f"{prefix}decoder.aspp.weight": torch.zeros(1), "loss.weight": torch.zeros(1)}
    torch.save({"network": state, "optimizer": {"state": {}, "param_groups": []}}, tmp_path / "w")
    load_to_train(target, tmp_path / "w")
    assert same(source.backbone, target.backbone)
    assert f"left out: network.{prefix}decoder (1 tensor), network.loss (1 tensor)" in caplog.text


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_incomplete_files_change_nothing_and_are_described(tmp_path, change):
    state, target = Tiny().state_dict(), Tiny()
    if change == "missing":
        del state["head.bias"]
    elif change == "unexpected":
        state["extra.weight"] = torch.zeros(1)
    else:
        state["head.weight"] = torch.zeros(2, 4)
    torch.save(state, tmp_path / "w.pth")
    before = {k: v.clone() for k, v in target.state_dict().items()}
    named = {"missing": "1 missing: head.bias", "unexpected": "1 unexpected: extra.weight"}
    shape = r"1 of another shape: head.weight \(2, 4\) for \(2, 3\)"
    with pytest.raises(WeightsError, match=named.get(change, shape)):
        load_model(target, tmp_path / "w.pth")
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())


CONTAINERS = ("pth", "pth.of_detectron2", "pkl.arrays", "pkl.tensors", "safetensors")
SMALLEST = "coco_panoptic_xception65_dsconv"


def write(folder, kind, values):
    """A file as one finds them: bare, beside an optimizer's state, or Python's pickle."""
    values = {  # the golden values are all real numbers, counters among them
        n: (v.long() if isinstance(v, torch.Tensor) else v.astype(np.int64))
        if n.endswith("num_batches_tracked")
        else v
        for n, v in values.items()
    }
    file = folder / f"model_final.{kind.partition('.')[0]}"
    tensors = {
        name: value if isinstance(value, torch.Tensor) else torch.from_numpy(np.asarray(value))
        for name, value in values.items()
    }
    if kind == "pth":
        torch.save(collections.OrderedDict(tensors), file)
    elif kind == "pth.of_detectron2":
        optimizer = {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": []}
        more = {"optimizer": optimizer, "scheduler": {"last_epoch": 9}, "iteration": 89999}
        statistics = {"pixel_mean": torch.zeros(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
        torch.save({"model": statistics | tensors, **more}, file)
    elif kind == "safetensors":
        save_file(tensors, file)
    else:
        state = values if kind == "pkl.arrays" else tensors
        content = {"model": state, "__author__": "third_party", "matching_heuristics": True}
        file.write_bytes(pickle.dumps(content, protocol=4))
    return file


@pytest.fixture(scope="module")
def model():
    return build_model(SMALLEST)


@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_value_of_a_row_arrives(tmp_path, kind, model):
    values = golden.weights(SMALLEST, load_shapes(SMALLEST))
    for parameter in model.parameters():
        parameter.data.zero_()
    load_model(model, write(tmp_path, kind, values))
    own = model.state_dict()
    assert own.keys() == values.keys()
    for name, value in values.items():
        assert torch.equal(own[name], torch.from_numpy(np.asarray(value)).to(own[name].dtype)), name


@lru_cache
def on_meta(row):
    """Names and shapes of a row's model, without its values."""
    with torch.device("meta"):
        model = build_model(row)
    model.pixel_mean, model.pixel_std = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    return model


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
@pytest.mark.parametrize("kind", ["pth", "pth.of_detectron2"])
@pytest.mark.parametrize("row", ROWS)
def test_the_names_of_every_row_fit_its_model_and_no_other(tmp_path, row, kind):
    """One value stands for each tensor: torch's files keep it once."""
    values = {name: torch.ones(()).expand(shape) for name, shape in load_shapes(row).items()}
    file = write(tmp_path, kind, values)
    assert file.stat().st_size < 3e6
    load_model(on_meta(row), file)
    tensors = read_weights(file).tensors
    for other in ROWS:
        own = on_meta(other).state_dict()
        fits = not compare(own, fit(own, tensors, whole=True).tensors).faults
        assert fits == (other == row)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
@pytest.mark.parametrize("kind", CONTAINERS[2:])
@pytest.mark.parametrize("row", ROWS)
def test_the_names_of_every_row_in_the_containers_that_keep_every_value(tmp_path, row, kind):
    values = {n: np.ones(s, np.float16) for n, s in load_shapes(row).items()}
    load_model(on_meta(row), write(tmp_path, kind, values))


COUNTER = "backbone.1.num_batches_tracked"
ODD = list({v for v in vars(torch).values() if isinstance(v, torch.dtype)} - KNOWN_DTYPES)


def of_kind(shape, dtype):
    """A tensor of any kind: some of them can neither be filled nor converted to."""
    return torch.empty(shape, dtype=dtype)


def is_kept(tmp_path, dtype) -> bool:
    """Whether torch can make, save and read such a tensor at all."""
    try:
        torch.save(of_kind((2, 3), dtype), tmp_path / "probe.pth")
        torch.load(tmp_path / "probe.pth", weights_only=True)
    except Exception:  # torch's kinds of errors for it are many
        return False
    return True


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", sorted(ODD, key=str), ids=str)
def test_numbers_of_odd_kinds_are_refused_before_anything_is_loaded(tmp_path, dtype):
    if not is_kept(tmp_path, dtype):
        pytest.skip("torch has no such tensors in files")
    state = {name: value + 1 for name, value in Tiny().state_dict().items()}
    state["head.bias"] = of_kind(state["head.bias"].shape, dtype)
    torch.save(state, tmp_path / "w.pth")
    target, before = Tiny(), Tiny()
    before.load_state_dict(target.state_dict())
    with pytest.raises(WeightsError, match="nothing was loaded"):
        load_model(target, tmp_path / "w.pth")
    assert same(target, before)
    with pytest.raises(WeightsError, match=r"make them torch\.float32"):
        write_weights(tmp_path / "v.pth", {"a": of_kind((2,), dtype)}, provenance())
    assert find_statistics({"pixel_mean": of_kind((3,), dtype)}) == {}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_real_numbers_of_the_usual_kinds_are_loaded(tmp_path, dtype):
    state = {
        n: torch.ones_like(v, dtype=dtype) if v.is_floating_point() else v
        for n, v in Tiny().state_dict().items()
    }
    torch.save(state, tmp_path / "w.pth")
    target = Tiny()
    load_model(target, tmp_path / "w.pth")
    assert torch.equal(target.head.bias, torch.ones(2))


@pytest.mark.parametrize(
    ("value", "loaded"),
    [
        (torch.tensor(7, dtype=torch.int32), 7),
        (torch.tensor(7.0), 7),
        (torch.tensor([7]), 7),
        (torch.tensor(float("nan")), 0),
        (torch.tensor(1j), None),
        (torch.zeros(3), None),
        (torch.tensor(True), None),
    ],
)
def test_counters_of_any_kind_are_no_reason_to_refuse(tmp_path, value, loaded, caplog):
    caplog.set_level("INFO")
    torch.save(Tiny().state_dict() | {COUNTER: value}, tmp_path / "w.pth")
    model = Tiny()
    load_model(model, tmp_path / "w.pth")
    assert model.state_dict()[COUNTER] == (loaded or 0)
    assert ("1 batch counters missing" in caplog.text) == (loaded is None)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_values_that_are_not_finite_are_warned_of(tmp_path, caplog, value):
    state = Tiny().state_dict()
    state["head.bias"] = torch.tensor([0, value], dtype=torch.float64)
    torch.save(state, tmp_path / "w.pth")
    load_model(Tiny(), tmp_path / "w.pth")
    assert "infinite values or NaN in 1 tensors, such as head.bias" in caplog.text


@pytest.fixture
def run_folder(tmp_path):
    """Checkpoints as a run leaves them; the weights of each are filled with one number."""
    for number, name in enumerate(("model_0000003", "model_0000007", "model_best", "model_final")):
        state = {k: torch.full_like(v, number) for k, v in Tiny().state_dict().items()}
        content = {
            "model": state,
            "ema": {"model": {k: v + 9 for k, v in state.items()}},
            "trainer": {},
        }
        torch.save(content, tmp_path / f"{name}.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000007.pth\n")
    return tmp_path


def loaded_from(folder) -> int:
    model = Tiny()
    load_model(model, folder)
    return int(model.head.bias[0].item())


def test_a_run_folder_stands_for_its_final_or_newest_checkpoint(run_folder, caplog):
    caplog.set_level("INFO")
    assert loaded_from(run_folder) == 3
    assert "taking model_final.pth" in caplog.text
    files = {"model_final.pth": {"iteration": 3}, "model_0000007.pth": {"iteration": 7}}
    (run_folder / "checkpoints.json").write_text(json.dumps({"files": files}))
    assert loaded_from(run_folder) == 1  # it was finished, made longer, and stopped
    assert "taking model_0000007.pth, iteration 7" in caplog.text
    (run_folder / "model_final.pth").unlink()
    assert loaded_from(run_folder) == 1
    assert "taking model_0000007.pth" in caplog.text
    assert find_checkpoint(run_folder, "model_best.pth") == run_folder / "model_best.pth"


@pytest.mark.parametrize("tag", [None, "", "none.pth", "../outside.pth", "model_\x000.pth"])
def test_a_folder_without_either_lists_what_is_there(run_folder, tag):
    (run_folder / "model_final.pth").unlink()
    torch.save({}, run_folder.parent / "outside.pth")
    (run_folder / "last_checkpoint").unlink()
    if tag is not None:
        (run_folder / "last_checkpoint").write_text(tag)
    with pytest.raises(WeightsError, match=r"here is model_0000003\.pth, model_0000007\.pth, mod"):
        load_model(Tiny(), run_folder)
    with pytest.raises(WeightsError, match=r"has no checkpoint \.\./outside\.pth; it has model_0"):
        find_checkpoint(run_folder, "../outside.pth")


@pytest.mark.parametrize("kind", SUFFIXES)
def test_other_statistics_are_a_loud_warning(tmp_path, caplog, kind):
    file = tmp_path / f"w{kind}"
    write_weights(file, Tiny().state_dict(), provenance())
    load_model(Tiny(), file)
    assert "WARNING" not in caplog.text
    said = provenance(pixel_std=(1.0, 1.0, 1.0))
    write_weights(file, Tiny().state_dict(), said, overwrite=True)
    load_model(Tiny(), file)
    assert "another pixel_std" in caplog.text
    assert "pixels.std=[1.0, 1.0, 1.0]" in caplog.text
    assert "pixel_mean" not in caplog.text


def test_statistics_that_old_detectron2_saved_are_compared_too(tmp_path, caplog):
    state = {
        "pixel_mean": torch.full((3, 1, 1), 100.0),
        "sem_seg_head.predictor.weight": torch.ones(1),
    }
    torch.save({"model": state}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="another architecture"):
        load_model(Tiny(), tmp_path / "w.pth")
    assert "another pixel_mean" in caplog.text


@pytest.mark.parametrize(("theirs", "ours"), [("BGR", "RGB"), ("RGB", "BGR")])
def test_another_channel_order_is_refused(tmp_path, theirs, ours):
    model, file = Tiny(), tmp_path / "w.safetensors"
    before = {k: v.clone() for k, v in model.state_dict().items()}
    write_weights(file, Tiny().state_dict(), provenance(image_format=theirs))
    with pytest.raises(WeightsError, match=f"dataset.image_format={theirs}"):
        load_model(model, file, ours)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    load_model(model, file, theirs)


@pytest.mark.parametrize("given", [".", "model_final.pth"])
def test_a_run_of_another_channel_order_is_refused(tmp_path, given):
    torch.save({"model": Tiny().state_dict()}, tmp_path / "model_final.pth")
    (tmp_path / ".hydra").mkdir()
    resolved = tmp_path / ".hydra/resolved.yaml"
    resolved.write_text("dataset: {image_format: BGR}")
    with pytest.raises(WeightsError, match=r"expects BGR images.*dataset\.image_format=BGR"):
        load_model(Tiny(), tmp_path / given)
    load_model(Tiny(), tmp_path / given, "BGR")
    resolved.write_text("dataset: [torn")  # which tells nothing
    load_model(Tiny(), tmp_path / given)


def test_an_unknown_channel_order_is_another_one(tmp_path):
    file = tmp_path / "w.safetensors"
    write_weights(file, Tiny().state_dict(), provenance(image_format="GBR"))
    with pytest.raises(WeightsError, match="expects GBR images"):
        load_model(Tiny(), file)


def test_whole_numbers_in_the_place_of_real_ones_are_refused(tmp_path):
    state = Tiny().state_dict()
    torch.save(state | {"head.weight": state["head.weight"].int()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"head\.weight torch\.int32 for torch\.float32"):
        load_model(Tiny(), tmp_path / "w.pth")


EXPECTED = {"file": "pretrained.pth", "source": "somewhere"}


def test_no_weights_where_they_are_expected_is_said_loudly_and_training_goes_on(tmp_path, caplog):
    run_training(tmp_path, iterations=2, pretrained=EXPECTED)
    said = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(said) >= 5
    for fact in ("random weights", "pretrained.pth", "somewhere", "weights=pretrained.pth"):
        assert any(fact in line for line in said), fact
    assert (tmp_path / "model_final.pth").is_file()


def test_a_resumed_run_and_one_with_weights_say_nothing(tmp_path, caplog):
    run_training(tmp_path, iterations=2)
    run_training(tmp_path, iterations=3, resume=True, pretrained=EXPECTED)
    start_from(TinyModel(), str(tmp_path / "model_final.pth"), EXPECTED)
    assert "PRE-TRAINED" not in caplog.text


def test_training_starts_from_the_weights(tmp_path):
    source, target = Tiny(), Tiny()
    write_weights(tmp_path / "w.pkl", source.state_dict(), provenance())
    start_from(target, str(tmp_path / "w.pkl"), EXPECTED)
    assert same(source, target)


@pytest.mark.parametrize(
    ("backbone", "file"),
    [
        ("xception65", "tf-xception65-270e81cf.pth"),
        ("hrnet18", "hrnetv2_w18_imagenet_pretrained.pth"),
        ("hrnet32", "hrnetv2_w32_imagenet_pretrained.pth"),
        ("hrnet48", "hrnetv2_w48_imagenet_pretrained.pth"),
        ("hrnet_tiny", None),
    ],
)
def test_what_each_backbone_expects(backbone, file):
    mode = compose([f"backbone={backbone}"]).mode
    assert (mode.pretrained and mode.pretrained.file) == file
    assert compose([f"backbone={backbone}", "pretrained=null"]).mode.pretrained is None


class WithClassifier(Tiny):
    """`Tiny` with a classifier where our models have it."""

    def __init__(self, num_classes: int, width: int = 3) -> None:
        super().__init__(width)
        self.sem_seg_head = torch.nn.Module()
        self.sem_seg_head.decoder = torch.nn.Conv2d(width, 4, 1)
        self.sem_seg_head.predictor = torch.nn.Conv2d(4, num_classes, 1)


def _classes(*names):
    return Classes(names, tuple((i, i, i) for i in range(len(names))), (0,))


@pytest.fixture
def trained(tmp_path):
    """The model of a run with three classes, in its folder."""
    model = WithClassifier(3)
    record_classes(_classes("road", "car", "person"), tmp_path)
    torch.save({"model": model.state_dict()}, tmp_path / "model_final.pth")
    return model


def test_transfer_takes_all_but_the_classifier_and_rows_of_classes_by_their_names(
    trained, tmp_path, caplog
):
    caplog.set_level("INFO")
    model, classes = WithClassifier(4), _classes("ball", "person", "box", "road")
    fresh = copy.deepcopy(model.sem_seg_head.predictor)
    load_to_train(model, tmp_path, match="transfer", classes=classes)
    assert same(model.backbone, trained.backbone)
    assert same(model.sem_seg_head.decoder, trained.sem_seg_head.decoder)
    for name in ("weight", "bias"):
        predictors = (model.sem_seg_head.predictor, trained.sem_seg_head.predictor, fresh)
        mine, theirs, new = (getattr(each, name) for each in predictors)
        assert torch.equal(mine, torch.stack([new[0], theirs[2], new[2], theirs[0]]))
    assert "from the file: person, road" in caplog.text
    assert "new: ball, box" in caplog.text
    assert "sem_seg_head.predictor.weight, sem_seg_head.predictor.bias" in caplog.text


def test_transfer_goes_by_names_where_the_number_of_classes_is_the_same(trained, tmp_path, caplog):
    model, classes = WithClassifier(3), _classes("car", "road", "ball")
    load_to_train(model, tmp_path, match="transfer", classes=classes)
    theirs = trained.sem_seg_head.predictor.weight
    assert torch.equal(model.sem_seg_head.predictor.weight[:2], theirs[[1, 0]])
    load_to_train(model, tmp_path, classes=classes)  # strict: as before, and said
    assert same(model, trained)
    assert "class 0 is 'road', not 'car'" in caplog.text
    assert "weights_match=transfer" in caplog.text


def test_transfer_without_names_of_classes_uses_no_row(trained, tmp_path, caplog):
    (tmp_path / "classes.json").unlink()
    model = WithClassifier(3)
    fresh = copy.deepcopy(model.sem_seg_head.predictor)
    load_to_train(model, tmp_path, match="transfer", classes=_classes("road", "car", "person"))
    assert same(model.sem_seg_head.predictor, fresh)
    assert same(model.backbone, trained.backbone)
    assert "No classes.json" in caplog.text


def test_the_strict_error_names_transfer_where_only_the_classifier_differs(trained, tmp_path):
    model = WithClassifier(5)
    before = copy.deepcopy(model)
    with pytest.raises(WeightsError, match=r"All else fits.*weights_match=transfer"):
        load_to_train(model, tmp_path, classes=_classes(*"abcde"))
    with pytest.raises(WeightsError, match="another architecture") as error:
        load_to_train(WithClassifier(5, width=6), tmp_path, classes=_classes(*"abcde"))
    assert "transfer" not in str(error.value)
    assert same(model, before)


def test_transfer_needs_all_the_rest(trained, tmp_path):
    model = WithClassifier(4, width=6)
    before = copy.deepcopy(model)
    with pytest.raises(WeightsError, match="another architecture"):
        load_to_train(model, tmp_path, match="transfer", classes=_classes(*"abcd"))
    assert same(model, before)


@pytest.mark.parametrize("part", ["backbone", "sem_seg_head.decoder", "head", "backbone.0"])
def test_any_part_is_taken_alone(trained, tmp_path, part):
    model = WithClassifier(7)
    before = copy.deepcopy(model)
    load_to_train(model, tmp_path, match=part)
    for name, value in model.state_dict().items():
        source = trained if name.startswith(f"{part}.") else before
        assert torch.equal(value, source.state_dict()[name]), name


def test_a_part_that_is_not_there(trained, tmp_path):
    for match, message in (
        ("backbon", "choose one of backbone"),
        ("xyz", "choose one of strict, transfer, backbone, head, sem_seg_head"),
    ):
        with pytest.raises(ValueError, match=message):
            load_to_train(WithClassifier(3), tmp_path, match=match)
    other = WithClassifier(3)
    other.extra = torch.nn.Linear(2, 2)
    with pytest.raises(WeightsError, match=r"\(extra\) is of another architecture"):
        load_to_train(other, tmp_path, match="extra")
    with pytest.raises(ValueError, match="needs weights="):
        start_from(other, None, None, match="backbone")
