"""Which objects do the options of a run stand for?

The one place where their names become objects. The functions import what they need when called, so
that `--help` answers at once.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from experiments.budget_options import budget_policy, check_budgets
from experiments.run_options import RunOptions
from fedsim.errors import ConfigError, require

if TYPE_CHECKING:
    from flwr.serverapp.strategy import Strategy

    from clients import NLUClient
    from fedsim.faults import Faults
    from fedsim.leakage import Panel
    from fedsim.models import JointTagger
    from fedsim.population import Population
    from fedsim.schedule import Schedule
    from fedsim.tracking import Tracker
    from strategies import SelectionPolicy

PROXIMAL_MU = 0.01
"""FedProx's proximal weight where none is given."""

ENGINE = frozenset({"engine", "device"})
"""Options that choose an engine; Flower's own processes have theirs already."""

PANEL = 500
"""Utterances in the panel of --leakage."""

PEOPLE_SEED = 0
"""Seed of the people: who is generated, who is dealt what, what is held out."""


def check_options(options: RunOptions) -> None:
    """Refuse whatever can be refused before a corpus is read.

    Raises:
      ConfigError: a value, or a combination of them, that cannot be run.
    """
    check_budgets(options)
    tracker_of(options)
    client_of(options)
    strategy_of(options)
    schedule_of(options)
    _columns(options.columns)


def policy_of(options: RunOptions) -> "SelectionPolicy":
    """The selection policy an options object names; reads the corpus where budgets are dealt."""
    import strategies as s

    check_budgets(options)

    cohort, cap = options.cohort, options.cap
    policies: dict[str, Callable[[], SelectionPolicy]] = {
        "uniform": lambda: s.UniformSelection(cohort=cohort),
        "log": lambda: s.LogActivitySelection(cohort=cohort, cap=cap),
        "sqrt": lambda: s.ActivitySelection(cohort=cohort, power=0.5, cap=cap),
        "activity": lambda: s.ActivitySelection(cohort=cohort, power=options.power, cap=cap),
        "softmax": lambda: s.SoftmaxSelection(
            cohort=cohort, temperature=options.temperature, cap=cap
        ),
        "top": lambda: s.TopActivitySelection(cohort=cohort),
        "budgets": lambda: budget_policy(
            options.budgets or "",
            population_of(options).devices,
            PEOPLE_SEED,
            cohort,
            options.rounds,
            options.delta,
        ),
    }
    policy = policies[options.selection]()
    return policy if options.scale is None else s.PublicScale(policy=policy, scale=options.scale)


def strategy_of(options: RunOptions) -> "Strategy":
    """The Flower strategy an options object names, inside Selective."""
    from flwr.serverapp import strategy as flower

    from experiments.privacy_options import device_level_of
    from fedsim.engine.flower import quiet
    from strategies import BudgetSelection, PrivateAggregation, Selective

    mu = PROXIMAL_MU if options.proximal_mu is None else options.proximal_mu
    rules: dict[str, Callable[[], Strategy]] = {
        "fedavg": flower.FedAvg,
        "fedavgm": lambda: flower.FedAvgM(server_momentum=0.9),
        "fedadam": lambda: flower.FedAdam(eta=0.01),
        "fedprox": lambda: flower.FedProx(proximal_mu=mu),
        "fedmedian": flower.FedMedian,
    }
    with quiet():
        inner = rules[options.strategy]()
    mechanism, policy = device_level_of(options), policy_of(options)
    if mechanism is not None:
        if isinstance(policy, BudgetSelection):
            # Rates and noise answer to each other; the policy found both.
            mechanism = replace(mechanism, noise_multiplier=policy.noise_multiplier)
        inner = PrivateAggregation(inner, mechanism)
    return Selective(inner, policy, weighting=options.weighting, draw=options.draw)


def client_of(options: RunOptions) -> "NLUClient":
    """How devices train."""
    from clients import NLUClient
    from experiments.privacy_options import example_level_of

    own = 0.0 if options.strategy == "fedprox" else (options.proximal_mu or 0.0)
    return NLUClient(
        batch_size=options.batch_size,
        local_epochs=options.local_epochs,
        local_steps=options.local_steps,
        optimizer=options.optimizer,
        learning_rate=options.learning_rate,
        proximal_mu=own,
        privacy=example_level_of(options),
        dp_backend=options.dp_backend,
        precision=options.precision,
    )


def schedule_of(options: RunOptions) -> "Schedule":
    """Rounds over periods."""
    from fedsim.schedule import Continual, Static

    if options.setting == "static":
        return Static(rounds=options.rounds)
    return Continual(
        periods=options.periods, rounds=options.rounds, keep=options.keep, by=options.by
    )


def faults_of(options: RunOptions) -> "Faults | None":
    """What goes wrong on devices."""
    from fedsim.faults import Faults

    return None if options.faults is None else Faults.parse(options.faults)


def tracker_of(options: RunOptions) -> "Tracker | None":
    """Where else the run is shown."""
    if options.tracker is None:
        return None
    require(
        find_spec(options.tracker) is not None,
        f"tracker is {options.tracker!r}, which is not installed; pip install "
        "tensorboard, or mlflow-skinny",
    )
    from fedsim.tracking import MLflow, TensorBoard

    return MLflow() if options.tracker == "mlflow" else TensorBoard()


def panel_of(options: RunOptions, population: "Population") -> "Panel | None":
    """The utterances whose leakage is measured, or None; all of a smaller population's."""
    if not options.leakage:
        return None
    from fedsim.leakage import example_panel

    held = int(population.starts[-1])
    require(
        held > 0,
        "leakage is measured on training utterances, and the population has none; add some",
    )
    return example_panel(population, seed=options.seed, size=min(PANEL, held))


def population_of(options: RunOptions) -> "Population":
    """The corpus, read; the same object as before where nothing it depends on has changed.

    People are dealt and generated with a fixed seed, so that runs of different seeds pair up.
    """
    files = tuple(map(_stamp, (options.corpus, options.data, options.labels)))
    return _population(
        options.corpus,
        options.data,
        options.columns,
        options.partition,
        options.labels,
        options.devices,
        options.vocabulary,
        (os.environ.get("FEDSIM_DATA"), *files),
    )


@lru_cache(maxsize=1)
def _population(
    corpus: str,
    data: str | None,
    columns: str | None,
    partition: str | None,
    labels: str | None,
    devices: int | None,
    vocabulary: Literal["hashed", "corpus"],
    state: tuple[object, ...],
) -> "Population":
    """The corpus; `state` is what lies outside the options, there for the cache alone."""
    from fedsim.population import Population

    return Population.load(
        corpus,
        data,
        columns=_columns(columns),
        partition=partition,
        labels=labels,
        devices=devices,
        seed=PEOPLE_SEED,
        vocabulary=vocabulary,
    )


def _stamp(path: str | None) -> tuple[int, int] | None:
    """Tells a file from what was under its name before; None for what is no file."""
    try:
        found = os.stat(path or "")
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def model_of(options: RunOptions, population: "Population") -> "JointTagger":
    """The model, with initial parameters of the run's seed."""
    from fedsim.models import BiLSTMTagger, TransformerTagger

    kinds: dict[str, type[JointTagger]] = {
        "bilstm": BiLSTMTagger,
        "transformer": TransformerTagger,
    }
    return kinds[options.model].sized_for(population, seed=options.seed)


def _columns(text: str | None) -> dict[str, str] | None:
    """Read `user=worker,text=utterance` into a dict."""
    if text is None:
        return None
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(key and equals and value for key, equals, value in pairs):
        raise ConfigError(
            f"columns is {text!r}; expected name=column pairs joined by commas, such as "
            "user=worker_id,text=utterance,intent=label"
        )
    return {key.strip(): value.strip() for key, _, value in pairs}
