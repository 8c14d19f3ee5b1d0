"""`gpu_check.py`: stages that fail, hang or come too late cost a line each; its report in docs."""

import json
import re
import sys

import pytest

from scripts import gpu_check, gpu_report
from scripts.gpu_check import RESULTS, ROOT, Check, Stage, plan


def python(name, code, seconds=20.0, **facts):
    return Stage(name, seconds, (sys.executable, "-c", code, "{result}"), **facts)


def test_each_stage_appends_its_line_as_it_ends(tmp_path):
    stages = [
        python("beside", "print('at the same time')", beside=True),
        python("good", "import sys; open(sys.argv[1], 'w').write('{\"ms\": 2}')"),
        python("bad", "raise SystemExit('no such card')"),
        python(
            "slow",
            "import sys, time; open(sys.argv[1], 'w').write('[1]'); print('half', flush=True); "
            "time.sleep(60)",
            seconds=1.5,
        ),
    ]
    check = Check(tmp_path / "out", "cpu", minutes=2)
    lines = check.run(stages)
    written = (tmp_path / "out" / RESULTS).read_text().splitlines()
    assert [json.loads(line) for line in written] == lines
    by_name = {line["stage"]: line for line in lines}
    assert list(by_name) == ["good", "bad", "slow", "beside"]
    assert by_name["good"]["result"] == {"ms": 2}
    assert by_name["bad"]["status"] == "failed (1)"
    assert by_name["bad"]["said"] == "no such card"
    assert by_name["slow"]["status"] == "out of time"
    assert by_name["slow"]["result"] == [1]  # what there was before
    assert by_name["slow"]["said"] == "half"
    assert by_name["slow"]["seconds"] < 15
    assert by_name["beside"]["status"] == "ok"
    late = Check(tmp_path / "late", "cpu", minutes=0.01).run(stages[1:2])
    assert [line["status"] for line in late] == ["skipped"]


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_the_plan_has_programs_that_are_there(device):
    stages = plan(device)
    names = [stage.name for stage in stages]
    assert len(set(names)) == len(names)
    for stage in stages:
        assert stage.command or stage.name in gpu_check.FUNCTIONS
        for word in stage.command:
            assert not word.endswith(".py") or (ROOT / word).is_file()
    together = sum(stage.seconds for stage in stages if not stage.beside)
    assert together < 1.5 * 9 * 60  # at most; most of them end early


def results(*lines, device="cuda"):
    facts = {"device": device, "status": "ok", "seconds": 1.0}
    return "".join(json.dumps(facts | line) + "\n" for line in lines)


SETTINGS = ("channels_last", "compile", "fold_batch_norm", "network_only")
MORE = {"precision": "tf32", "postprocess": "fast", "batch_size": 1, "num_things": 50}
LINES = (
    {"stage": "environment", "result": {"machine": "H200", "missing": {}, "nvidia_smi": "580"}},
    {"stage": "training", "result": {"lines": [{"setting": "bf16", "s/iter": 0.05, "waits": 3}]}},
    {"stage": "postprocess", "result": {"rows": [{"centers": 54, "ours_ms": 2.5}]}},
    {"stage": "evaluation", "result": {"metrics": {"cuda": {"PQ": 40.5}, "auto": {"exit": 1}}}},
    {
        "stage": "inference_hrnet48_conv",
        "result": [
            {
                "name": "hrnet48_conv",
                "settings": dict.fromkeys(SETTINGS, False) | MORE,
                "image_size": [1024, 2048],
                "weights": None,
                "effect": None,
                "stages": {n: {"p50": 70.5, "images_per_s": 14.0} for n in ("network", "total")},
                "parameters": 7e7,
                "GMACs": 1176.0,
                "peak_host_MiB": 100.0,
                "peak_device_MiB": 2000.0,
            }
        ],
    },
    {"stage": "mapper", "status": "out of time", "result": None},
)


PAGES = ("explanation/speed.md", "how-to/training_options.md")


@pytest.fixture
def pages(tmp_path, monkeypatch):
    docs = tmp_path / "docs"
    for name in PAGES:
        (docs / name).parent.mkdir(parents=True)
        (docs / name).write_text("before\n<!-- gpu -->\nold\n<!-- /gpu -->\nafter\n")
    monkeypatch.setattr(gpu_report, "DOCS", docs)
    monkeypatch.setattr(gpu_report, "KEPT", docs / "gpu_results.jsonl")
    return docs


def report(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["gpu_report.py", *map(str, words)])
    gpu_report.main()


def test_tables_stand_between_the_markers(tmp_path, pages, monkeypatch):
    (tmp_path / RESULTS).write_text(results(*LINES))
    report(monkeypatch, tmp_path)
    report(monkeypatch)  # again, from what was kept
    speed, training = ((pages / name).read_text() for name in PAGES)
    for page in (speed, training):
        assert page.startswith("before\n<!-- gpu -->\nH200")
        assert page.endswith("\n<!-- /gpu -->\nafter\n")
        assert "old" not in page
    assert "cuda: PQ 40.5, auto: PQ none" in speed
    assert "| mapper" in speed
    assert "out of time" in speed
    assert "centers" in speed
    assert "2.5 |" in speed
    assert re.search(r"\| hrnet48_conv \| tf32 +\| +70\.50 \|", speed)
    assert re.search(r"\| bf16 +\| +0\.05 \| +3 \|", training)


def test_without_results_the_pages_say_so(pages, monkeypatch):
    report(monkeypatch)
    for name in PAGES:
        assert "No NVIDIA GPU was at hand" in (pages / name).read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (results(*LINES, device="cpu"), "line 1 is a rehearsal without a GPU"),
        ("{}\n", "line 1 is none of scripts/gpu_check.py"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path, pages, monkeypatch, text, message):
    (tmp_path / RESULTS).write_text(text)
    with pytest.raises(SystemExit, match=message):
        report(monkeypatch, tmp_path)
    assert not gpu_report.KEPT.exists()
