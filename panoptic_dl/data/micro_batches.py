"""How a global batch is kept on fewer GPUs: several forward passes for one step."""


def accumulation(
    batch_size: int, num_processes: int, images_per_gpu: int | None, accumulate: int | None
) -> int:
    """Return how many forward passes each process makes for one optimizer step.

    batch_size = num_processes * accumulation * images of one forward pass.

    Args:
        batch_size: images of one step, over all processes: the recipe's, on any hardware.
        num_processes: processes that train together.
        images_per_gpu: most images of one forward pass; None: as many as there are.
        accumulate: the number itself, in place of the one that follows from `images_per_gpu`.

    Raises:
        ValueError: both are given; a number is none; the batch cannot be shared evenly.
    """
    if images_per_gpu is not None and accumulate is not None:
        raise ValueError(
            f"train.images_per_gpu={images_per_gpu} and train.accumulate={accumulate} say the same "
            "thing twice: set one of them to null"
        )
    for name, value in (("images_per_gpu", images_per_gpu), ("accumulate", accumulate)):
        if value is not None and (type(value) is not int or value < 1):
            raise ValueError(f"train.{name}={value} must be a whole number, at least 1, or null")
    if batch_size < 1 or batch_size % num_processes:
        suitable = max(1, -(-batch_size // num_processes)) * num_processes
        raise ValueError(
            f"a batch of {batch_size} images cannot be shared evenly by {num_processes} processes: "
            f"train.batch_size counts the images of all processes, the next that fits is {suitable}"
        )
    share = batch_size // num_processes
    if accumulate is not None:
        if share % accumulate:
            raise ValueError(
                f"the {share} images of a process (train.batch_size={batch_size}, {num_processes} "
                f"processes) cannot be taken in train.accumulate={accumulate} equal parts: choose "
                f"{_listed(share)}"
            )
        return accumulate
    if images_per_gpu is None or images_per_gpu >= share:
        return 1
    if share % images_per_gpu:
        raise ValueError(
            f"the {share} images of a process (train.batch_size={batch_size}, {num_processes} "
            f"processes) cannot be taken train.images_per_gpu={images_per_gpu} at a time: choose "
            f"{_listed(share)}"
        )
    return share // images_per_gpu


def _listed(number: int) -> str:
    """All divisors in words."""
    divisors = [str(d) for d in range(1, number + 1) if number % d == 0]
    return " or ".join([", ".join(divisors[:-1]), divisors[-1]]) if divisors[1:] else divisors[0]
