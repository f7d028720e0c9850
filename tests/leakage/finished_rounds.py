"""Rounds that are over, as probes see them. Not a test by itself."""

import numpy as np

from fedsim.plan import FinishedRound, Scores


def finished(round, period=0, last=False, parameters=None) -> FinishedRound:
    """A round in which nobody took part."""
    nobody = np.zeros(0, np.int64)
    return FinishedRound(
        round=round,
        period=period,
        last=last,
        plan=None,
        cohort=nobody,
        arrived=nobody,
        examples=0,
        failures=(),
        train_loss=None,
        parameters=parameters or {},
        score=lambda: Scores(nobody, nobody, nobody),
    )
