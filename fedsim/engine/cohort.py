"""What a Flower strategy sees of a round: a grid that holds just the cohort, with its plan."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from flwr.app import Message
from flwr.serverapp import Grid

from fedsim.engine.flower import DeviceGrid
from fedsim.errors import ConfigError
from fedsim.plan import Plan


class CohortGrid(DeviceGrid):
    """A view of an engine's grid whose nodes are the devices of one plan.

    Args:
      grid: the engine's grid; node ids are device ids.
      plan: the round.
    """

    def __init__(self, grid: Grid, plan: Plan) -> None:
        self.plan = plan
        self._grid = grid
        self._nodes = plan.cohort.tolist()
        self._phantoms = 0

    @contextmanager
    def padded(self, minimum: int) -> Iterator[None]:
        """Show at least `minimum` nodes meanwhile.

        Flower waits for ever where fewer nodes exist than a strategy's `min_*`; cohorts of none and
        one are ordinary here. Phantoms have negative ids; `real` drops messages to them.
        """
        self._phantoms = max(0, minimum - len(self._nodes))
        try:
            yield
        finally:
            self._phantoms = 0

    def real(self, messages: Iterable[Message]) -> list[Message]:
        """Messages to the cohort.

        Raises:
          ConfigError: the strategy did not address exactly the cohort.
        """
        kept = [m for m in messages if m.metadata.dst_node_id >= 0]
        addressed = sorted(m.metadata.dst_node_id for m in kept)
        if addressed != self._nodes:
            raise ConfigError(
                f"the strategy addressed {len(addressed)} devices, but the cohort of round "
                f"{self.plan.round} has {len(self._nodes)}; a strategy inside Selective must train "
                "every node it is shown, once"
            )
        return kept

    def get_node_ids(self) -> Iterable[int]:
        """Devices of the cohort, and phantoms inside `padded`."""
        return [*self._nodes, *range(-self._phantoms, 0)]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Through the engine's grid."""
        return self._grid.send_and_receive(messages, timeout=timeout)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Through the engine's grid."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Through the engine's grid."""
        return self._grid.pull_messages(message_ids)

    def set_run(self, run) -> None:
        """Through the engine's grid."""
        self._grid.set_run(run)

    @property
    def run(self):
        """The engine's."""
        return self._grid.run
