"""One round: plan, send, collect, aggregate.

The four methods of a Flower strategy are called here and nowhere else, so that what goes in and
comes out of them is the same under every engine.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedsim.engine.averaging import means_on
from fedsim.engine.cohort import CohortGrid
from fedsim.engine.exchange import Exchange
from fedsim.engine.flower import (
    filled,
    records,
    to_kept_record,
    to_parameters,
    unread_of,
)
from fedsim.engine.replies import Sent, collect
from fedsim.models.joint import Parameters
from fedsim.plan import SERVER, Failure, FinishedRound
from fedsim.population import Population
from fedsim.privacy.account import Account
from fedsim.probes import Observer
from fedsim.rng import seeded_globals
from fedsim.schedule import Schedule
from fedsim.state import set_back
from fedsim.training.scoring import Scorer


@dataclass(frozen=True, kw_only=True, eq=False)
class Round:
    """Everything that a round needs and that stays the same over rounds.

    Attributes:
      strategy: of the server; keeps its own state.
      schedule: says which period a round is in.
      last: the last round of the run.
      seed: the run's.
      people: cut into the periods of the run.
      grid: the engine's; node ids are device ids.
      exchange: sends messages through it, and what goes wrong on the way.
      scorer: scores parameters on the test set.
      dev_scorer: likewise on the dev set.
      account: the ledgers that strategy and devices are charged to.
      map: applies a function to items on the threads of this process.
      observers: look at the replies as they came in.
    """

    strategy: Strategy
    schedule: Schedule
    last: int
    seed: int
    people: Population
    grid: Grid
    exchange: Exchange
    scorer: Scorer
    dev_scorer: Scorer
    account: Account
    map: Callable[..., Iterable]
    observers: Sequence[Observer] = ()

    def __call__(self, round: int, parameters: Parameters) -> FinishedRound:
        """Train one round.

        Args:
          round: from 1.
          parameters: the global model.
        """
        period = self.schedule.period(round)
        activity = self.people.activity(period)
        plan, grid = None, self.grid
        if hasattr(self.strategy, "plan"):
            plan = self.strategy.plan(round, period, activity, self.seed)
            grid = CohortGrid(self.grid, plan)
        arrays, config = to_kept_record(parameters), ConfigRecord({"period": period})
        with seeded_globals(self.seed, "configure", round):
            messages = list(self.strategy.configure_train(round, arrays, config, grid))
        # Devices with the most work first, so that no worker waits for a late one.
        messages.sort(key=lambda m: (-activity[m.metadata.dst_node_id], m.metadata.dst_node_id))
        asked = np.array(sorted(m.metadata.dst_node_id for m in messages), np.int64)
        replies = collect(
            self.exchange.send_and_receive(grid, messages, round=round, period=period),
            asked.tolist(),
            parameters,
            # Selective writes the weights itself; a bare strategy reads them from the reply.
            needs=None if plan else getattr(self.strategy, "weighted_by_key", None),
            map=self.map,
        )
        arrived = np.array([r.metadata.src_node_id for r in replies.valid], np.int64)
        failures = list(replies.failures)
        first, last = self._looks(round, period, parameters, replies.valid)
        first()
        forget = set_back(self.strategy)
        with seeded_globals(self.seed, "aggregate", round), means_on(self.map):
            record, _ = self.strategy.aggregate_train(round, replies.heard)
        last()
        if record is not None:
            # As strict as with devices: a model they could not reply with is not sent to them.
            fault = Sent.of(parameters).fault(record)
            if fault is None:
                parameters = to_parameters(record, like=parameters)
            else:
                forget()
                error = f"{fault}; the model stays as it was"
                failures.append(Failure(SERVER, "aggregate", error))
        if hasattr(self.strategy, "released"):
            self.strategy.released(round, parameters)
        with seeded_globals(self.seed, "evaluate", round):
            evaluated, unheard = self._evaluate(round, grid, parameters)
        return FinishedRound(
            round=round,
            period=period,
            last=round == self.last,
            plan=plan,
            cohort=asked,
            arrived=arrived,
            examples=int(activity[asked].sum()),
            failures=(*failures, *unheard),
            train_loss=replies.train_loss,
            parameters=parameters,
            evaluated=evaluated,
            score=partial(self.scorer, parameters),
            score_dev=partial(self.dev_scorer, parameters),
            account=self.account,
            map=self.map,
        )

    def _looks(
        self, round: int, period: int, parameters: Parameters, replies: Sequence[Message]
    ) -> tuple[Callable[[], None], Callable[[], None]]:
        """What lets observers look at replies before they are aggregated, and what does afterwards.

        Observers are to change nothing. A strategy may write to replies, so they look before it
        does; but noise that was read by itself is drawn otherwise than for a mean, so they look at
        replies that lack theirs afterwards, as they were.
        """
        sent = {r.metadata.src_node_id: _arrays(r) for r in replies} if self.observers else {}
        said = {device: partial(to_parameters, own, parameters) for device, own in sent.items()}

        def look() -> None:
            for observer in self.observers:
                observer.observe(round, period, parameters, said)

        looks = look, lambda: None
        return looks[::-1] if any(map(unread_of, sent.values())) else looks

    def _evaluate(
        self, round: int, grid: Grid, parameters: Parameters
    ) -> tuple[dict[str, float], list[Failure]]:
        """What a strategy learns of evaluation on devices, and who failed; Selective asks none."""
        config = ConfigRecord({"period": self.schedule.period(round)})
        messages = list(
            self.strategy.configure_evaluate(round, to_kept_record(parameters), config, grid)
        )
        if not messages:
            return {}, []
        replies = collect(
            grid.send_and_receive(messages),
            [m.metadata.dst_node_id for m in messages],
            needs=getattr(self.strategy, "weighted_by_key", None),
        )
        failures = [failure._replace(stage="evaluate") for failure in replies.failures]
        heard = replies.heard
        metrics = self.strategy.aggregate_evaluate(round, heard) if heard else None
        return {f"evaluate/{key}": value for key, value in (metrics or {}).items()}, failures  # type: ignore[misc]


def _arrays(reply: Message) -> ArrayRecord:
    """What a reply that counts holds, whatever a strategy puts in its place."""
    return filled(ArrayRecord, dict(next(iter(records(reply.content, ArrayRecord).values()))))
