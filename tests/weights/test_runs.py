"""What a run makes of `weights=`: run folders, pixels that differ, and no weights at all."""

import pytest
import torch

from panoptic_dl.config import compose
from panoptic_dl.core.errors import WeightsError
from panoptic_dl.core.run_folder import find_checkpoint
from panoptic_dl.weights.export import KINDS, write_weights
from panoptic_dl.weights.load import load_model, start_from
from tests.engine.tiny import TinyModel, run_training

from .small import Tiny, provenance, same


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


@pytest.mark.parametrize("kind", KINDS)
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


def test_an_unknown_channel_order_is_ignored_and_said(tmp_path, caplog):
    file = tmp_path / "w.safetensors"
    write_weights(file, Tiny().state_dict(), provenance(image_format="GBR"))
    load_model(Tiny(), file)
    assert "neither RGB nor BGR" in caplog.text


def test_damaged_provenance_is_an_error_and_its_text_is_harmless(tmp_path, caplog):
    caplog.set_level("INFO")
    file = tmp_path / "w.pth"
    said = provenance(licence="a\x1b[2Jb\nERROR c" + "x" * 9999).plain()
    torch.save({"model": Tiny().state_dict(), "provenance": said}, file)
    load_model(Tiny(), file)
    assert "a?[2Jb?ERROR c" in caplog.text
    assert "x" * 600 not in caplog.text
    for name, value in (
        ("source_size", "many"),
        ("pixel_mean", 3),
        ("licence", 5),
        ("percent", True),
        ("source_size", float("inf")),
        ("source_size", "1e999"),
        ("iteration", float("nan")),
        ("pixel_mean", "[" * 100000),
        ("percent", 10**400),
    ):
        torch.save({"model": Tiny().state_dict(), "provenance": said | {name: value}}, file)
        with pytest.raises(WeightsError, match=f"damaged: {name}"):
            load_model(Tiny(), file)
    del said["origin"]
    torch.save({"model": Tiny().state_dict(), "provenance": said}, file)
    with pytest.raises(WeightsError, match=r"damaged: .*origin"):
        load_model(Tiny(), file)


def test_two_wrappers_side_by_side_are_refused(tmp_path):
    torch.save({"model": Tiny().state_dict(), "state_dict": {}}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="both `model` and `state_dict`"):
        load_model(Tiny(), tmp_path / "w.pth")


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
    for fact in ("random weights", "pretrained.pth", "somewhere", "scripts/convert_weights.py"):
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
