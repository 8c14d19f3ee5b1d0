"""Make the dashboard of a W&B project, and a report of a sweep, from the one table of panels.

python scripts/wandb_dashboard.py --project panoptic-dl --sweep seeds
python scripts/wandb_dashboard.py --dry-run     # prints what it would send; needs no network
"""

import argparse
import json
import re
from itertools import groupby
from typing import Any

from panoptic_dl.core.errors import one_line_errors
from panoptic_dl.loggers.base import Panel, panels

X_AXIS = "iteration"
COLUMNS = ("PQ/best", "mIoU/best", "AP/best", "PQ/last", "status")  # of the table of runs
SMOOTHED = "loss/"  # curves that are noisy


def panel_table() -> str:
    """The panels as a Markdown table; `make docs` writes it into docs/how-to/logging.md."""
    lines = ["| section | panel | tags | question that it answers |", "| --- | --- | --- | --- |"]
    for panel in panels():
        tags = ", ".join(f"`{tag}`" for tag in panel.tags)
        lines.append(f"| {panel.section} | {panel.title} | {tags} | {panel.question} |")
    return "\n".join(lines)


def _panel(panel: Panel) -> Any:
    import wandb_workspaces.reports.v2 as wr

    if panel.pictures:
        return wr.MediaBrowser(title=panel.title, media_keys=list(panel.tags))
    patterns = [tag for tag in panel.tags if re.escape(tag) != tag and "*" in tag]
    return wr.LinePlot(
        title=panel.title,
        x=X_AXIS,
        y=[tag for tag in panel.tags if tag not in patterns],
        metric_regex="|".join(patterns) or None,
        smoothing_type="exponentialTimeWeighted" if panel.tags[0].startswith(SMOOTHED) else "none",
        smoothing_factor=0.9 if panel.tags[0].startswith(SMOOTHED) else 0.0,
    )


def make_workspace(project: str, entity: str) -> Any:
    """The saved view of a project: a section of panels each for quality, training, cost ..."""
    import wandb_workspaces.workspaces as ws

    sections = groupby(panels(), key=lambda panel: panel.section)
    return ws.Workspace(
        entity=entity,
        project=project,
        name="panoptic-dl",
        sections=[
            ws.Section(name=name, panels=[_panel(panel) for panel in group], is_open=True)
            for name, group in sections
        ],
        settings=ws.WorkspaceSettings(x_axis=X_AXIS),
        runset_settings=ws.RunsetSettings(
            pinned_columns=[f"summary:{name}" for name in COLUMNS],
        ),
    )


def make_report(project: str, entity: str, sweep: str, *, asks: bool = True) -> Any:
    """A report of the runs of a sweep: the best values as bars, then the dashboard's panels.

    Unless `asks`, W&B is not asked for the project's number, which the runs are found by.
    """
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces.expr import And, Metric

    runs = wr.Runset(
        project=project if asks else "",
        entity=entity if asks else "",
        name=sweep,
        filters=And(Metric("group") == sweep),
        pinned_columns=["run:displayName", *(f"summary:{name}" for name in COLUMNS)],
    )
    bars: list[Any] = [
        wr.BarPlot(title=f"best {n}", metrics=[wr.SummaryMetric(f"{n}/best")])
        for n in ("PQ", "mIoU")
    ]
    blocks: list[Any] = [wr.H1("Best values"), wr.PanelGrid(runsets=[runs], panels=bars)]
    for name, group in groupby(panels(), key=lambda panel: panel.section):
        grid = wr.PanelGrid(runsets=[runs], panels=[_panel(panel) for panel in group])
        blocks += [wr.H1(name), grid]
    return wr.Report(
        project=project, entity=entity, title=f"Sweep {sweep}", blocks=blocks, width="fluid"
    )


def spec(made: Any) -> Any:
    """What W&B is sent of a workspace or a report."""
    return json.loads(made._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))


@one_line_errors()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--project", default="panoptic-dl", help="by default panoptic-dl")
    parser.add_argument("--entity", help="a team or user; by default that of your key")
    parser.add_argument("--sweep", help="make a report of this sweep's runs, too: its W&B group")
    parser.add_argument("--dry-run", action="store_true", help="print what would be sent")
    arguments = parser.parse_args()
    try:
        import wandb
        import wandb_workspaces  # noqa: F401
    except ImportError:
        raise ValueError("this script needs an extra: pip install 'panoptic-dl[wandb]'") from None
    if "'" in (arguments.sweep or ""):
        raise ValueError(f"--sweep {arguments.sweep}: W&B's filters take no quotation mark")
    entity: Any = arguments.entity or (
        "ENTITY" if arguments.dry_run else wandb.Api().default_entity
    )
    made = {"workspace": make_workspace(arguments.project, entity)}
    if arguments.sweep:
        options = {"asks": not arguments.dry_run}
        made["report"] = make_report(arguments.project, entity, arguments.sweep, **options)
    if arguments.dry_run:
        print(json.dumps({name: spec(each) for name, each in made.items()}, indent=2))
        return 0
    for name, each in made.items():
        print(f"{name}: {each.save().url}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
