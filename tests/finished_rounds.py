"""Rounds that are over, as probes see them. Not a test by itself."""

import numpy as np

from fedsim.plan import FinishedRound, Scores


def finished(round=1, period=0, last=False, parameters=None, score=None) -> FinishedRound:
    """A round in which nobody took part; `score` says what its model predicts."""
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
        score=score or (lambda: Scores(nobody, nobody, nobody)),
    )
