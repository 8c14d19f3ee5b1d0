"""What is recorded of a run, and what is not there or damaged."""

import json

from panoptic_dl.loggers import run_facts


def test_what_is_there_is_read(tmp_path):
    assert run_facts.about(tmp_path) == run_facts.config(tmp_path) == {}
    (tmp_path / "run.json").write_text(json.dumps({"name": "x", "choices": {"head": "conv"}}))
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("lr: ${rate}")
    assert run_facts.config(tmp_path) == {"lr": "${rate}"}
    (tmp_path / ".hydra" / "resolved.yaml").write_text("lr: 0.1")
    assert run_facts.config(tmp_path) == {"lr": 0.1}
    assert run_facts.chosen(run_facts.about(tmp_path)) == {"head": "conv"}


def test_what_is_damaged_is_named(tmp_path, caplog):
    (tmp_path / ".hydra").mkdir()
    for name in ("run.json", ".hydra/resolved.yaml"):
        (tmp_path / name).write_text('{"a": [')
    assert run_facts.about(tmp_path) == run_facts.config(tmp_path) == {}
    text = caplog.text
    assert "run.json, which is damaged" in text
    assert "resolved.yaml, which is damaged" in text


def test_yaml_runs_nothing(tmp_path, caplog):
    (tmp_path / ".hydra").mkdir()
    bad = "!!python/object/apply:os.system ['touch ran']"
    (tmp_path / ".hydra" / "resolved.yaml").write_text(bad)
    assert run_facts.config(tmp_path) == {}
    assert "damaged" in caplog.text
