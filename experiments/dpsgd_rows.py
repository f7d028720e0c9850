"""Which models does the DP-SGD experiment train?

One row a corpus, setting, model, way to clip and noise level: without privacy, by exact per-example
DP-SGD, and by eDP-SGD as published; on all data at once or on devices. What computes the exact sum
changes no model, so Opacus and the loop over examples have costs, but no rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from experiments.cells import Cell
from experiments.central import PRIVATE_BATCH_SIZE
from experiments.options import RunOptions, population_of
from fedsim.privacy import LocalSteps

Setting = Literal["central", "federated"]
Clipping = Literal["flat", "edp-sgd"]
SETTINGS: tuple[Setting, ...] = ("central", "federated")


EPOCH_FACTOR = 0.9
"""What the noise of eDP-SGD is multiplied by after every epoch of central training."""

CENTRAL_RATES = {"bilstm": 4.0, "transformer": 1.2}
"""Learning rates of private central training at clip norm 1, where none is given: four times
those of devices. On `home` (100 devices' data, 10 epochs, noise multiplier 0.8) a BiLSTM reached an
intent accuracy of .48, .60, .65, .57 and .38 at rates 1, 2, 4, 8 and 16, a transformer .39 and .51
at 0.3 and 0.6; larger ones of it were not tried."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained: all rows of one are the same model on the same data.

    Attributes:
      options: of its runs, privacy and seed apart.
      setting: on all data at once, or on devices.
      epochs: of central training.
    """

    options: RunOptions
    setting: Setting
    epochs: int

    @property
    def name(self) -> str:
        """Of its files."""
        corpus = self.options.corpus.replace("/", "-")
        return f"{corpus}-{self.setting}-{self.options.model}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of trained models.

    Attributes:
      case: what is trained.
      clipping: of private steps: of each example, or of micro-batches as in eDP-SGD.
      noise: noise multiplier, or None without privacy.
    """

    case: Case
    clipping: Clipping = "flat"
    noise: float | None = None

    def cell(self, seed: int) -> Cell:
        """The row's run of one seed."""
        central = self.case.setting == "central"
        options = replace(self.case.options, seed=seed, dp="none", clip_norm=1.0)
        what = "plain"
        if self.noise is not None:
            what = f"{self.clipping}-{self.noise:g}"
            clip_norm, rate = self.case.options.clip_norm, options.learning_rate
            if central and rate is None:
                rate = CENTRAL_RATES[options.model] / clip_norm
            options = replace(
                options,
                dp="example",
                clipping=self.clipping,
                noise_multiplier=self.noise,
                noise_decay=self._decay,
                clip_norm=clip_norm,
                learning_rate=rate,
            )
        return Cell(
            name=f"{self.case.name}-{what}-seed{seed}",
            options=options,
            central=central,
            epochs=self.case.epochs if central else None,
        )

    @property
    def _decay(self) -> str | None:
        """Noise falls epoch by epoch: on a device, which makes one pass a round, there is none."""
        if self.clipping == "flat" or self.case.setting == "federated":
            return None
        return f"{EPOCH_FACTOR}:{_steps_an_epoch(self.case.options)}"


@cache
def _steps_an_epoch(options: RunOptions) -> int:
    """Private central steps of a pass over all training examples of a corpus."""
    examples = int(population_of(options).counts.sum())
    return LocalSteps(batch_size=PRIVATE_BATCH_SIZE).steps(examples)


def cases_of(options: Sequence[RunOptions], epochs: int) -> list[Case]:
    """Every corpus and model in both settings, corpus by corpus and setting by setting."""
    cases = [Case(options=o, setting=s, epochs=epochs) for s in SETTINGS for o in options]
    corpora = list(dict.fromkeys(o.corpus for o in options))
    return sorted(cases, key=lambda case: corpora.index(case.options.corpus))


def rows_of(case: Case, noise: Mapping[Clipping, Sequence[float]]) -> list[Row]:
    """Without privacy first, then each way to clip at its noise multipliers."""
    private = [
        Row(case=case, clipping=clipping, noise=sigma)
        for clipping, levels in noise.items()
        for sigma in levels
    ]
    return [Row(case=case), *private]
