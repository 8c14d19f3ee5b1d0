"""Whether Weights & Biases can be reached with a key; nobody is ever asked for one."""

import netrc
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

MODES = ("online", "offline", "disabled")
OLD_SERVER = "https://api.wandb.ai"  # whose keys are those of the default one, too
ALIASES = {"dryrun": "offline", "run": "online"}  # older names that wandb knows


def choose_mode(asked: str | None) -> tuple[str, str | None]:
    """The mode of a run, and why it is not the one that was asked for, or None.

    Args:
        asked: of `MODES`; None: what WANDB_MODE or `wandb offline` says, else online.
    """
    import wandb

    settings = wandb.setup().settings
    mode = asked or settings.mode
    mode = ALIASES.get(mode, mode)
    servers = [settings.base_url]
    if settings.base_url == wandb.Settings.model_fields["base_url"].default:
        servers.append(OLD_SERVER)
    if mode == "online" and not settings.api_key and not has_key(servers):
        return "offline", f"there is no key for {urlsplit(settings.base_url).netloc}"
    return mode, None


def has_key(servers: Sequence[str]) -> bool:
    """Whether wandb finds a key for a server by itself: in the environment or a netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    named = os.environ.get("NETRC")
    files = [Path(named)] if named else [Path.home() / name for name in (".netrc", "_netrc")]
    for file in files:
        try:
            known = netrc.netrc(file.expanduser())
        except (OSError, netrc.NetrcParseError):
            continue
        entries = [known.authenticators(urlsplit(server).netloc) for server in servers]
        if any(entry and entry[2] for entry in entries):
            return True
    return False
