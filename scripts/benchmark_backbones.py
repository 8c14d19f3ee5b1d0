"""Compare backbones: parameters, multiplications, features, time.

    python scripts/benchmark_backbones.py                       # all options of backbone=
    python scripts/benchmark_backbones.py hrnet48 timm:convnext_base   # some, and any of timm's
    python scripts/benchmark_backbones.py --write               # into docs/how-to/backbones.md

Of one image of --size, without decoders. GMACs are convolutions and matrix products, one
multiplication with one addition each (torch.utils.flop_counter, halved). Times are CPU seconds in
eval mode, of the fastest of --rounds passes through all backbones.
"""

import argparse
import re
import time
from pathlib import Path

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from panoptic_dl.config import build, compose, options
from panoptic_dl.core.environment import describe_device
from panoptic_dl.core.errors import one_line_errors

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "backbones.md"
REFERENCE = "hrnet48"
HEADERS = ("backbone", "M parameters", "GMACs", "strides", "channels", f"CPU time / {REFERENCE}")


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("backbones", nargs="*", metavar="NAME")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 1024), metavar=("H", "W"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="into docs/how-to/backbones.md")
    arguments = parser.parse_args()
    names = arguments.backbones or [name for name in options("backbone") if name != "timm"]
    table = compare([*dict.fromkeys([*names, REFERENCE])], arguments.size, arguments.rounds)
    print(table)
    if arguments.write:
        block = re.compile(r"(?<=<!-- table -->\n).*?(?=<!-- end -->)", re.DOTALL)
        PAGE.write_text(block.sub(lambda _: f"\n{table}\n\n", PAGE.read_text()))


def compare(names: list[str], size: tuple[int, int], rounds: int) -> str:
    """The table of the backbones in Markdown, by their GMACs, and where it was measured."""
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    seconds: dict[str, list[float]] = {name: [] for name in names}
    facts = {name: describe(make(name, "meta"), image) for name in names}
    for _ in range(rounds + 1):  # the first one warms up
        for name in names:
            seconds[name].append(timed(make(name), image))
    best = {name: min(each[1:]) for name, each in seconds.items()}
    rows = [
        [f"`{name}`", *facts[name], f"{best[name] / best[REFERENCE]:.2f}"]
        for name in sorted(names, key=lambda name: float(facts[name][1]))
    ]
    where = f"{describe_device('cpu')}; {size[0]} x {size[1]} pixels"
    return f"{tabulate(rows, HEADERS, 'github', disable_numparse=True)}\n\n{where}."


def make(name: str, device: str = "cpu") -> nn.Module:
    """A backbone in eval mode: an option, or `timm:` and a name of timm's."""
    kind, _, inner = name.partition(":")
    words = [f"backbone={kind}", *([f"backbone.name={inner}"] if inner else [])]
    with torch.device(device):
        backbone: nn.Module = build(compose(words).backbone)
    return backbone.eval()


@torch.no_grad()
def describe(backbone: nn.Module, image: Tensor) -> list[str]:
    """Parameters, GMACs, strides and channels of a backbone on the device "meta"."""
    with FlopCounterMode(display=False) as counter:
        features = backbone(image.to("meta"))
    strides = [image.shape[2] // x.shape[2] for x in features.values()]
    channels = [x.shape[1] for x in features.values()]
    parameters = sum(parameter.numel() for parameter in backbone.parameters())
    return [
        f"{parameters / 1e6:.1f}",
        f"{counter.get_total_flops() / 2e9:.0f}",
        ", ".join(map(str, strides)),
        ", ".join(map(str, channels)),
    ]


@torch.no_grad()
def timed(backbone: nn.Module, image: Tensor) -> float:
    """CPU seconds of one pass, which other programs change less than those of the clock."""
    started = time.process_time()
    backbone(image)
    return time.process_time() - started


if __name__ == "__main__":
    main()
