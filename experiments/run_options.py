"""What can one simulation be told, and which values make no sense on their own?

`RunOptions` holds plain values, so that it can be parsed from a command line, written into a record
and sent to another process. `experiments.options` makes objects of them.
"""

from dataclasses import dataclass
from typing import Literal

from fedsim.errors import require


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
      precision: of the devices' forward and backward passes; parameters, losses, clipped sums and
        noise are float32 either way.
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
      smallest_rate: participation rate below which a device weighs no more, with --weighting
        inverse-rate; a public constant, needed under add-remove.
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
    precision: Literal["float32", "bfloat16"] = "float32"
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
    smallest_rate: float | None = None
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
        from fedsim.faults import Faults
        from fedsim.population.periods import Keep

        Keep.parse(self.keep)
        if self.faults is not None:
            Faults.parse(self.faults)
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
