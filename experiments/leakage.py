"""What does an attacker get out of models that were trained with more or less privacy?

The same training, under uniform and activity-based selection, with all data at once ("static") and
period by period ("continual"), without privacy and with it at several noise levels. Every run is
attacked and audited on the same panel (`fedsim.leakage.Leakage`), so that a row shows accuracy,
what is claimed, what an audit proves of it, and what membership inference finds. The claim to test:
that a loose epsilon already removes most practical leakage. Training without privacy is run on all
data too, which says what the panel cost in accuracy.

Few devices a round and many rounds: as much local training spread over cohorts of 32 leaves each
device so small a part of an average that models leak nothing which a panel of 500 could show. On
`massive`, without privacy, the AUC was .53 [.48, .58] after 40 rounds of 32 devices and 5 epochs,
and .60 [.55, .64] after 300 rounds of 8 devices and 2. So small a cohort wants a smaller step: at
the default learning rate of 1.0 uniform selection without privacy fell from 77 % intent accuracy to
51 % in the last rounds; at half of it, which every row has, it stayed at 78 to 80 %.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.leakage_rows import rows_of
from experiments.options import RunOptions
from experiments.presets import Preset, chosen, chosen_with_seeds, run_options, runs_of
from fedsim.report.exposure import DEVICE, EDP, EXAMPLE, NONE, Privacy, exposure_table
from fedsim.report.table import Table


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of the experiment a preset runs.

    Attributes:
      options: where the preset departs from the defaults of a run.
      noise: way to be private -> noise multipliers; 0 clips alone.
      seeds: runs of every row.
    """

    options: Mapping[str, Any]
    noise: Mapping[Privacy, Sequence[float]]
    seeds: int


PRESETS: dict[str, Size] = {
    "quick": Size(
        options={
            "corpus": "home", "devices": 20, "cohort": 4, "rounds": 30, "local_epochs": 2,
            "evaluate_every": 10, "leakage_every": 10,
        },
        noise={EXAMPLE: (0.0, 0.1), EDP: (0.1,), DEVICE: (0.05,)},
        seeds=1,
    ),
    "paper": Size(
        options={
            "corpus": "massive", "cohort": 8, "rounds": 400, "local_epochs": 2,
            "learning_rate": 0.5, "evaluate_every": 25, "leakage_every": 25,
        },
        noise={EXAMPLE: (0.0, 0.1, 0.3), EDP: (0.1,), DEVICE: (0.05,)},
        seeds=1,
    ),
}  # fmt: skip


def preset_options(preset: Preset, given: Mapping[str, Any] | None = None) -> RunOptions:
    """The options a preset runs with.

    Args:
      preset: "quick" or "paper".
      given: fields of `RunOptions` that the caller sets; they win over the preset.

    Example:
      >>> options = preset_options("paper", {"cohort": 16})
      >>> options.corpus, options.cohort, options.leakage
      ('massive', 16, True)
    """
    return run_options({"leakage": True, **chosen(PRESETS, preset).options}, given)


def leakage(
    options: RunOptions | None = None,
    preset: Preset = "quick",
    seeds: int | None = None,
    out: Path | str = "runs/leakage",
    processes: int | None = None,
) -> Table:
    """Train, attack and audit; run what is missing under `out / "runs"`.

    Args:
      options: of every run; a row sets its own setting, selection, privacy and seed. Default:
        `preset_options(preset)`.
      preset: "quick": clipping alone, one noise level of each way to be private. "paper": two of
        DP-SGD.
      seeds: runs a row, >= 1, each with a panel of its own; default: the preset's.
      out: the experiment's folder. A second call with the same arguments goes on where the first
        stopped.
      processes: runs at a time; default: the number of cores. Results do not depend on it.

    Raises:
      ConfigError: options that cannot be run, a folder with other runs, or runs that failed.
    """
    options = preset_options(preset) if options is None else options
    size, each = chosen_with_seeds(PRESETS, preset, seeds, options.seed)
    rows = rows_of(options, size.noise)
    plain = [row for row in rows if row.privacy == NONE]
    runs = runs_of([*rows, *(row.whole for row in plain)], each, out, processes)
    whole = dict(zip(plain, runs[len(rows) :], strict=True))
    return exposure_table(
        [row.exposed(own, whole.get(row, ())) for row, own in zip(rows, runs, strict=False)]
    )
