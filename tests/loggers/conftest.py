"""wandb without a network, an account, or a trace in the home of whoever runs the tests."""

import pytest


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    for name in ("WANDB_API_KEY", "WANDB_RUN_ID", "WANDB_PROJECT", "WANDB_DATA_DIR", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(home / "cache"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("WANDB_MODE", "offline")
    import wandb

    wandb.teardown()  # its process and settings are of the environment before
    yield
    wandb.teardown()


@pytest.fixture
def said(caplog):
    """Messages of loggers."""
    caplog.set_level("INFO", logger="panoptic_dl")

    def messages(level="WARNING"):
        return [
            r.getMessage()
            for r in caplog.records
            if r.name.startswith("panoptic_dl.loggers") and r.levelname == level
        ]

    return messages
