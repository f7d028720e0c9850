"""Which models does the leakage experiment train and attack?

One row a setting, a selection policy and a way to be private: the same local training without
privacy, with every example's gradient clipped and no noise, by DP-SGD and by eDP-SGD on the devices
at several noise levels, and under device-level privacy. All runs of a seed have one panel and one
throw of its coins, so that their attacks are compared utterance by utterance. What the coins take
out costs accuracy: the runs without privacy are made once more without a panel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from experiments.cells import Cell
from experiments.options import RunOptions
from experiments.selection_rows import SETTINGS
from fedsim.record import Run
from fedsim.report.curves import Group
from fedsim.report.exposure import DEVICE, EDP, EXAMPLE, NONE, Exposed, Privacy

POLICIES: tuple[Literal["uniform", "activity"], ...] = ("uniform", "activity")

CLIP_NORMS: dict[Privacy, float] = {EXAMPLE: 1.0, EDP: 1.0, DEVICE: 0.5}
"""Of an example's gradient, of a micro-batch's, and of a device's update."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table.

    Attributes:
      options: of its runs, the seed apart.
      privacy: what is protected, and how.
      noise: noise multiplier; 0 clips alone, None is without privacy.
    """

    options: RunOptions
    privacy: Privacy = NONE
    noise: float | None = None

    def cell(self, seed: int) -> Cell:
        """The row's run of one seed."""
        o = self.options
        parts = [o.setting, o.selection, self.privacy.replace(" ", "-")]
        level = [] if self.noise is None else [f"{self.noise:g}"]
        whole = [] if o.leakage else ["all-data"]
        return Cell(
            name="-".join([*parts, *level, *whole, f"seed{seed}"]),
            options=replace(o, seed=seed),
        )

    @property
    def whole(self) -> "Row":
        """The same training on all data: no panel, no coins, no attack."""
        return replace(self, options=replace(self.options, leakage=False, leakage_every=1))

    def exposed(self, runs: Sequence[Run], whole: Sequence[Run] = ()) -> Exposed:
        """The row's finished runs.

        Args:
          runs: with a panel.
          whole: those of `self.whole`, where they were made.
        """
        return Exposed(
            group=self._group(runs),
            privacy=self.privacy,
            noise=self.noise,
            whole=self._group(whole) if whole else None,
        )

    def _group(self, runs: Sequence[Run]) -> Group:
        return Group(
            setting=self.options.setting,
            selection=self.options.selection,
            weighting=runs[0].config["weighting"],
            runs=runs,
        )


def rows_of(options: RunOptions, noise: Mapping[Privacy, Sequence[float]]) -> list[Row]:
    """Setting by setting and policy by policy: without privacy, then each way at its noise levels.

    Args:
      options: of every run.
      noise: way to be private -> noise multipliers.
    """
    rows = []
    for setting in SETTINGS:
        for policy in POLICIES:
            own = replace(options, setting=setting, selection=policy, leakage=True)
            rows.append(Row(options=own))
            for privacy, levels in noise.items():
                private = replace(
                    own,
                    dp="device" if privacy == DEVICE else "example",
                    clip_norm=CLIP_NORMS[privacy],
                    clipping="edp-sgd" if privacy == EDP else "flat",
                )
                rows += [
                    Row(
                        options=replace(private, noise_multiplier=sigma),
                        privacy=privacy,
                        noise=sigma,
                    )
                    for sigma in levels
                ]
    return rows
