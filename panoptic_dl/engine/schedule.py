"""The learning rate over the iterations, also of a resumed run."""

from typing import Any

from detectron2.engine import hooks


def check_length(schedule: Any, iterations: int) -> None:
    """Raise ValueError where a schedule ends before training: a power of less than 0 is none."""
    length = getattr(schedule, "max_iters", iterations)
    if length < iterations:
        raise ValueError(
            f"schedule.max_iters={length} is shorter than train.iterations={iterations}: leave it "
            "out, and it is as long"
        )


class ScheduleHook(hooks.LRScheduler):
    """Detectron2's hook, which steps the schedule every iteration and logs the learning rate.

    A resumed run takes the position in the schedule from the checkpoint, and everything else
    (length, power, warm-up, base rate) from its config, so that a run can be made longer.
    """

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": self.scheduler.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.scheduler.last_epoch = state_dict["last_epoch"]

    def before_train(self) -> None:
        """Set the first learning rate; that of a checkpoint belongs to the schedule it had."""
        super().before_train()
        rates = self.scheduler.get_lr()
        for group, rate in zip(self.scheduler.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
