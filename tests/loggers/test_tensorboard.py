"""What TensorBoard shows of a run, read back from its events."""

import io

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from panoptic_dl.launch.signals import Interrupted
from panoptic_dl.loggers.base import Details, Loggers, Run
from panoptic_dl.loggers.tensorboard import TensorBoardLogger
from tests.train.tiny_run import Stopping, TinyEvaluation, run_training

from .detailed import Detailed, write_facts


def read(folder):
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    return events


def text(events, tag):
    return events.Tensors(f"{tag}/text_summary")[-1].tensor_proto.string_val[0].decode()


def hparams(events, tag):
    content = events.PluginTagToContent("hparams")[f"_hparams_/{tag}"]
    return HParamsPluginData.FromString(content)


def test_each_number_is_there_once(tmp_path):
    options = {"eval_period": 2, "evaluation": TinyEvaluation(10.0, 20.0)}
    run_training(tmp_path, iterations=4, loggers={"t": TensorBoardLogger()}, **options)
    run_training(tmp_path, resume=True, loggers={"t": TensorBoardLogger()}, **options)
    events = read(tmp_path)
    # Of two files with numbers 9 and 10 at the end of their names, the later one is read first.
    assert sorted(e.step for e in events.Scalars("loss/total")) == list(range(6))
    assert sorted(e.step for e in events.Scalars("val/PQ")) == [1, 3, 5]
    assert set(events.Tags()["scalars"]) == {
        *("loss/total", "loss/fit", "loss/extra", "lr", "val/PQ", "train/grad_norm"),
        *("time/iteration", "time/data", "time/images_per_s", "memory/host_MiB"),
    }


def test_pictures_tables_config_and_hyper_parameters(tmp_path):
    write_facts(tmp_path)
    evaluation = Detailed(40.0, 60.0)
    run_training(
        tmp_path,
        iterations=4,
        evaluation=evaluation,
        eval_period=2,
        loggers={"t": TensorBoardLogger()},
    )
    events = read(tmp_path)
    assert set(events.Tags()["images"]) == {"predictions/1", "pictures/worst"}
    shown = events.Images("predictions/1")
    assert [each.step for each in shown] == [1, 3]
    picture = np.asarray(Image.open(io.BytesIO(shown[1].encoded_image_string))).astype(int)
    assert picture.shape == (12, 32, 3)
    assert np.abs(picture[:, :15] - (0, 0, 255)).max() < 20  # the ground truth, on the left
    assert np.abs(picture[:, 17:] - (0, 255, 0)).max() < 20
    assert [e.value for e in events.Scalars("val_PQ/car")] == [10.0, 10.0]
    assert "val_PQ/sky" not in events.Tags()["scalars"]  # which is not defined
    assert "| car" in text(events, "classes/Panoptic quality by class")
    assert "    optimizer:\n      lr: 0.05" in text(events, "run/config")
    assert '"revision": "abc"' in text(events, "run/about")
    given = hparams(events, "session_start_info").session_start_info.hparams
    assert given["optimizer.lr"].number_value == 0.05
    assert given["backbone"].string_value == "hrnet48"
    assert given["network.parameters"].number_value == 65
    metrics = hparams(events, "experiment").experiment.metric_infos
    assert "val/PQ" in {each.name.tag for each in metrics}  # the plugin shows its last value
    assert hparams(events, "session_end_info").session_end_info.status  # finished
    (layout,) = events.Tensors("custom_scalars__config__")
    assert b"^val/SQ$" in layout.tensor_proto.string_val[0]
    assert {file.name for file in tmp_path.iterdir() if file.is_dir()} <= {".hydra"}


def test_a_stopped_run_is_not_shown_as_finished(tmp_path):
    with pytest.raises(Interrupted):
        run_training(tmp_path, model=Stopping(3), loggers={"t": TensorBoardLogger()})
    assert "_hparams_/session_end_info" not in read(tmp_path).PluginTagToContent("hparams")


def test_an_evaluation_alone_leaves_no_events(tmp_path):
    with Loggers({"t": TensorBoardLogger()}) as loggers:
        loggers.start(Run(tmp_path, "eval"))
        loggers.evaluation(0, {"PQ": 1.0}, Details())
    assert list(tmp_path.iterdir()) == []
