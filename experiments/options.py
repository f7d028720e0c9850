"""The options of a run, and the one place where their names become objects.

`RunOptions` holds plain values, so that it can be parsed from a command line, written into a record
and sent to another process. The functions below it build what the names stand for; they import
what they need when called, so that `--help` answers at once.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from experiments.budget_options import budget_policy, check_budgets
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


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """One simulation. Defaults are those of the command line.

    Attributes:
      corpus: home, massive, snips, a JSONL, CSV or Parquet file, or a hub name.
      data: folder of data folders, one data folder, or a file; default $FEDSIM_DATA.
      columns: of a file: user=...,text=...,tokens=...,intent=...,slots=...,split=...,order=...
      partition: how sets without people are dealt out: iid, dirichlet:A, quantity:A, natural. The
        same people whatever the seed of the run.
      labels: JSON file with the label inventory of a file.
      vocabulary: hashed is independent of data; corpus is read from the training text.
      devices: number of devices (home, partitioned sets).
      model: bilstm or transformer.
      setting: all data at once, or consecutive periods.
      rounds: rounds in all, in both settings.
      periods: periods of the continual setting.
      by: cut each person's utterances (device) or the order of collection (clock).
      keep: what devices keep of earlier periods: current, window:k, reservoir:n, all.
      cohort: expected devices a round.
      selection: how likely a device is to take part, by its activity; budgets: by what it may
        spend (--dp device).
      power: exponent of activity, with --selection activity.
      cap: largest participation rate of any device.
      temperature: of softmax selection, in units of the mean activity.
      draw: independent coins, or cohorts of fixed size.
      weighting: what an update weighs; auto follows the selection.
      strategy: Flower server strategy.
      proximal_mu: proximal weight; fedprox sends it (default 0.01), others leave it to the client.
      learning_rate: of the devices; default 1.0 (sgd; transformer 0.1), 0.001 (adamw).
      batch_size: examples a local batch.
      optimizer: of the devices.
      local_epochs: passes over what a device holds.
      local_steps: batches a round instead of epochs.
      dp: what is private: nothing, each example (DP-SGD on the devices), each device, or both.
      noise_multiplier: noise in units of the clip norm; default 1, without --epsilon.
      clip_norm: largest norm of a device's update (of an example's gradient, with --dp example).
      example_noise_multiplier: the devices' own noise, with --dp both; default 1.
      example_clip_norm: largest norm of an example's gradient, with --dp both; default 1.
      clipping: how gradients of examples are clipped: to one norm (flat); normalised (automatic);
        layer by layer (per-layer); to a norm that follows their median (adaptive); or, as a
        baseline, in micro-batches layer by layer (edp-sgd, whose noise falls with --noise-decay).
      noise_decay: FACTOR:STEPS, such as 0.9:10; what the devices' noise is multiplied by after so
        many local steps, from the first step of every participation on.
      dp_backend: who clips the gradients of examples: this project's kernel (book-keeping), or
        Opacus to compare with, which clips flat alone.
      epsilon: what the worst device may have spent at the end, instead of a noise multiplier; with
        --dp example it needs --max-participations.
      max_participations: rounds after which a device that protects its examples refuses to train.
      delta: of every epsilon; default 1e-5, or 0.1 / units where that is smaller (units: devices,
        or training examples of all periods).
      adjacency: neighbours differ in what one device holds (zero-out), or in a whole device
        (add-remove, with --scale, --weight-cap and --denominator).
      scale: public factor from a device's score to its rate, instead of one that all devices fix.
      weight_cap: public bound on weights, under add-remove.
      denominator: public constant that the sum is divided by, under add-remove.
      example_cap: examples beyond which a device weighs no more.
      device_budget: epsilon that no device may exceed; it sits out every round that would take it
        above.
      run_budget: epsilon that the worst device may not exceed; the run stops before it would.
      budgets: of --selection budgets, epsilon:share pairs (2:.54,4:.37,8:.09) or a range (1-8),
        dealt out to devices at random; they and --cohort fix the noise.
      secure_noise: take the noise from the operating system; the run cannot be reproduced.
      leakage: measure what the model leaks about a panel of 500 utterances, of which fair coins
        take about half out of training, and audit epsilon by it.
      leakage_every: rounds between these measurements; ten rounds that are audited, the first and
        the last among them, are measured anyway.
      evaluate_every: rounds between measurements; default about 20 measurements a run.
      checkpoint_every: rounds between checkpoints, which a run that was interrupted goes on from.
      tracker: where else the run is shown as it goes: tensorboard (files beside the record; needs
        --out) or mlflow (where $MLFLOW_TRACKING_URI says).
      faults: devices that fail, by probability: unavailable=.1,dropout=.3,nan=.05,exploding=.01,
        error=.05; deadline=20 (simulated seconds), with speed=100 (examples a second) and spread=1.
      engine: train devices one by one on threads of this process (local), many at a time as stacked
        tensors (batched), or on Flower's runtime, as processes under Ray (flower).
      device: where --engine batched computes; auto is a GPU where there is one.
      workers: threads, or processes under flower, that train devices; 0 trains inline (not under
        flower); default one a core.
      seed: of the initial model, the cohorts and the batches; the people stay the same, so that
        runs can be compared.
    """

    corpus: str = "home"
    data: str | None = None
    columns: str | None = None
    partition: str | None = None
    labels: str | None = None
    vocabulary: Literal["hashed", "corpus"] = "hashed"
    devices: int | None = None
    model: Literal["bilstm", "transformer"] = "bilstm"
    setting: Literal["static", "continual"] = "static"
    rounds: int = 100
    periods: int = 5
    by: Literal["device", "clock"] = "device"
    keep: str = "current"
    cohort: int = 32
    selection: Literal["uniform", "log", "sqrt", "activity", "softmax", "top", "budgets"] = (
        "uniform"
    )
    power: float = 1.0
    cap: float = 1.0
    temperature: float = 1.0
    draw: Literal["poisson", "fixed"] = "poisson"
    weighting: Literal["auto", "examples", "equal", "inverse-rate"] = "auto"
    strategy: Literal["fedavg", "fedavgm", "fedadam", "fedprox", "fedmedian"] = "fedavg"
    proximal_mu: float | None = None
    learning_rate: float | None = None
    batch_size: int = 16
    optimizer: Literal["sgd", "adamw"] = "sgd"
    local_epochs: int = 1
    local_steps: int | None = None
    dp: Literal["none", "example", "device", "both"] = "none"
    noise_multiplier: float | None = None
    clip_norm: float = 1.0
    example_noise_multiplier: float | None = None
    example_clip_norm: float | None = None
    clipping: Literal["flat", "automatic", "per-layer", "adaptive", "edp-sgd"] = "flat"
    noise_decay: str | None = None
    dp_backend: Literal["book-keeping", "opacus-hooks", "opacus-ghost"] = "book-keeping"
    epsilon: float | None = None
    max_participations: int | None = None
    delta: float | None = None
    adjacency: Literal["zero-out", "add-remove"] = "zero-out"
    scale: float | None = None
    weight_cap: float | None = None
    denominator: float | None = None
    example_cap: int | None = None
    device_budget: float | None = None
    run_budget: float | None = None
    budgets: str | None = None
    secure_noise: bool = False
    leakage: bool = False
    leakage_every: int = 1
    evaluate_every: int | None = None
    checkpoint_every: int = 1
    tracker: Literal["tensorboard", "mlflow"] | None = None
    faults: str | None = None
    engine: Literal["local", "batched", "flower"] = "local"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.rounds >= 1, f"rounds is {self.rounds}; choose 1 or more")
        require(self.cohort >= 1, f"cohort is {self.cohort}; choose 1 or more")
        require(self.periods >= 1, f"periods is {self.periods}; choose 1 or more")
        from fedsim.population.periods import Keep

        Keep.parse(self.keep)
        faults_of(self)
        every, workers, checkpoint = self.evaluate_every, self.workers, self.checkpoint_every
        require(every is None or every >= 1, f"evaluate_every is {every}; choose 1 or more")
        require(checkpoint >= 1, f"checkpoint_every is {checkpoint}; choose 1 or more")
        require(workers is None or workers >= 0, f"workers is {workers}; choose 0 (inline) or more")
        require(
            workers != 0 or self.engine != "flower",
            "workers is 0, which trains inline, and --engine flower trains in processes of its "
            "own; choose 1 or more, or --engine local",
        )
        require(
            self.device == "auto" or self.engine == "batched",
            f"device is {self.device!r}, but --engine {self.engine} trains on the processor; leave "
            "it out, or choose --engine batched",
        )
        require(
            self.leakage_every >= 1,
            f"leakage_every is {self.leakage_every}; choose 1 (every round) or more",
        )
        require(
            self.leakage or self.leakage_every == 1,
            f"leakage_every is {self.leakage_every}, which has no effect without --leakage; add it",
        )
        mu = self.proximal_mu
        require(mu is None or mu >= 0, f"proximal_mu is {mu}; choose 0 (none) or more")
        require(self.seed >= 0, f"seed is {self.seed}; choose 0 or more")
        require(
            self.power == 1.0 or self.selection == "activity",
            f"power is {self.power:g}, which --selection {self.selection} does not use; "
            "choose --selection activity",
        )
        require(
            self.temperature == 1.0 or self.selection == "softmax",
            f"temperature is {self.temperature:g}, which --selection {self.selection} does not "
            "use; choose --selection softmax",
        )
        require(
            self.cap == 1.0 or self.selection not in ("uniform", "top", "budgets"),
            f"cap is {self.cap:g}, which --selection {self.selection} does not use; "
            "choose log, sqrt, activity or softmax",
        )


URI = "MLFLOW_TRACKING_URI"
"""Where MLflow keeps its runs, unless the working folder is meant."""


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
    require(
        options.tracker != "mlflow" or options.engine != "flower" or URI in os.environ,
        f"tracker is 'mlflow', whose store Flower's processes would look up from folders of their "
        f"own; name one in ${URI}",
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
