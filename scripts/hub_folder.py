"""The folder that `export_weights.py --hub` makes of a run, its model card, and its upload."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from panoptic_dl.config import build
from panoptic_dl.config.saved import PARTS
from panoptic_dl.core.classes import CLASSES, Classes, load_classes
from panoptic_dl.core.errors import WeightsError
from panoptic_dl.core.files import markdown_text, printable, sha256_of, write_text
from panoptic_dl.core.run_folder import (
    CONFIG,
    SHARED,
    SHARED_CONFIG,
    SHARED_FORMAT,
    SHARED_WEIGHTS,
    read_state,
)
from panoptic_dl.weights.files import Provenance, read_weights
from panoptic_dl.weights.hub import FILES, NEEDS_HUB

CARD = "README.md"
MODELS = {"panoptic": "Panoptic-DeepLab", "semantic": "DeepLabV3+"}
# Those that the hub knows by their names; others are "other", with the name beside.
LICENCES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "lgpl-3.0", "agpl-3.0"),
    *("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "unlicense"),
)
METRIC_TYPES = {"mIoU": "mean_iou"}


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Make the folder; WeightsError if it is a run's, or holds a model that may not be replaced."""
    if (folder / CONFIG).exists():
        raise WeightsError(f"--hub {folder} is the folder of a run: name a new one")
    if (folder / SHARED).exists() and not overwrite:
        raise WeightsError(f"--hub {folder} holds a model: name a new one, or allow --overwrite")
    folder.mkdir(parents=True, exist_ok=True)


def write_folder(folder: Path, weights: Path, config: DictConfig, run: Path, name: str) -> Path:
    """Write the files of a shared model; return that of its weights.

    Args:
        folder: where `weights` lies already, under any name.
        weights: the exported file; it is renamed.
        config: of the run, with its classes; see `saved_config`.
        run: its folder.
        name: of the model, for its card: "user/name", or the folder's.
    """
    (folder / SHARED).unlink(missing_ok=True)  # until all is there
    provenance = read_weights(weights).provenance
    assert provenance is not None
    weights.replace(folder / SHARED_WEIGHTS)
    write_text(folder / SHARED_CONFIG, yaml.safe_dump(shared_config(config), sort_keys=False))
    listed = run / CLASSES
    classes = load_classes(listed) if listed.is_file() else build(config.dataset.classes)
    write_text(folder / CLASSES, classes.to_json())
    started_from = read_state(run).get("started_from")
    choice: Any = OmegaConf.to_container(config.choice, resolve=False)
    write_text(folder / CARD, model_card(name, choice, classes, provenance, started_from))
    hashes = {each: sha256_of(folder / each) for each in FILES if each != SHARED}
    manifest = {"format": SHARED_FORMAT, "files": hashes}
    write_text(folder / SHARED, json.dumps(manifest, indent=2) + "\n")
    return folder / SHARED_WEIGHTS


def shared_config(config: DictConfig) -> dict[str, Any]:
    """The parts of a run, and what they take from elsewhere in its config, as plain containers.

    Interpolations stay: a resolved `${oc.env:...}` would publish a variable of whoever exports.
    Of paths from the root the last part is left, as in a run's command.
    """
    tree: Any = OmegaConf.to_container(config, resolve=False)
    kept = {part: tree.pop(part) for part in PARTS}
    while more := [key for key in tree if f"${{{key}" in str(kept)]:
        kept |= {key: tree.pop(key) for key in more}
    return {key: _without_paths(value) for key, value in kept.items()}


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    is_path = isinstance(value, str) and value.startswith(("/", "~"))
    return Path(value).name if is_path else value


def model_card(
    name: str,
    choice: Mapping[str, str],
    classes: Classes,
    provenance: Provenance,
    started_from: Mapping[str, Any] | None,
) -> str:
    """The text of README.md: the hub's header in YAML, and what a reader wants to know."""
    dataset, task = choice["dataset"], choice["task"]
    metrics: dict[str, float] = json.loads(provenance.metrics or "{}")
    model = MODELS.get(task, task)
    licence = re.sub(r"\s+", "-", provenance.licence.strip().lower())
    header: dict[str, Any] = {}
    if licence in LICENCES:
        header["license"] = licence
    elif licence != "not-stated":
        header |= {"license": "other", "license_name": re.sub(r"[^a-z0-9.-]", "-", licence)}
    header |= {
        "library_name": "panoptic-dl",
        "pipeline_tag": "image-segmentation",
        "tags": [f"{task}-segmentation", model.lower(), "detectron2", choice["backbone"]],
        "datasets": [dataset],
    }
    if metrics:
        measured = [
            {"type": METRIC_TYPES.get(each, each.lower().replace(" ", "_")), "name": each}
            | {"value": value}
            for each, value in metrics.items()
        ]
        header["metrics"] = [each["type"] for each in measured]
        header["model-index"] = [
            {
                "name": name.rpartition("/")[2],
                "results": [
                    {
                        "task": {"type": "image-segmentation", "name": f"{task} segmentation"},
                        "dataset": {"type": dataset, "name": dataset},
                        "metrics": measured,
                    }
                ],
            }
        ]
    things = len(classes.thing_ids)
    table = "".join(f"| {each} | {value:g} |\n" for each, value in metrics.items())
    scores = f"| metric | percent |\n| --- | --- |\n{table}" if metrics else "None were measured.\n"
    facts = {
        "iterations": str(provenance.iteration) if provenance.iteration >= 0 else "not known",
        "git revision of the code": provenance.revision or "not known",
        "checkpoint": f"{provenance.source_file}, SHA-256 {provenance.source_sha256}",
        "written": f"{provenance.date}, by {provenance.converter}",
        "started from": (
            ", ".join(f"{key} {value}" for key, value in started_from.items())
            if started_from
            else "random weights, or not known"
        ),
    }
    rows = "".join(f"| {key} | {markdown_text(value)} |\n" for key, value in facts.items())
    listed = ", ".join(markdown_text(each) for each in classes.names)
    return f"""---
{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---

# {name}

{model} with the backbone `{choice["backbone"]}` and the head `{choice["head"]}`, trained on
`{dataset}`: {len(classes)} classes, {things} of them things.

## Use

With panoptic-dl and its extra `hub` installed:

```python
from panoptic_dl import Predictor

predictor = Predictor.from_pretrained("{name}")  # or a folder with these files; revision=COMMIT
predictor("photograph.jpg").save("panoptic.png")
```

## Metrics

Of these weights, on the validation images of `{dataset}`:

{scores}
## Data

`{dataset}`, {provenance.image_format} images. Classes: {listed}.

## Provenance

| | |
| --- | --- |
{rows}
`{SHARED}` has the SHA-256 of the files, which are compared whenever the model is loaded.
Nothing here is code: the weights are of safetensors, and `{SHARED_CONFIG}` is data.

## Licence

{markdown_text(provenance.licence)}, as stated by whoever exported the model.
"""


def push(folder: Path, name: str, *, private: bool) -> None:
    """Upload a shared model to the Hugging Face hub; HF_TOKEN is a token that may write there."""
    try:
        from huggingface_hub import HfApi, constants
    except ImportError as error:
        raise WeightsError(f"--push {NEEDS_HUB}") from error
    token = os.environ.get("HF_TOKEN")
    if not token:
        raise WeightsError(
            f"--push needs the environment variable HF_TOKEN, a token of {constants.ENDPOINT}/"
            f"settings/tokens that may write; {folder} is complete"
        )
    api = HfApi(token=token)
    try:
        api.create_repo(name, exist_ok=True, private=private)
        done = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=[*FILES, CARD],
            commit_message="Upload by panoptic-dl",
        )
    except Exception as error:  # of huggingface_hub and what it reaches the network with
        why = printable(" ".join(str(error).split()))
        raise WeightsError(
            f"--push {name}: {constants.ENDPOINT} does not take it ({why}); {folder} is complete"
        ) from error
    print(f'pushed to {constants.ENDPOINT}/{name}, revision="{done.oid}"')
