"""What happens to messages on their way to devices that fail, and to the replies on their way back?

Faults act between the server and an engine's grid, so they are the same under every engine. A
reply that is lost or late becomes an error reply whose code says so; a spoiled one goes on to the
ordinary checks of replies, which have to find it. Failures that a fault is to blame for say so, and
are counted apart from the others. Devices that protect their own examples are charged here, before
anything can happen to them, and may refuse.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message
from flwr.serverapp import Grid

from fedsim.engine.flower import NODE_UNAVAILABLE, RAISED, Content, filled, records, seen
from fedsim.engine.replies import DROPPED_OUT, LATE, REFUSAL, SIMULATED, SpoiledArray
from fedsim.errors import require
from fedsim.faults import Faults
from fedsim.plan import Failure, FinishedRound
from fedsim.population import Population
from fedsim.privacy.example_spent import ExamplePrivacy

EXPLODED = 1e30
"""What exploding parameters are multiplied by: finite in float32, but their squares are not, so
that the reply is found and named, whichever strategy is tried."""

WAITED_FOR = frozenset({"dropout", "late", "missing"})
"""Stages of devices for which a server waits until the deadline."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Exchange:
    """Sends the messages of a round, under faults if any; as a probe, counts what failed.

    Attributes:
      faults: what goes wrong, or None.
      seed: the run's.
      client: the devices' config, whose `examples_served` says how much work a device has; one
        without it (a user's own `ClientApp`) is taken to go over what it holds once.
      people: cut into the periods of the run.
      example: charges devices for their own privacy when they are drawn, or None.
    """

    faults: Faults | None
    seed: int
    client: Any
    people: Population
    example: ExamplePrivacy | None = None

    def send_and_receive(
        self, grid: Grid, messages: Iterable[Message], *, round: int, period: int
    ) -> Iterable[Message]:
        """Through a grid; one reply to each message, in any order.

        A device that trains keeps its own state even where its reply is lost.
        """
        refusals: list[Message] = []
        if self.example is not None:
            messages = list(messages)
            _require_own_noise(messages, round, period)
            messages, refusals = _charged(self.example, messages, period)
        if self.faults is None:
            return chain(refusals, grid.send_and_receive(messages))
        return chain(refusals, self._under(self.faults, grid, messages, round, period))

    def __call__(self, finished: FinishedRound) -> dict[str, float]:
        """`faults/STAGE`, what failed there by simulated faults, and `failures/STAGE`, the rest.

        Under a deadline also `faults/simulated_seconds`.

        A round lasts until the last reply has come, or until the deadline where one that was
        expected has not. Devices that are unavailable or raise an error say so at once.
        """
        stages = Counter(map(_figure, finished.failures))
        figures: dict[str, float] = dict(sorted(stages.items()))
        if self.faults is not None and self.faults.deadline is not None:
            heard = [f.device for f in finished.failures if f.stage == "reply"]
            came = np.array([*finished.arrived.tolist(), *heard], np.int64)
            last = max(self._seconds(self.faults, came, finished.period).values(), default=0.0)
            closed = any(failure.stage in WAITED_FOR for failure in finished.failures)
            figures["faults/simulated_seconds"] = self.faults.deadline if closed else last
        return figures

    def _under(
        self, faults: Faults, grid: Grid, messages: Iterable[Message], round: int, period: int
    ) -> Iterator[Message]:
        """What each device is up to is known before it is asked, its reply alone is not."""
        addressed = {m.metadata.dst_node_id: m for m in messages}
        fates = {d: faults.fate(self.seed, round=round, device=d) for d in addressed}
        asked = []
        for device, message in addressed.items():
            if fates[device] == "unavailable":
                yield _failed(message, NODE_UNAVAILABLE, "the device was unavailable")
            elif fates[device] == "error":
                yield _failed(message, RAISED, "the device raised an error")
            else:
                asked.append(message)
        seconds = self._seconds(faults, np.array([*addressed], np.int64), period)
        for reply in grid.send_and_receive(asked):
            device = reply.metadata.src_node_id
            if reply.has_error():
                yield reply
            elif fates[device] == "dropout":
                lost = "the device dropped out after training"
                yield _failed(addressed[device], DROPPED_OUT, lost)
            elif faults.deadline is not None and seconds[device] > faults.deadline:
                late = (
                    f"the reply came after {seconds[device]:.3g} s, the round closed "
                    f"after {faults.deadline:g} s"
                )
                yield _failed(addressed[device], LATE, late)
            else:
                yield _spoiled(reply, fates[device])

    def _seconds(self, faults: Faults, devices: np.ndarray, period: int) -> dict[int, float]:
        """How long each device trains by the simulated clock; nothing without a deadline."""
        if faults.deadline is None:
            return {}
        examples = self.people.activity(period)[devices]
        if hasattr(self.client, "examples_served"):
            examples = self.client.examples_served(examples)
        seconds = faults.seconds(self.seed, devices, examples)
        return dict(zip(devices.tolist(), seconds.tolist(), strict=True))


def _require_own_noise(messages: list[Message], round: int, period: int) -> None:
    """Refuse messages that would let devices draw coins and noise twice, or be charged too little.

    Both are drawn from the round in the message, and what is trained on follows from the period.
    """
    times = Counter(m.metadata.dst_node_id for m in messages)
    twice = [device for device, count in times.items() if count > 1]
    require(
        not twice,
        f"the strategy addressed device {min(twice, default=0)} twice in round {round}, and both "
        "replies would have the same noise; address a device that protects its examples once",
    )
    for message in messages:
        told: dict[str, Any] = {}
        for record in records(message.content, ConfigRecord).values():
            told |= record
        said = told.get("server-round"), told.get("period")
        require(
            said == (round, period),
            f"the strategy sent server-round {said[0]} and period {said[1]} in round {round} and "
            f"period {period}, from which devices that protect their examples draw their noise; "
            "send on the config that configure_train is given, with the round as 'server-round'",
        )


def _charged(
    example: ExamplePrivacy, messages: list[Message], period: int
) -> tuple[list[Message], list[Message]]:
    """Messages to devices that take part, charged for it, and the replies of those that refuse."""
    refused = example.charge([m.metadata.dst_node_id for m in messages], period)
    spent = Error(code=REFUSAL, reason="the device has taken part as often as its privacy allows")
    return (
        [m for m in messages if m.metadata.dst_node_id not in refused],
        [Message(spent, reply_to=m) for m in messages if m.metadata.dst_node_id in refused],
    )


def _failed(message: Message, code: int, reason: str) -> Message:
    """The reply of a device that a simulated fault has befallen."""
    return Message(Error(code=code, reason=f"{SIMULATED}{reason}"), reply_to=message)


def _figure(failure: Failure) -> str:
    """The figure that counts a failure."""
    return f"{'faults' if failure.error.startswith(SIMULATED) else 'failures'}/{failure.stage}"


def _spoiled(reply: Message, fate: str | None) -> Message:
    """The reply of a device whose parameters turned into NaN or exploded."""
    factor = {"nan": np.nan, "exploding": EXPLODED}.get(fate or "")
    if factor is None:
        return reply
    content = Content(dict(reply.content))
    for key, arrays in records(reply.content, ArrayRecord).items():
        # New records of new arrays: an app may reply with the very ones of the global model.
        spoiled = {name: _times(array, factor) for name, array in arrays.items()}
        content[key] = filled(ArrayRecord, spoiled)
    reply.content = content
    return reply


def _times(array: Array, factor: float) -> Array:
    """An array that was fit for use, spoiled; what cannot be read or multiplied, or is not finite,
    is refused as it is, which is the device's own failure."""
    with suppress(Exception), np.errstate(over="ignore"):
        values = seen(array)
        if np.isfinite(values).all():
            return SpoiledArray(values * factor)
    return array
