"""TensorBoard has each number of metrics.json once."""

from panoptic_dl.loggers.base import Details, Loggers, Run
from panoptic_dl.loggers.tensorboard import TensorBoardLogger
from tests.train.tiny_run import TinyEvaluation, run_training


def test_each_number_is_there_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = {"eval_period": 2, "evaluation": TinyEvaluation(10.0, 20.0)}
    run_training(tmp_path, iterations=4, loggers={"t": TensorBoardLogger()}, **options)
    run_training(tmp_path, resume=True, loggers={"t": TensorBoardLogger()}, **options)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    # Of two files with numbers 9 and 10 at the end of their names, the later one is read first.
    assert sorted(e.step for e in events.Scalars("train/total_loss")) == list(range(6))
    assert sorted(e.step for e in events.Scalars("eval/PQ")) == [1, 3, 5]
    assert {"lr", "speed/images_per_s", "memory/host_memory_MiB"} <= set(events.Tags()["scalars"])


def test_an_evaluation_alone_leaves_no_events(tmp_path):
    with Loggers({"t": TensorBoardLogger()}) as loggers:
        loggers.start(Run(tmp_path, "eval"))
        loggers.evaluation(0, {"PQ": 1.0}, Details())
    assert list(tmp_path.iterdir()) == []
