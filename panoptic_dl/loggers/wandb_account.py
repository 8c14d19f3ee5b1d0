"""Whether Weights & Biases can be reached with a key; nobody is ever asked for one."""

import netrc
import os
from pathlib import Path
from urllib.parse import urlsplit

MODES = ("online", "offline", "disabled")
ALIASES = {"dryrun": "offline", "run": "online"}  # older names that wandb knows


def choose_mode(asked: str | None) -> tuple[str, str | None]:
    """The mode of a run, and why it is not the one that was asked for, or None.

    Args:
        asked: of `MODES`; None: what WANDB_MODE or `wandb offline` says, else online.

    Raises:
        ValueError: it is none of them.
    """
    import wandb

    settings = wandb.setup().settings
    mode = asked or settings.mode
    mode = ALIASES.get(mode, mode)
    if mode not in MODES:
        source = "logger.wandb.mode" if asked else "WANDB_MODE"
        raise ValueError(f"{source}={mode} is unknown; choose one of {', '.join(MODES)}")
    if mode == "online" and not has_key(settings.base_url, settings.api_key):
        return "offline", f"there is no key for {urlsplit(settings.base_url).netloc}"
    return mode, None


def has_key(server: str, in_settings: str | None = None) -> bool:
    """Whether wandb finds a key by itself: in the environment, its settings or a netrc file."""
    if in_settings or os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    named = os.environ.get("NETRC")
    files = [Path(named)] if named else [Path.home() / name for name in (".netrc", "_netrc")]
    for file in files:
        try:
            found = netrc.netrc(file.expanduser()).authenticators(urlsplit(server).netloc)
        except (OSError, netrc.NetrcParseError):
            continue
        if found and found[2]:
            return True
    return False
