"""Claims about what a preset says of an experiment's runs."""

from types import SimpleNamespace

import pytest

from experiments.presets import chosen_with_seeds
from fedsim.errors import ConfigError

PRESETS = {"quick": SimpleNamespace(seeds=2)}


def test_seeds_are_counted_from_the_first_and_as_many_as_the_preset_has_unless_said():
    size, seeds = chosen_with_seeds(PRESETS, "quick", None, 5)
    assert size is PRESETS["quick"] and list(seeds) == [5, 6]
    assert list(chosen_with_seeds(PRESETS, "quick", 1, 5)[1]) == [5]
    assert list(chosen_with_seeds(PRESETS, "quick", 0, 5)[1]) == []


def test_an_unknown_preset_is_refused():
    with pytest.raises(ConfigError, match="preset is 'slow'; expected one of quick"):
        chosen_with_seeds(PRESETS, "slow", None, 0)
