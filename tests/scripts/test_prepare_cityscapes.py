"""Cityscapes is prepared as the official scripts do it, and an interrupted run continues."""

import contextlib
import io
import json
import shutil

import numpy as np
import pytest
from cityscapesscripts.preparation import createPanopticImgs, createTrainIdLabelImgs
from PIL import Image

from panoptic_dl.core.errors import DatasetError
from preparation import lock_folder
from scripts import prepare_cityscapes as cityscapes
from scripts.prepare_cityscapes import check_cityscapes, prepare_cityscapes
from tests.datasets.tiny_datasets import write_cityscapes, write_street
from tests.scripts.packed import files_below, quiet


@pytest.fixture
def downloaded(tmp_path):
    return write_cityscapes(tmp_path / "ours", prepare=False, train=3, val=2)


def test_results_equal_those_of_the_official_scripts_byte_for_byte(
    downloaded, tmp_path, monkeypatch
):
    official = tmp_path / "official"
    shutil.copytree(downloaded, official)
    prepare_cityscapes(downloaded, num_workers=2, say=quiet)
    monkeypatch.setenv("CITYSCAPES_DATASET", str(official / "cityscapes"))
    with contextlib.redirect_stdout(io.StringIO()):
        createTrainIdLabelImgs.main()
        createPanopticImgs.convert2panoptic(
            str(official / "cityscapes" / "gtFine"), setNames=["train", "val"]
        )
    ours, theirs = files_below(downloaded), files_below(official)
    assert len(ours) == 5 * (1 + 3 + 1 + 1) + 2
    assert ours == theirs


def test_polygons_are_not_needed_and_hidden_files_not_looked_at(downloaded, tmp_path):
    without = shutil.copytree(downloaded, tmp_path / "without")
    for file in without.glob("cityscapes/gtFine/*/*/*_polygons.json"):
        file.unlink()
    prepare_cityscapes(downloaded, say=quiet)
    hidden = [
        file.with_name(f"._{file.name}") for file in without.glob("cityscapes/*/*/*/*.png")
    ]  # as macOS leaves them
    for file in hidden:
        file.write_bytes(b"\0\5\x16\7")
    lines = []
    prepare_cityscapes(without, say=lines.append)
    assert lines[-4].startswith("train: 3 of")
    for file in hidden:
        file.unlink()
    expected, found = files_below(downloaded), files_below(without)
    assert found == {name: data for name, data in expected.items() if "polygons" not in name}


@pytest.mark.parametrize("kind", ["labelIds", "instanceIds"])
def test_a_label_of_another_size_than_its_image_is_never_ready(downloaded, kind):
    (file,) = (downloaded / "cityscapes/gtFine/val/aachen").glob(f"*{kind}.png")
    whole = Image.open(file)
    whole.resize((48, 24), 0).save(file)
    with pytest.raises(DatasetError, match=rf"{file} is 48 x 24, .*_leftImg8bit.png is 96 x 48 \("):
        prepare_cityscapes(downloaded, say=quiet)
    whole.save(file)
    prepare_cityscapes(downloaded, say=quiet)
    expected = files_below(downloaded)
    for pattern in ("val/aachen/*_labelTrainIds.png", "cityscapes_panoptic_val/*.png"):
        made = sorted((downloaded / "cityscapes/gtFine").glob(pattern))[0]
        Image.open(made).resize((1, 1), 0).save(made)
        with pytest.raises(DatasetError, match=f"{made} is 1 x 1, .*run this without --check"):
            check_cityscapes(downloaded, say=quiet)
        prepare_cityscapes(downloaded, say=quiet)
        assert files_below(downloaded) == expected
    Image.open(made).convert("L").save(made)
    with pytest.raises(DatasetError, match=f"{made} is no panoptic label: its mode is L"):
        check_cityscapes(downloaded, say=quiet)


def test_what_exists_is_kept(downloaded):
    prepare_cityscapes(downloaded, say=quiet)
    before = {f: f.stat().st_mtime_ns for f in downloaded.rglob("*.*") if f.is_file()}
    lines = []
    prepare_cityscapes(downloaded, say=lines.append)
    assert {f: f.stat().st_mtime_ns for f in downloaded.rglob("*.*") if f.is_file()} == before
    assert sum("nothing to do" in line for line in lines) == 4


def test_an_interrupted_run_continues(downloaded, monkeypatch):
    convert, calls = cityscapes._write_panoptic, []

    def stop_at_the_second(instances, folder, part):
        calls.append(instances)
        if len(calls) == 2:
            raise KeyboardInterrupt
        convert(instances, folder, part)

    monkeypatch.setattr(cityscapes, "_write_panoptic", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        prepare_cityscapes(downloaded, say=quiet)
    gt_fine = downloaded / "cityscapes" / "gtFine"
    assert not (gt_fine / "cityscapes_panoptic_train.json").exists()
    calls.append(None)  # from now on all succeed
    prepare_cityscapes(downloaded, say=quiet)
    assert calls[0] not in calls[2:]  # its result was kept
    content = json.loads((gt_fine / "cityscapes_panoptic_train.json").read_text())
    assert len(content["annotations"]) == 3
    assert not list(gt_fine.glob(".*"))


def test_a_deleted_file_is_made_from_what_is_there_now(downloaded):
    prepare_cityscapes(downloaded, say=quiet)
    gt_fine = downloaded / "cityscapes" / "gtFine"
    (file,) = (gt_fine / "cityscapes_panoptic_train").glob("aachen_000002*")
    file.unlink()
    (instances,) = gt_fine.glob("train/aachen/aachen_000002*instanceIds.png")
    Image.fromarray(np.full((48, 96), 7, dtype=np.uint16)).save(instances)  # road everywhere
    prepare_cityscapes(downloaded, say=quiet)
    assert file.is_file()
    content = json.loads(file.parent.with_suffix(".json").read_text())
    assert [a["image_id"][-13:-7] for a in content["annotations"]] == ["000000", "000002", "000001"]
    assert [len(a["segments_info"]) for a in content["annotations"]] == [7, 1, 7]


def test_a_torn_json_file_is_made_again(downloaded):
    prepare_cityscapes(downloaded, say=quiet)
    target = downloaded / "cityscapes/gtFine/cityscapes_panoptic_val.json"
    whole = target.read_bytes()
    target.write_bytes(whole[:100])
    prepare_cityscapes(downloaded, say=quiet)
    assert target.read_bytes() == whole


def test_the_summary_counts(downloaded, monkeypatch):
    monkeypatch.setitem(cityscapes.OFFICIAL_COUNTS, "val", 2)
    lines = []
    prepare_cityscapes(downloaded / "cityscapes", say=lines.append)  # the folder itself will do
    assert lines[-4].startswith("train: 3 of the official 2975 images: good for trials")
    assert lines[-3:-1] == ["val: complete, 2 images", "test: not there, left out"]
    assert lines[-1] == f"ready: dataset=cityscapes dataset.root={downloaded}"


def test_dummy_labels_of_test_are_left_as_they_are(downloaded):
    write_street(downloaded / "cityscapes", "test", "berlin", "berlin_000000_000019", 0)
    lines = []
    prepare_cityscapes(downloaded, say=lines.append)
    assert "test: 1 of the official 1525 images" in lines[-2]
    assert len(list((downloaded / "cityscapes/gtFine/test/berlin").iterdir())) == 3
    assert not (downloaded / "cityscapes/gtFine/cityscapes_panoptic_test").exists()


def test_checking_changes_nothing_and_says_what_preparing_would_make(downloaded):
    before = files_below(downloaded)
    with pytest.raises(DatasetError, match=r"TrainIds\.png \(3 of 3 (?s:.*)run `python s"):
        check_cityscapes(downloaded, say=quiet)
    assert files_below(downloaded) == before
    prepare_cityscapes(downloaded, say=quiet)
    lines = []
    check_cityscapes(downloaded, say=lines.append)
    assert lines[0].startswith("train: 3 of the official 2975")


def test_a_split_with_images_and_no_labels_is_named(downloaded):
    shutil.rmtree(downloaded / "cityscapes/gtFine/val")
    with pytest.raises(DatasetError, match=r"folder missing: .*gtFine/val\n(?s:.*)gtFine_tra"):
        prepare_cityscapes(downloaded, say=quiet)


def test_two_at_the_same_time_are_refused(downloaded):
    base = downloaded / "cityscapes"
    with lock_folder(base), pytest.raises(DatasetError, match=f"another process prepares {base}"):
        prepare_cityscapes(downloaded, say=quiet)
    prepare_cityscapes(downloaded, say=quiet)


def test_what_a_killed_process_left_is_removed(downloaded):
    (aachen,) = (downloaded / "cityscapes/gtFine/val/aachen").glob("*polygons.json")
    left = aachen.with_name(".unfinished.77.aachen_000000_000019_gtFine_labelTrainIds.png")
    left.write_bytes(b"half")
    prepare_cityscapes(downloaded, say=quiet)
    assert not left.exists()


@pytest.mark.parametrize(
    ("folder", "archive"),
    [("leftImg8bit", "leftImg8bit_trainvaltest.zip"), ("gtFine", "gtFine_trainvaltest.zip")],
)
def test_a_missing_folder_is_named_with_its_archive(downloaded, folder, archive):
    shutil.rmtree(downloaded / "cityscapes" / folder)
    for attempt in (prepare_cityscapes, check_cityscapes):
        with pytest.raises(
            DatasetError, match=f"(?s)folder missing: .*{folder}\n.*{archive} .*bytes"
        ):
            attempt(downloaded, say=quiet)


def test_half_an_archive_is_refused_before_any_work(downloaded):
    gt_fine = downloaded / "cityscapes" / "gtFine"
    (file,) = gt_fine.glob("val/bonn/*instanceIds.png")
    file.unlink()
    with pytest.raises(
        DatasetError, match=rf"val/bonn/{file.name} \(1 of 2 such files(?s:.*)download gtFine_tra"
    ):
        prepare_cityscapes(downloaded, say=quiet)
    assert not list(gt_fine.glob("*/*/*labelTrainIds.png"))


@pytest.mark.parametrize("suffix", ["labelIds.png", "instanceIds.png"])
@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_damaged_file_is_named(downloaded, suffix, num_workers):
    (file,) = (downloaded / "cityscapes/gtFine/val/aachen").glob(f"*{suffix}")
    content = file.read_bytes()
    file.write_bytes(content[:60] + content[-8:])  # which ends as it should
    with pytest.raises(DatasetError, match=f"cannot convert .*{file.name}.*unpack it again"):
        prepare_cityscapes(downloaded, num_workers=num_workers, say=quiet)


def test_the_script_says_what_it_does_and_fails_with_one_line(downloaded, run_script):
    code, out, err = run_script("prepare_cityscapes.py", downloaded, "--workers", "1")
    assert code == 0, err
    assert "train: labelTrainIds: 100% 3/3" in out
    (downloaded / "nothing").mkdir()
    for place, message in (
        ("nothing", "error: Cityscapes: folder missing: "),
        ("nowhere", "error: no such folder: "),
    ):
        code, _, err = run_script("prepare_cityscapes.py", downloaded / place)
        assert code == 1
        assert err.startswith(message)
        assert "Traceback" not in err
    assert not list((downloaded / "nothing").iterdir())


@pytest.mark.parametrize("length", [0, 50])
@pytest.mark.parametrize(
    "pattern", ["gtFine/train/*/*_labelTrainIds.png", "gtFine/cityscapes_panoptic_train/*.png"]
)
def test_what_the_official_scripts_left_torn_is_made_anew(downloaded, pattern, length):
    prepare_cityscapes(downloaded, say=quiet)
    expected = files_below(downloaded)
    torn = sorted((downloaded / "cityscapes").glob(pattern))[1]
    torn.write_bytes(torn.read_bytes()[:length])
    with pytest.raises(DatasetError, match=rf"1 torn files, first {torn}: run this again"):
        check_cityscapes(downloaded, say=quiet)
    prepare_cityscapes(downloaded, say=quiet)
    assert files_below(downloaded) == expected


def test_a_torn_image_is_no_image(downloaded):
    torn = sorted((downloaded / "cityscapes").glob("leftImg8bit/train/*/*.png"))[0]
    torn.write_bytes(torn.read_bytes()[:-5])
    with pytest.raises(DatasetError, match=rf"1 torn files, first {torn}: delete them and unpack"):
        prepare_cityscapes(downloaded, say=quiet)
