"""How much of one device's update can be found again in the released models?

A canary device holds no words. When it is drawn it answers with the global model moved by a fixed
distance in a random direction of its own, the same in every round; under device-level DP that is
the largest update that clipping lets through. In many dimensions random directions are nearly
orthogonal to each other and to what real devices send, so the released models moved along a
canary's direction about as far as it was listened to (Andrew et al., "One-shot empirical privacy
estimation for federated learning", ICLR 2024, https://arxiv.org/abs/2302.03098).

A fair coin decides before training whether a canary answers so or is a null device, which replies
with what it received. It has an activity, hence a rate and a ledger, like any other device, and the
bound is one about whole devices:

    people, panel = canary_panel(people, seed=7, size=200, activity=20)
    canaries = Canaries(panel=panel, seed=7, length=1.0)
    Simulation(
        population=people,
        client=CanaryClient(client=NLUClient(), canaries=canaries),
        probes=[Leakage(panel=panel, population=people, losses=canaries.losses(model), ...)],
        ...
    )
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from fedsim.errors import require
from fedsim.leakage.panel import Panel
from fedsim.leakage.panels import activity_groups
from fedsim.models.joint import JointTagger, Parameters
from fedsim.population import Examples, Population
from fedsim.privacy.example_level import ExampleLevel, LocalSteps
from fedsim.rng import stream
from fedsim.training import LocalResult, LocalTrainer


def canary_panel(
    population: Population, *, seed: int, size: int, activity: int
) -> tuple[Population, Panel]:
    """The population with canary devices appended, and the panel of them.

    Args:
      population: cut in any way.
      seed: the run's.
      size: canary devices, >= 1.
      activity: null records that each holds over all periods, >= 1.

    Raises:
      ConfigError: no canaries, or canaries that hold nothing and so are never drawn.
    """
    require(size >= 1, f"size is {size}; choose 1 canary device or more")
    require(activity >= 1, f"activity is {activity}; choose 1 or more, so that canaries are drawn")
    nothing = _null_records(activity, pieces=population.train(0).token_ids.shape[1])
    wider = population.with_devices([nothing] * size)
    device = population.devices + np.arange(size)
    return wider, Panel(
        unit="device",
        rows=wider.starts[device],
        member=np.arange(size),
        device=device,
        group=activity_groups(wider)[device],
        included=stream(seed, "panel").random(size) < 0.5,
    )


@dataclass(frozen=True, kw_only=True)
class Canaries:
    """What canary devices send, and how far models moved that way.

    Attributes:
      panel: of `canary_panel`.
      seed: the run's.
      length: Euclidean norm of a canary's update, > 0; the clip norm or more under device-level DP.
    """

    panel: Panel
    seed: int
    length: float

    def __post_init__(self) -> None:
        require(self.length > 0, f"length is {self.length}; choose a norm above 0")

    @cached_property
    def _included(self) -> dict[int, bool]:
        """Canary devices and how their coins fell."""
        return dict(zip(self.panel.device.tolist(), self.panel.included.tolist(), strict=True))

    def answers(self, device: int) -> bool | None:
        """Whether a canary device answers with its direction; None for an ordinary device."""
        return self._included.get(device)

    def direction(self, device: int, like: Parameters) -> Parameters:
        """The update of a canary device, in the shapes of a model, `length` long."""
        draw = stream(self.seed, "canary", device=device)
        arrays = {
            name: draw.standard_normal(tuple(p.shape), np.float32) for name, p in like.items()
        }
        norm = np.sqrt(sum(float(np.square(array).sum()) for array in arrays.values()))
        return {
            name: torch.from_numpy(array * np.float32(self.length / norm)).to(like[name])
            for name, array in arrays.items()
        }

    def losses(self, model: JointTagger) -> Callable[[Parameters], np.ndarray]:
        """What `Leakage` ranks canaries by: minus the movement along each one's direction.

        Directions are drawn again at every measurement rather than kept (a model's size each), so
        let `Leakage` measure every few rounds.

        Args:
          model: at its own, untrained parameters.
        """
        untrained = {name: p.detach() for name, p in model.named_parameters()}

        def losses(parameters: Parameters) -> np.ndarray:
            moved = {name: parameters[name] - p for name, p in untrained.items()}
            along = [
                sum(float((moved[name] * d).sum()) for name, d in self.direction(k, moved).items())
                for k in self.panel.device.tolist()
            ]
            return -np.array(along)

        return losses


@dataclass(frozen=True, kw_only=True)
class CanaryClient:
    """Ordinary devices train as `client` says, and canaries answer as canaries do.

    Attributes:
      client: `clients.NLUClient(...)`.
      canaries: who they are and what they send.
    """

    client: Any
    canaries: Canaries

    def bind(self, population: Population, model: JointTagger, seed: int) -> "CanaryTrainer":
        """The local training of every device of a population with canaries."""
        return CanaryTrainer(
            trainer=self.client.bind(population, model, seed), canaries=self.canaries
        )

    def app(self, trainer: "CanaryTrainer") -> Any:
        """The trainer behind Flower messages."""
        return self.client.app(trainer)


@dataclass(frozen=True, kw_only=True)
class CanaryTrainer:
    """A `LocalTrainer` whose canary devices do not train.

    Attributes:
      trainer: of all other devices.
      canaries: who they are and what they send.
    """

    trainer: LocalTrainer
    canaries: Canaries

    @property
    def privacy(self) -> ExampleLevel | None:
        """Example-level privacy of the ordinary devices; canaries are charged like them."""
        return self.trainer.privacy

    @property
    def local(self) -> LocalSteps:
        """How devices go through their examples."""
        return self.trainer.local

    @property
    def remarks(self) -> Sequence[str]:
        """What a reader of the record should know of how ordinary devices train."""
        return self.trainer.remarks

    def train(
        self, parameters: Parameters, *, device: int, period: int, round: int, **server: Any
    ) -> LocalResult:
        """What the device replies with."""
        answers = self.canaries.answers(device)
        if answers is None:
            return self.trainer.train(
                parameters, device=device, period=period, round=round, **server
            )
        reply = {name: p.detach().clone() for name, p in parameters.items()}
        if answers:
            for name, step in self.canaries.direction(device, parameters).items():
                reply[name] += step
        return LocalResult(reply, self.activity(device, period), 0.0, 0.0)

    def evaluate(self, parameters: Parameters, *, device: int) -> Any:
        """Score on the device's own test utterances; canaries have none."""
        return self.trainer.evaluate(parameters, device=device)

    def activity(self, device: int, period: int) -> int:
        """Examples the device holds in `period`."""
        return self.trainer.activity(device, period)


def _null_records(count: int, pieces: int) -> Examples:
    """Null records of one padding word each."""
    return Examples(
        token_ids=np.zeros((count, pieces), np.int32),
        slots=np.zeros(count, np.int16),
        offsets=np.arange(count + 1),
        intents=np.zeros(count, np.int16),
        device=np.zeros(count, np.int32),
        period=np.zeros(count, np.int16),
        null=np.ones(count, bool),
    )
