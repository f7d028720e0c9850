"""What does the global model say about the utterances an attacker looks at?

Two signals an utterance: the joint loss (intent loss plus mean slot loss), and the largest slot
loss of any of its words, which gives a memorised name away where the mean would hide it. An attack
on either needs them for the panel, and for others that no model was ever trained on.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from fedsim.errors import require
from fedsim.leakage.attacks import largest_token_losses
from fedsim.leakage.panel import Panel
from fedsim.models.joint import JointTagger, Parameters
from fedsim.plan import FinishedRound
from fedsim.population import Examples, Population
from fedsim.population.examples import concatenate
from fedsim.probes import Due, Figures
from fedsim.rng import stream
from fedsim.training.batches import tensors
from fedsim.training.scoring import CHUNK

SIGNALS = ("joint", "largest")
"""Joint loss, and largest word loss."""

MOST_OTHERS = 500
"""Held-out utterances that an attacker compares with at most."""

LARGEST_LOSS = 1e6
"""What a loss that is no finite number counts as."""

Signals = Callable[[Parameters], np.ndarray]
"""Parameters -> (signals, n) float32 losses of n examples, all finite."""


def signals_of(model: JointTagger, examples: Examples) -> Signals:
    """Scores examples under any parameters of a model.

    Args:
      model: supplies the losses.
      examples: n of them.

    Example:
      >>> from fedsim.models import BiLSTMTagger
      >>> people = Population.load("home", devices=2)
      >>> model = BiLSTMTagger.sized_for(people, embedding=4, hidden=4)
      >>> said = signals_of(model, people.train(0))(dict(model.named_parameters()))
      >>> said.shape == (2, len(people.train(0))), bool((said[1] >= 0).all())
      (True, True)
    """
    order = np.argsort(-examples.lengths, kind="stable")
    parts = [order[start : start + CHUNK] for start in range(0, len(order), CHUNK)]
    batches = [tensors(examples, part) for part in parts]

    def signals(parameters: Parameters) -> np.ndarray:
        said = np.empty((len(SIGNALS), len(examples)), np.float32)
        for batch in batches:
            with torch.no_grad():
                joint, words = model.word_losses(parameters, batch)
            rows, ends = batch["record"].numpy(), batch["lengths"].cumsum(0).numpy()
            said[0, rows] = joint.numpy()
            flat = words[batch["slots"] >= 0].numpy()
            said[1, rows] = largest_token_losses(flat, np.concatenate([[0], ends]))
        return np.nan_to_num(said, nan=LARGEST_LOSS, posinf=LARGEST_LOSS)

    return signals


def panel_examples(panel: Panel, population: Population) -> Examples:
    """The panel's utterances with their content.

    Args:
      panel: chosen from the population.
      population: before the panel's coins were applied.

    Raises:
      ConfigError: some are null records.
    """
    examples = panel.examples(population)
    nulled = int(examples.null.sum())
    require(
        nulled == 0,
        f"{nulled} of the panel's examples are null records in the population given to the attack"
        "; give it the population from before the panel was applied",
    )
    return examples


def others_of(population: Population, seed: int) -> Examples:
    """Held-out utterances that no device trains on, at most `MOST_OTHERS` of them.

    Raises:
      ConfigError: the population has none.
    """
    held_out = concatenate([population.dev, population.test])
    require(
        len(held_out) > 0,
        "the population has no held-out utterances to compare the panel with; load it with a dev "
        "or test split",
    )
    size = min(MOST_OTHERS, len(held_out))
    return held_out.take(np.sort(stream(seed, "others").choice(len(held_out), size, replace=False)))


@dataclass(kw_only=True, eq=False)
class SignalLog:
    """As a probe, keeps what measured global models say; it keeps state, so it serves one run.

    Attributes:
      model: the run's.
      panel: (n) utterances that are attacked.
      others: (z) utterances that nobody is trained on.
      due: which rounds are measured.
    """

    model: JointTagger
    panel: Examples
    others: Examples
    due: Due
    _said: dict[int, tuple[np.ndarray, np.ndarray]] = field(
        init=False, default_factory=dict, repr=False
    )

    def __post_init__(self) -> None:
        self._panel = signals_of(self.model, self.panel)
        self._others = signals_of(self.model, self.others)

    def __call__(self, finished: FinishedRound) -> Figures:
        """No figures."""
        if self.due(finished):
            parameters = finished.parameters
            self._said[finished.round] = self._panel(parameters), self._others(parameters)
        return {}

    def said(self, round: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Signals of the panel, (signals, n), and of the others, (signals, z), if measured."""
        return self._said.get(round)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what is scored and when."""
        digest = hashlib.sha256(repr(self.due).encode())
        for examples in (self.panel, self.others):
            for array in (examples.token_ids, examples.slots, examples.offsets, examples.intents):
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def state_dict(self) -> dict[str, np.ndarray]:
        """Everything said so far: rounds (r,), panel (r, signals, n), others (r, signals, z)."""
        sizes = (len(self.panel), len(self.others))
        panel, others = (
            np.array([said[k] for said in self._said.values()], np.float32).reshape(
                -1, len(SIGNALS), size
            )
            for k, size in enumerate(sizes)
        )
        return {"rounds": np.array([*self._said], np.int64), "panel": panel, "others": others}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Go on from what was said."""
        rounds = state["rounds"].tolist()
        self._said = dict(
            zip(rounds, zip(state["panel"], state["others"], strict=True), strict=True)
        )

    def files(self) -> dict[str, dict[str, np.ndarray]]:
        """signals.npz."""
        return {"signals": self.state_dict()}
