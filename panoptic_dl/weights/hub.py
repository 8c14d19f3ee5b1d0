"""Shared models: a folder that `export_weights.py --hub` made, or such a repository of the hub."""

import logging
import re
from os import PathLike
from pathlib import Path

from panoptic_dl.core.classes import CLASSES
from panoptic_dl.core.errors import WeightsError
from panoptic_dl.core.files import local_path, near_names, printable
from panoptic_dl.core.run_folder import SHARED, SHARED_CONFIG, SHARED_WEIGHTS

logger = logging.getLogger(__name__)

FILES = (SHARED, SHARED_CONFIG, CLASSES, SHARED_WEIGHTS)  # all that is downloaded
NEEDS_HUB = "needs huggingface_hub: pip install 'panoptic-dl[hub]'"


def find_model(source: str | PathLike[str], revision: str | None = None) -> Path:
    """The folder of a shared model; a repository is downloaded into huggingface_hub's cache.

    Nothing but `FILES` is downloaded, and nothing is executed or unpickled. What reads the files
    checks their hashes.

    Args:
        source: a folder, or "user/name" of a repository of models.
        revision: of the repository: a commit's hash, which always names the same files, a tag or a
            branch. Without it the default branch is taken, and its commit is logged.

    Raises:
        WeightsError: there is no such folder, repository or revision, or it holds no shared model;
            huggingface_hub is missing, or cannot reach the hub.
    """
    folder = local_path(source, "source")
    if folder.is_dir():
        if revision is not None:
            raise WeightsError(f"{folder} is a folder; revision= is of a repository")
    elif re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(source)):
        folder = _download(str(source), revision)
    else:
        near = near_names(folder.parent, folder.name)
        raise WeightsError(f'there is no folder {folder}{near}; a repository is "user/name"')
    if not (folder / SHARED).is_file():
        raise WeightsError(
            f"{source} has no {SHARED}, so that it is no model that export_weights.py --hub has "
            "made; of a run's folder: Predictor.from_run"
        )
    return folder


def _download(name: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import constants, errors, snapshot_download
    except ImportError as error:
        raise WeightsError(
            f'there is no folder {name}, and a repository "{name}" {NEEDS_HUB}'
        ) from error
    hub = constants.ENDPOINT
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except (errors.HfHubHTTPError, OSError) as error:
        cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else error
        why = printable(str(cause or error).strip().partition("\n")[0])
        raise WeightsError(
            f"there is no folder {name}, and {name} with revision {revision or 'main'} cannot be "
            f"had from {hub} and is not complete in the cache ({why}); HF_TOKEN gives a token, and "
            "on a machine without network a folder of it will do"
        ) from error
    if revision != folder.name:
        logger.warning('%s is at revision="%s"; name it to get the same again', name, folder.name)
    return folder
