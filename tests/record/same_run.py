"""What it means that two runs are the same: all but the time they took."""

import numpy as np


def assert_same_run(one, other) -> None:
    """Compare two runs, in memory and in their folders, to the bit."""
    assert one.summary["model_sha256"] == other.summary["model_sha256"]
    assert _timeless(one.summary) == _timeless(other.summary)
    assert list(map(_timeless, one.rounds)) == list(map(_timeless, other.rounds))
    assert one.cohorts.keys() == other.cohorts.keys()
    for name, array in one.cohorts.items():
        np.testing.assert_array_equal(array, other.cohorts[name])
        assert array.dtype == other.cohorts[name].dtype
    if one.path is None or other.path is None:
        return
    names = [{path.name for path in run.path.iterdir()} for run in (one, other)]
    assert names[0] == names[1]
    for name in names[0] - {"config.json", "rounds.jsonl", "summary.json"}:
        assert (one.path / name).read_bytes() == (other.path / name).read_bytes(), name


def _timeless(figures: dict) -> dict:
    return {name: value for name, value in figures.items() if name != "seconds"}
