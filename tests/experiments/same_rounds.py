"""Are two runs, of different engines, the same?"""

import numpy as np

from fedsim.record import Run


def assert_same_rounds(there: Run, here: Run) -> None:
    """The same devices drawn, arrived and failed in every round, and parameters within 1e-6."""
    for name, drawn in here.cohorts.items():
        assert np.array_equal(there.cohorts[name], drawn)
    for name, values in here.model.items():
        np.testing.assert_allclose(there.model[name], values, rtol=0, atol=1e-6)
