"""What does a message ask a device to train, and what does its reply hold?

One place for every engine: the `ClientApp` of a device reads one order, the batched engine those of
a whole cohort.
"""

from typing import Any, NamedTuple

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedsim.engine.flower import filled, records, to_parameters, to_record
from fedsim.models.joint import Parameters
from fedsim.training.own_rows import whole
from fedsim.training.trainer import LocalResult
from fedsim.training.unread import Unread


class Order(NamedTuple):
    """What is to be trained.

    Attributes:
      parameters: of the global model.
      period: from 0.
      round: from 1; 0 where the message names none.
      proximal_mu: FedProx's proximal weight, or None where the server sends none.
    """

    parameters: Parameters
    period: int
    round: int
    proximal_mu: float | None

    @classmethod
    def of(cls, content: RecordDict) -> "Order":
        """The order that the content of a message holds: one array record, and a config record with
        `server-round`, `period` and FedProx's `proximal-mu`.
        """
        config = config_of(content)
        mu = config.get("proximal-mu")
        return cls(
            parameters=parameters_of(content),
            period=int(config.get("period", 0)),
            round=int(config.get("server-round", 0)),
            proximal_mu=None if mu is None else float(mu),
        )


def parameters_of(content: RecordDict) -> Parameters:
    """The parameters in the first array record."""
    return to_parameters(next(iter(records(content, ArrayRecord).values())))


def config_of(content: RecordDict) -> dict[str, Any]:
    """All config records as one."""
    return {
        key: value
        for record in records(content, ConfigRecord).values()
        for key, value in record.items()
    }


def reply_with(result: LocalResult, message: Message) -> Message:
    """The reply to an order.

    It holds one array record `arrays` and one metric record `metrics` with `num-examples`,
    `train_loss` and `seen` (real examples behind that loss).
    """
    figures = {"num-examples": result.examples, "train_loss": result.loss, "seen": result.seen}
    arrays = result.trained
    if result.examples == 0 and not isinstance(arrays, Unread):
        # A copy: some strategies write into replies, and these are the global model itself.
        arrays = {name: p.clone() for name, p in whole(arrays).items()}
    metrics = filled(MetricRecord, figures)
    content = filled(RecordDict, {"arrays": to_record(arrays), "metrics": metrics})
    return Message(content, reply_to=message)
