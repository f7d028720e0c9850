"""Claims about how a benchmark is run from a shell."""

import json
from argparse import ArgumentParser

from experiments.bench_result import Benchmark, measure


def test_options_reach_the_benchmark_and_its_figures_the_file(monkeypatch, capsys, tmp_path):
    def bench(steps):
        return Benchmark(
            name="tiny", settings={"steps": steps}, measurements=[], budgets=[], notes=["done"]
        )

    file = tmp_path / "tiny.json"
    monkeypatch.setattr("sys.argv", ["bench", "--steps", "3", "--json", str(file)])
    parser = ArgumentParser()
    parser.add_argument("--steps", type=int)
    measure(parser, bench)
    assert json.loads(file.read_text("utf-8"))["settings"] == {"steps": 3}
    assert "- Note: done" in capsys.readouterr().out
