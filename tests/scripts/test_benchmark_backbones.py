"""The table of backbones, in the page."""

import sys

from scripts import benchmark_backbones


def test_the_table_in_the_page_is_replaced(tmp_path, monkeypatch, capsys):
    page = tmp_path / "backbones.md"
    page.write_text("before\n\n<!-- table -->\n\n<!-- end -->\n\nafter\n")
    monkeypatch.setattr(benchmark_backbones, "PAGE", page)
    monkeypatch.setattr(benchmark_backbones, "REFERENCE", "hrnet_tiny")
    words = ["benchmark_backbones.py", "hrnet_tiny", "--size", "32", "64", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", [*words, "--write"])
    for _ in range(2):
        benchmark_backbones.main()
        table = capsys.readouterr().out.split("\n\n")[0]
        assert "| `hrnet_tiny` | 0.9 " in table
        assert "1.00" in table
        text = page.read_text()
        assert text.startswith(f"before\n\n<!-- table -->\n\n{table}\n\n")
        assert text.endswith("; 32 x 64 pixels.\n\n<!-- end -->\n\nafter\n")
