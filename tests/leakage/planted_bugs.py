"""Which bugs are planted, what catches each by looking, and which does an audit see from outside?

`table` is what `docs/planted-bugs.md` holds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from audited import CanaryRun
from broken import (
    BatchMean,
    ClippedSum,
    Forgetful,
    HalfNoise,
    LedgerReset,
    MicroBatchesAtSigma,
    Overweight,
    Planted,
    ProductRate,
    Refunding,
    SameNoise,
    SilentWhenEmpty,
    TwoBiases,
    Unclipped,
    WrongRate,
    second_bias_uncounted,
)
from catchers import DeviceSteps, ExampleSteps, linear_losses, noise_statistics, sensitivity_search
from gradient_oracles import (
    SIZES,
    ClippedModel,
    one_example_within_the_clip_norm,
    per_example_equality,
    validator,
)
from ledger_oracles import (
    DeviceAccount,
    device_ledger_against_oracle,
    example_ledger_against_oracle,
    filter_against_oracle,
)

from fedsim.models import BiLSTMTagger
from fedsim.privacy import ExampleLevel
from fedsim.privacy.filtered_ledger import FilteredLedger
from fedsim.privacy.micro_batches import MicroBatches
from fedsim.privacy.release import DeviceLevel
from fedsim.training.dpsgd import DPSGD

Catcher = Callable[[Any], str | None]


@dataclass(frozen=True, kw_only=True)
class Bug:
    """A planted bug.

    Attributes:
      name: as the table has it.
      planted: the part of fedsim that was replaced.
      catchers: checks that each find it, and pass the unbroken twin.
      broken: the mechanism with the bug.
      sound: its twin.
      canaries: the run with canaries that is audited, where the bug is one of a whole run.
      one_run: whether that audit raises an alarm; None where none was tried.
      repeated: the same of many runs of a step.
    """

    name: str
    planted: str
    catchers: tuple[Catcher, ...]
    broken: Any
    sound: Any
    canaries: CanaryRun | None = None
    one_run: bool | None = None
    repeated: bool | None = None


LEVEL = {"clip_norm": 0.5, "noise_multiplier": 0.75, "delta": 1e-5}


QUIETER = {"clip_norm": 0.5, "noise_multiplier": 4.0}
"""Of a single round that every canary is in: epsilon 1.3 at the audit's delta."""


def _steps(kind) -> DeviceSteps:
    return DeviceSteps(level=Planted(kind=kind, **LEVEL))


def _dpsgd(kind=DPSGD, **more) -> ExampleSteps:
    return ExampleSteps(
        procedure=kind(
            losses=linear_losses,
            learning_rate=0.3,
            clip_norm=0.5,
            noise_multiplier=0.75,
            physical_size=8,
            **more,
        )
    )


ROUNDS = DeviceSteps(level=DeviceLevel(**LEVEL))
ACCOUNT = DeviceAccount(level=DeviceLevel(**LEVEL))
EXAMPLES = {"noise_multiplier": 1.0, "delta": 1e-5}
KERNEL = ClippedModel(model=BiLSTMTagger(**SIZES))

BUGS = (
    Bug(
        name="no clipping",
        planted="Release.mean",
        catchers=(sensitivity_search,),
        broken=_steps(Unclipped),
        sound=ROUNDS,
        canaries=CanaryRun(level=Planted(kind=Unclipped, **QUIETER)),
        one_run=True,
        repeated=True,
    ),
    Bug(
        name="clip after summing",
        planted="Release.mean",
        catchers=(sensitivity_search,),
        broken=_steps(ClippedSum),
        sound=ROUNDS,
        canaries=CanaryRun(level=Planted(kind=ClippedSum, **QUIETER)),
        one_run=False,
        repeated=True,
    ),
    Bug(
        name="half the noise",
        planted="Release.mean",
        catchers=(noise_statistics,),
        broken=_steps(HalfNoise),
        sound=ROUNDS,
        canaries=CanaryRun(level=Planted(kind=HalfNoise, **QUIETER)),
        one_run=False,
        repeated=True,
    ),
    Bug(
        name="noise reused across steps",
        planted="DPSGD.step",
        catchers=(noise_statistics,),
        broken=_dpsgd(SameNoise),
        sound=_dpsgd(),
        repeated=True,
    ),
    Bug(
        name="no noise on empty steps",
        planted="DPSGD.step",
        catchers=(noise_statistics,),
        broken=_dpsgd(SilentWhenEmpty),
        sound=_dpsgd(),
        repeated=True,
    ),
    Bug(
        name="accountant at the average rate",
        planted="Release.event",
        catchers=(device_ledger_against_oracle,),
        broken=DeviceAccount(level=Planted(kind=WrongRate, **LEVEL)),
        sound=ACCOUNT,
    ),
    Bug(
        name="ledger reset every round",
        planted="PrivateAggregation.configure_train",
        catchers=(device_ledger_against_oracle,),
        broken=DeviceAccount(level=DeviceLevel(**LEVEL), strategy=LedgerReset),
        sound=ACCOUNT,
    ),
    Bug(
        name="product of device and batch rate",
        planted="ExampleLevel.events",
        catchers=(example_ledger_against_oracle,),
        broken=ProductRate(device_rate=0.05, **EXAMPLES),
        sound=ExampleLevel(**EXAMPLES),
    ),
    Bug(
        name="batch-coupled loss",
        planted="BiLSTMTagger.losses",
        catchers=(validator, per_example_equality),
        broken=ClippedModel(model=BatchMean(**SIZES)),
        sound=KERNEL,
    ),
    Bug(
        name="micro-batches accounted at sigma",
        planted="MicroBatches.sensitivity",
        catchers=(sensitivity_search,),
        broken=_dpsgd(clipping=MicroBatchesAtSigma(size=4)),
        sound=_dpsgd(clipping=MicroBatches(size=4)),
        repeated=True,
    ),
    Bug(
        name="weights beyond the stated sensitivity",
        planted="Release.mean, Release.sensitivity",
        catchers=(sensitivity_search,),
        broken=_steps(Overweight),
        sound=ROUNDS,
        canaries=CanaryRun(level=Planted(kind=Overweight, **QUIETER)),
        one_run=True,
        repeated=True,
    ),
    Bug(
        name="two biases trained, one counted",
        planted="clipped_gradient",
        catchers=(per_example_equality, one_example_within_the_clip_norm),
        broken=ClippedModel(model=TwoBiases(**SIZES), kernel=second_bias_uncounted),
        sound=KERNEL,
    ),
    Bug(
        name="refund of a dropout",
        planted="PrivateAggregation.aggregate_train",
        catchers=(device_ledger_against_oracle,),
        broken=DeviceAccount(level=DeviceLevel(**LEVEL), strategy=Refunding),
        sound=ACCOUNT,
    ),
    Bug(
        name="filter that forgets charges",
        planted="FilteredLedger.charge",
        catchers=(filter_against_oracle,),
        broken=Forgetful,
        sound=FilteredLedger,
    ),
)


def table() -> str:
    """In Markdown, a row for each bug."""
    seen = {True: "yes", False: "no", None: "–"}
    lines = [
        "| bug | planted into | caught by looking | one-run audit | repeated runs |",
        "|---|---|---|---|---|",
    ]
    for bug in BUGS:
        names = ", ".join(f"`{catcher.__name__}`" for catcher in bug.catchers)
        lines.append(
            f"| {bug.name} | `{bug.planted}` | {names} | {seen[bug.one_run]} "
            f"| {seen[bug.repeated]} |"
        )
    return "\n".join(lines)
