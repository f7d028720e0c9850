"""Claims about the delta of a run: it stays below one over the units, and so does the advice."""

import re

import pytest

from fedsim.errors import ConfigError
from fedsim.privacy.delta import delta_for


@pytest.mark.parametrize("units", [1, 2, 9, 10, 11, 99, 100, 101, 499, 500, 501, 612, 1000, 10_217])
def test_the_advice_of_a_refusal_is_accepted_and_not_far_below_the_bound(units):
    with pytest.raises(ConfigError, match="could be given away whole") as refused:
        delta_for(units, 1 / units, "devices")
    advised = float(re.search(r"choose (\S+) or less", str(refused.value))[1])
    assert delta_for(units, advised, "devices") == advised
    assert advised > 0.8 / units
