"""One round: plan, send, collect, aggregate.

The four methods of a Flower strategy are called here and nowhere else, so that what goes in and
comes out of them is the same under every engine.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from flwr.app import ConfigRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedsim.engine.cohort import CohortGrid
from fedsim.engine.exchange import Exchange
from fedsim.engine.flower import to_parameters, to_record
from fedsim.engine.replies import collect
from fedsim.models.joint import Parameters
from fedsim.plan import SERVER, Failure, FinishedRound
from fedsim.population import Population
from fedsim.rng import seeded_globals
from fedsim.schedule import Schedule
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
        arrays, config = to_record(parameters), ConfigRecord({"period": period})
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
        )
        arrived = np.array([r.metadata.src_node_id for r in replies.valid], np.int64)
        failures = list(replies.failures)
        with seeded_globals(self.seed, "aggregate", round):
            record, _ = self.strategy.aggregate_train(round, replies.heard)
        if record is not None:
            new = to_parameters(record, like=parameters)
            if all(bool(p.isfinite().all()) for p in new.values()):
                parameters = new
            else:
                error = "the aggregate is not finite; the model stays as it was"
                failures.append(Failure(SERVER, "aggregate", error))
        with seeded_globals(self.seed, "evaluate", round):
            evaluated = self._evaluate(round, grid, parameters)
        return FinishedRound(
            round=round,
            period=period,
            last=round == self.last,
            plan=plan,
            cohort=asked,
            arrived=arrived,
            examples=int(activity[asked].sum()),
            failures=tuple(failures),
            train_loss=replies.train_loss,
            parameters=parameters,
            evaluated=evaluated,
            score=partial(self.scorer, parameters),
            score_dev=partial(self.dev_scorer, parameters),
        )

    def _evaluate(self, round: int, grid, parameters: Parameters) -> dict[str, float]:
        """What a strategy that evaluates on devices found; Selective asks nobody."""
        config = ConfigRecord({"period": self.schedule.period(round)})
        messages = list(
            self.strategy.configure_evaluate(round, to_record(parameters), config, grid)
        )
        replies = collect(
            grid.send_and_receive(messages),
            [m.metadata.dst_node_id for m in messages],
            needs=getattr(self.strategy, "weighted_by_key", None),
        ).heard
        metrics = self.strategy.aggregate_evaluate(round, replies) if replies else None
        return {f"evaluate/{key}": value for key, value in (metrics or {}).items()}  # type: ignore[misc]
