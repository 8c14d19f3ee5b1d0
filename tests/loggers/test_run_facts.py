"""What is recorded of a run, and what is not there or damaged."""

from panoptic_dl.core import run_folder as run_facts


def test_what_is_there_is_read(tmp_path):
    assert run_facts.config(tmp_path) == {}
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("lr: ${rate}")
    assert run_facts.config(tmp_path) == {"lr": "${rate}"}
    (tmp_path / ".hydra" / "resolved.yaml").write_text("lr: 0.1")
    assert run_facts.config(tmp_path) == {"lr": 0.1}
    assert run_facts.chosen({"name": "x", "choices": {"head": "conv", "sweep": None}}) == {
        "head": "conv"
    }


def test_what_is_damaged_is_named(tmp_path, caplog):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "resolved.yaml").write_text('{"a": [')
    assert run_facts.config(tmp_path) == {}
    assert "resolved.yaml, which is damaged" in caplog.text


def test_yaml_runs_nothing(tmp_path, caplog):
    (tmp_path / ".hydra").mkdir()
    bad = "!!python/object/apply:os.system ['touch ran']"
    (tmp_path / ".hydra" / "resolved.yaml").write_text(bad)
    assert run_facts.config(tmp_path) == {}
    assert "damaged" in caplog.text
