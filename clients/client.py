"""What a simulated NLU device does, as a config and as a Flower `ClientApp`.

`NLUClient` says how a device trains. `bind` attaches it to a population and a model; `app` puts the
result behind Flower's three message types. Engines in this process that need no messages call
the trainer directly.
"""

import logging
import math
from dataclasses import dataclass, replace

import numpy as np
from flwr.app import Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedsim.engine.orders import Order, config_of, parameters_of, reply_with
from fedsim.engine.replies import NOTHING_HELD_OUT
from fedsim.errors import require
from fedsim.models import JointTagger
from fedsim.population import Population
from fedsim.privacy import ExampleLevel
from fedsim.privacy.rounding import TAU, Precision
from fedsim.training import LocalTrainer, private_procedures, procedures
from fedsim.training.backends import BackendName, remarks, require_computes
from fedsim.training.batches import examples_served
from fedsim.training.validator import require_precision

log = logging.getLogger(__name__)

OPTIMIZERS = ("sgd", "adamw")

ADAMW_RATE = 1e-3
"""Default learning rate of AdamW; that of SGD is the model's `sgd_rate`."""


@dataclass(frozen=True, kw_only=True)
class NLUClient:
    """How a device trains on its own utterances.

    Attributes:
      batch_size: examples a batch, >= 1.
      local_epochs: passes over what the device holds in a round, >= 1.
      local_steps: batches a round instead of epochs, or None.
      optimizer: "sgd" or "adamw".
      learning_rate: > 0, or None for the model's `sgd_rate` (1.0 for a BiLSTM, 0.1 for a
        transformer), 1e-3 under adamw, and under privacy the model's `private_rate` (1.0 and 0.3)
        over the clip norm.
      proximal_mu: weight of a proximal term of the client's own; FedProx sends its own instead.
      privacy: DP-SGD instead of SGD, so that each example is protected, the server included among
        those it is protected from; or None. Every batch then takes every example by its own coin,
        `batch_size` of them on average; devices with fewer take all, devices with none send noise.
      dp_backend: who computes the clipped sums of private steps: "book-keeping", or, to compare
        with, "opacus-hooks" or "opacus-ghost", which clip flat alone.
      precision: of forward and backward passes, "float32" or "bfloat16"; parameters, losses, norms,
        clipped sums, noise and updates are in float32 either way.

    Example:
      >>> NLUClient(optimizer="adam")
      Traceback (most recent call last):
      fedsim.errors.ConfigError: optimizer is 'adam'; choose one of sgd, adamw
    """

    batch_size: int = 16
    local_epochs: int = 1
    local_steps: int | None = None
    optimizer: str = "sgd"
    learning_rate: float | None = None
    proximal_mu: float = 0.0
    privacy: ExampleLevel | None = None
    dp_backend: BackendName = "book-keeping"
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        for name in ("batch_size", "local_epochs", "local_steps"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name} is {value}; choose 1 or more")
        require(
            self.optimizer in OPTIMIZERS,
            f"optimizer is {self.optimizer!r}; choose one of {', '.join(OPTIMIZERS)}",
        )
        require(
            self.precision in TAU,
            f"precision is {self.precision!r}; choose one of {', '.join(TAU)}",
        )
        rate = self.learning_rate
        require(
            rate is None or (rate > 0 and math.isfinite(rate)),
            f"learning_rate is {rate}; choose a finite rate above 0",
        )
        require(
            0 <= self.proximal_mu < math.inf,
            f"proximal_mu is {self.proximal_mu}; choose 0 (none) or more, and finite",
        )
        private = self.privacy
        require(
            private is None or self.optimizer == "sgd",
            f"optimizer is {self.optimizer!r}, but example-level privacy is DP-SGD; choose 'sgd'",
        )
        require(
            private is None or math.isfinite(private.clip_norm) or private.noise_multiplier == 0,
            "clip_norm is infinite, and noise in units of it would be too; choose a finite one, "
            "such as 1",
        )
        require(
            private is None or private.precision in ("float32", self.precision),
            f"precision of privacy is not that of the client, {self.precision}; leave it out of "
            "ExampleLevel, which takes the client's",
        )
        if private is not None:
            require_computes(self.dp_backend, replace(private, precision=self.precision))
        else:
            require(
                self.dp_backend == "book-keeping",
                f"dp_backend is {self.dp_backend!r}, and devices without privacy clip nothing; "
                "give privacy=ExampleLevel(...)",
            )

    def rate(self, model: JointTagger) -> float:
        """The learning rate, or the default one for this optimizer and model."""
        if self.learning_rate is not None:
            return self.learning_rate
        if self.privacy is not None and math.isfinite(self.privacy.clip_norm):
            return model.private_rate / self.privacy.clip_norm
        return model.sgd_rate if self.optimizer == "sgd" else ADAMW_RATE

    def examples_served(self, held: np.ndarray) -> np.ndarray:
        """Examples that the optimizers of devices holding so many are served in a round."""
        if self.privacy is None:
            return examples_served(held, self.batch_size, self.local_epochs, self.local_steps)
        # As many as are expected: the draws themselves are secret.
        steps = self.local_steps or self.local_epochs * -(-held // self.batch_size)
        return steps * np.minimum(held, self.batch_size)

    def bind(self, population: Population, model: JointTagger, seed: int) -> LocalTrainer:
        """The local training of every device of a population.

        Args:
          population: cut into the periods of the run.
          model: whose losses are trained.
          seed: the run's.

        Raises:
          ConfigError: delta is too large for the population, or no noise reaches a target epsilon;
            under privacy, the model's examples have no gradients of their own; the model does not
            compute in the precision.
        """
        require_precision(model, self.precision)
        rate = self.rate(model)
        trainer = LocalTrainer(
            population=population,
            model=model,
            procedure=procedures(self.optimizer, model, rate, self.precision),
            batch_size=self.batch_size,
            local_epochs=self.local_epochs,
            local_steps=self.local_steps,
            seed=seed,
            proximal_mu=self.proximal_mu,
        )
        if self.privacy is None:
            return trainer
        held = np.array([population.activity(period) for period in range(population.periods)])
        # A record has one delta, whatever else the server protects.
        units = max(int(population.counts.sum()), population.devices)
        sized = self.privacy.sized_for(dict(model.named_parameters()), self.precision)
        privacy = sized.resolved(held, units, trainer.local)
        procedure = private_procedures(privacy, model, rate, self.batch_size, self.dp_backend)
        told = remarks(self.dp_backend, model)
        for sentence in told:
            log.warning("%s", sentence)
        return replace(trainer, privacy=privacy, procedure=procedure, remarks=told)

    def app(self, trainer: LocalTrainer) -> ClientApp:
        """The trainer behind Flower messages."""
        return app(trainer)


def app(trainer: LocalTrainer) -> ClientApp:
    """A Flower `ClientApp` around a trainer.

    `server-round`, `period` (from 0) and FedProx's `proximal-mu` come in the message's config
    record, and so does `device` where a node hosts many; otherwise the device is the node id.
    Replies to `train` are those of `fedsim.engine.orders.reply_with`.
    """
    client = ClientApp()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        order = Order.of(message.content)
        result = trainer.train(
            order.parameters,
            device=_device(message, context),
            period=order.period,
            round=order.round,
            proximal_mu=order.proximal_mu,
        )
        return reply_with(result, message)

    @client.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        score = trainer.evaluate(parameters_of(message.content), device=_device(message, context))
        if score is None:
            nothing = Error(code=NOTHING_HELD_OUT, reason="no held-out utterances")
            return Message(nothing, reply_to=message)
        metrics = MetricRecord(
            {
                "num-examples": score.examples,
                "eval_loss": score.loss,
                "intent_accuracy": score.intent_accuracy,
            }
        )
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    @client.query()
    def query(message: Message, context: Context) -> Message:
        period = int(config_of(message.content).get("period", 0))
        held = trainer.activity(_device(message, context), period)
        return Message(RecordDict({"metrics": MetricRecord({"activity": held})}), reply_to=message)

    return client


def _device(message: Message, context: Context) -> int:
    return int(config_of(message.content).get("device", context.node_id))
