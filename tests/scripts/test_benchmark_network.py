"""`benchmark_network.py`: each way of running a row is timed on the same image."""

import argparse

import pytest

from scripts.benchmark_network import compare, measure


def test_the_shortest_times_after_one_to_warm_up_in_turn():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in ("a", "b")}
    times = measure(runs, 2)
    assert order == ["a", "b"] * 3
    assert all(0 <= cpu < 1 and 0 <= clock < 1 for cpu, clock in times.values())


@pytest.mark.thorough
def test_ways_of_running_a_row(tmp_path, capsys):
    options = argparse.Namespace(size=(64, 128), rounds=1, compile=False, export=False)
    lines = compare("hrnet_tiny_conv", options, tmp_path)
    assert [line["run by"].partition(" (")[0] for line in lines] == [
        *("eager fp32", "folded batch norm", "precision=auto"),
    ]
    assert lines[0]["times as fast"] == 1
    assert all(line["CPU s"] > 0 and line["GFLOP/s of each core"] > 0 for line in lines)
    assert "matrix products" in capsys.readouterr().out
