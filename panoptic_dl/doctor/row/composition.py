"""Whether the parts and numbers of a row fit together."""

from panoptic_dl.data.micro_batches import accumulation
from panoptic_dl.engine.deviations import Recipe, Run, find_deviations, images_of_statistics
from panoptic_dl.engine.train_settings import CheckpointSettings, TrainSettings

from ..patient import Patient
from ..verdicts import Verdict, judge, ok


def look_at_settings(patient: Patient) -> Verdict:
    """Numbers of training that can be."""
    numbers = TrainSettings(**patient.train)
    CheckpointSettings(**patient.checkpoint)
    return ok(f"{patient.row}: {numbers.iterations:,} iterations of {numbers.batch_size} images")


def look_at_recipe(patient: Patient) -> Verdict:
    """What training will do otherwise than its recipe, and what that changes."""
    numbers, optimizer = patient.train, patient.part("optimizer")(patient.part("model"))
    images = images_per_pass(patient)
    run = Run(
        iterations=numbers["iterations"],
        batch_size=numbers["batch_size"],
        lr=optimizer.defaults["lr"],
        accumulate=numbers["batch_size"] // patient.num_processes // images,
        statistics=images_of_statistics(patient.part("model"), images, patient.num_processes),
        precision=numbers["precision"],
        ema=numbers["ema"],
        clip_norm=numbers["clip_norm"],
        auto_scale_lr=numbers["auto_scale_lr"],
    )
    found = [d for d in find_deviations(Recipe(**patient.recipe), run) if d.meaning is not None]
    return judge(
        "batch, learning rate, length and arithmetic are the recipe's",
        "numbers are not the recipe's: figures will differ",
        "nothing, if meant; else leave out what changes them (docs/training_options.md)",
        [],
        [f"{d.what}: {d.run} for {d.recipe} ({d.meaning})" for d in found],
    )


def look_at_batch(patient: Patient) -> Verdict:
    """The batch can be shared by the processes, in equal forward passes."""
    numbers, processes = patient.train, patient.num_processes
    images = images_per_pass(patient)
    passes = numbers["batch_size"] // processes // images
    words = f"{numbers['batch_size']} images = {processes} processes x {passes} passes x {images}"
    return ok(words.replace(" 1 processes", " 1 process").replace(" 1 passes", " 1 pass"))


def images_per_pass(patient: Patient) -> int:
    """Images of one forward pass in training, of one process."""
    numbers, processes = patient.train, patient.num_processes
    passes = accumulation(
        numbers["batch_size"], processes, numbers["images_per_gpu"], numbers["accumulate"]
    )
    return int(numbers["batch_size"] // processes // passes)
