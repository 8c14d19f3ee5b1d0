"""How a global batch is shared out: processes, and forward passes one after another in each."""


def micro_batch_size(batch_size: int, num_processes: int, accumulate: int) -> int:
    """Return the images of one forward pass.

    Args:
        batch_size: images of one optimizer step, over all processes.
        num_processes: processes that train together.
        accumulate: forward passes whose gradients are summed for one step, in each process.

    Raises:
        ValueError: the batch cannot be shared evenly; the message names the next that can.
    """
    if not isinstance(accumulate, int) or accumulate < 1:
        raise ValueError(f"train.accumulate={accumulate} must be a whole number, at least 1")
    shares = num_processes * accumulate
    if batch_size < 1 or batch_size % shares:
        suitable = max(1, -(-batch_size // shares)) * shares
        passes = f" in {accumulate} passes each" if accumulate > 1 else ""
        raise ValueError(
            f"a batch of {batch_size} images cannot be shared evenly by {num_processes} processes"
            f"{passes}: train.batch_size counts the images of all processes, the next that fits is "
            f"{suitable}"
        )
    return batch_size // shares
