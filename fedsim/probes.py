"""What is read off a finished round: how good the model is, for whom, and what it forgot.

A probe returns named figures. Names without a slash are columns of every round's line; names with
one (`probe/name`) go under `figures`. Probes never change the run.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from fedsim.models.joint import Parameters
from fedsim.plan import FinishedRound, Scores
from fedsim.population import Examples, Population
from fedsim.population.examples import UNSEEN

Figures = dict[str, Any]

Replies = Mapping[int, Callable[[], Parameters]]
"""Device id -> reads the parameters it replied with."""

MOST_SLOT_TYPES = 1 << 15
"""Slot labels are int16, so there are fewer types than this."""


class Probe(Protocol):
    """Reads a finished round.

    One that remembers earlier rounds has `state_dict()` and `load_state_dict()`, so that a run that
    was interrupted goes on with what it remembered. One that has `files()`, file stem -> arrays by
    name, leaves them in the record as DIR/STEM.npz when the run ends. One that has
    `begin(account, last)` is given the ledgers and the last round's number before the first round;
    what it returns stands in start.json, and must be the same where a run goes on. One that has
    `observe()` is an `Observer`.
    """

    def __call__(self, finished: FinishedRound) -> Figures:
        """Named figures of the round, none of them where it does not measure this round."""


@runtime_checkable
class Observer(Protocol):
    """Sees what the server sees of single devices: the replies of a round, before aggregation."""

    def observe(self, round: int, period: int, sent: Parameters, replies: Replies) -> None:
        """Look at the replies of a round.

        Args:
          round: from 1.
          period: from 0.
          sent: the global model that devices were sent.
          replies: of the devices whose reply counted, in device order. What they read may be the
            buffers that the strategy works on next: neither change nor keep it.
        """


@dataclass(frozen=True, kw_only=True)
class Due:
    """Which rounds are measured: every k-th and the last."""

    every: int

    def __call__(self, finished: FinishedRound) -> bool:
        """Whether to measure this round."""
        return finished.last or finished.round % self.every == 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Accuracy:
    """Test accuracy over examples, over devices, by activity decile and on unseen people.

    Attributes:
      test: held-out examples.
      decile: (devices,) 1 (least active) .. 10 (most active).
      due: which rounds are measured.
    """

    test: Examples
    decile: np.ndarray
    due: Due

    def __call__(self, finished: FinishedRound) -> Figures:
        """`test_loss`, `intent_accuracy`, `slot_f1`, `exact_match`, and their breakdowns."""
        if not self.due(finished) or len(self.test) == 0:
            return {}
        test, marks = self.test, _marks(self.test, finished.test)
        everyone = np.ones(len(test), bool)
        figures: Figures = {"test_loss": float(finished.test.losses.mean()), **marks.of(everyone)}
        for name, value in marks.over_groups(test.device).items():
            figures[f"devices/{name}"] = value
        decile = np.where(test.device >= 0, self.decile[np.maximum(test.device, 0)], 0)
        for k in range(1, 11):
            for name, value in marks.of(decile == k).items():
                figures[f"deciles/{name}_{k}"] = value
            figures[f"deciles/utterances_{k}"] = int((decile == k).sum())
        unseen = test.device == UNSEEN
        for name, value in marks.of(unseen).items():
            figures[f"unseen/{name}"] = value
        figures["unseen/utterances"] = int(unseen.sum())
        return figures


@dataclass(frozen=True, kw_only=True, eq=False)
class DevAccuracy:
    """Accuracy on the dev set at the end of a run: what hyper-parameters are chosen by.

    Attributes:
      dev: held-out examples that are never reported as results.
    """

    dev: Examples

    def __call__(self, finished: FinishedRound) -> Figures:
        """`dev/intent_accuracy`, `dev/slot_f1` and `dev/exact_match` of the last round."""
        if not finished.last or finished.score_dev is None or len(self.dev) == 0:
            return {}
        marks = _marks(self.dev, finished.score_dev())
        return {f"dev/{k}": v for k, v in marks.of(np.ones(len(self.dev), bool)).items()}


@dataclass(kw_only=True, eq=False)
class Forgetting:
    """Accuracy on each period's test utterances, and how much of a past period's best is lost.

    Forgetting of a past period is its best intent accuracy so far minus the present one (Chaudhry
    et al. 2018, https://arxiv.org/abs/1801.10112), averaged over past periods.

    Attributes:
      test: held-out examples with their periods.
      periods: number of periods.
      due: which rounds are measured.
      best: (periods,) best accuracy so far, -1 before the first measurement.
    """

    test: Examples
    periods: int
    due: Due
    best: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.best = np.full(self.periods, -1.0)

    def __call__(self, finished: FinishedRound) -> Figures:
        """`periods/intent_accuracy_k` (k from 1) and `forgetting/intent_accuracy`."""
        if not self.due(finished):
            return {}
        right = finished.test.intents == self.test.intents
        now = [_mean(right[self.test.period == p]) for p in range(self.periods)]
        figures: Figures = {f"periods/intent_accuracy_{p + 1}": a for p, a in enumerate(now)}
        lost = [
            max(float(self.best[p]), present) - present
            for p, present in enumerate(now[: finished.period])
            if present is not None
        ]
        figures["forgetting/intent_accuracy"] = float(np.mean(lost)) if lost else None
        self.best = np.maximum(self.best, [-1.0 if a is None else a for a in now])
        return figures

    def state_dict(self) -> dict[str, np.ndarray]:
        """Best accuracies so far."""
        return {"best": self.best.copy()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Go on from saved best accuracies."""
        self.best = state["best"].copy()


def standard_probes(population: Population, every: int) -> list[Probe]:
    """What every run measures.

    Args:
      population: cut into the periods of the run.
      every: rounds between measurements; the last round is always measured.
    """
    due = Due(every=every)
    totals = population.counts.sum(axis=1)
    probes: list[Probe] = [
        Accuracy(test=population.test, decile=activity_deciles(totals), due=due),
        DevAccuracy(dev=population.dev),
    ]
    if population.periods > 1:
        probes.append(Forgetting(test=population.test, periods=population.periods, due=due))
    return probes


def activity_deciles(activity: np.ndarray) -> np.ndarray:
    """Decile of each device by activity, 1 (least active) .. 10; ties broken by device id.

    Example:
      >>> activity_deciles(np.array([5, 1, 9, 7])).tolist()
      [3, 1, 8, 6]
    """
    rank = np.empty(len(activity), np.int64)
    rank[np.argsort(activity, kind="stable")] = np.arange(len(activity))
    return 1 + rank * 10 // max(len(activity), 1)


@dataclass(frozen=True, eq=False)
class _Marks:
    """What was right in each example: intents, whole utterances, and slot spans."""

    intent: np.ndarray
    exact: np.ndarray
    spans_right: np.ndarray
    spans: np.ndarray

    def of(self, chosen: np.ndarray) -> dict[str, float | None]:
        """Figures over the chosen examples, (n,) bool; None without any (for slots: any span)."""
        if not chosen.any():
            return {"intent_accuracy": None, "slot_f1": None, "exact_match": None}
        spans = int(self.spans[chosen].sum())
        return {
            "intent_accuracy": float(self.intent[chosen].mean()),
            "slot_f1": 2 * int(self.spans_right[chosen].sum()) / spans if spans else None,
            "exact_match": float(self.exact[chosen].mean()),
        }

    def over_groups(self, group: np.ndarray) -> dict[str, float | None]:
        """Means over groups (ids >= 0); slot F1 over those with any span, gold or predicted."""
        known = group >= 0
        sizes, intent, exact, right, spans = (
            np.bincount(group[known], weights=each[known])
            for each in (known, self.intent, self.exact, 2 * self.spans_right, self.spans)
        )
        return {
            "intent_accuracy": _mean(intent[sizes > 0] / sizes[sizes > 0]),
            "slot_f1": _mean(right[spans > 0] / spans[spans > 0]),
            "exact_match": _mean(exact[sizes > 0] / sizes[sizes > 0]),
        }


def _marks(examples: Examples, said: Scores) -> _Marks:
    intent = said.intents == examples.intents
    right, spans = _span_counts(examples.slots, said.slots, examples.offsets)
    return _Marks(intent, intent & _all_words_right(examples, said.slots), right, spans)


def _span_counts(
    gold: np.ndarray, said: np.ndarray, offsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Slot spans on both sides, and spans of either side added up, each (sentences,).

    As CoNLL's evaluation script counts them: a span starts at a B- label, and at an I- label that
    continues no span of its type.

    Args:
      gold: (words,) slot label ids: 0 is O, 2k + 1 is B- and 2k + 2 is I- of slot type k.
      said: (words,) predicted ids.
      offsets: (sentences + 1,) where sentences start.
    """
    first = np.zeros(len(gold) + 1, bool)
    first[offsets] = True
    found = [_spans(labels, first[:-1]) for labels in (gold, said)]
    both = np.intersect1d(found[0][1], found[1][1], assume_unique=True)
    begins = [both // MOST_SLOT_TYPES // (len(gold) + 1), found[0][0], found[1][0]]
    sentences = len(offsets) - 1
    right, of_gold, of_said = (
        np.bincount(np.searchsorted(offsets, begin, side="right") - 1, minlength=sentences)
        for begin in begins
    )
    return right, of_gold + of_said


def _spans(labels: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each span begins, and one integer a span, from its start, end and type."""
    labels = labels.astype(np.int64)
    kind = (labels + 1) // 2
    same = np.concatenate([[False], kind[1:] == kind[:-1]]) & ~first
    starts = (kind > 0) & ((labels % 2 == 1) | ~same)
    ends = np.flatnonzero(np.append(starts | (kind == 0) | first, True))
    begin = np.flatnonzero(starts)
    end = ends[np.searchsorted(ends, begin, side="right")]
    words = len(labels) + 1
    return begin, (begin * words + end) * MOST_SLOT_TYPES + kind[begin]


def _all_words_right(test: Examples, slots: np.ndarray) -> np.ndarray:
    wrong = np.concatenate([[0], np.cumsum(slots != test.slots)])
    return np.diff(wrong[test.offsets]) == 0


def _mean(right: np.ndarray) -> float | None:
    return float(right.mean()) if len(right) else None
