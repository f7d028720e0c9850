"""A Flower runtime in memory: nodes behind a wire on which messages travel as bytes."""

from collections.abc import Iterable

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

NODES = (2**63 + 11, 2**62 + 7, 2**61 + 5)
"""Ids as random and as large as Flower's."""


def over_the_wire(message: Message) -> Message:
    """What arrives of a message, through Flower's own bytes."""
    content = {key: each.deflate() for key, each in get_all_nested_objects(message).items()}
    arrived = inflate_object_from_contents(message.object_id, content)
    arrived.metadata.__dict__["_message_id"] = message.metadata.message_id
    return arrived


class Wire(Grid):
    """Nodes that each host a part of the devices, replies waiting until they are pulled.

    Args:
      app: what every node does with a message.
      run_config: which it is told.
      nodes: their ids; the k-th is started as part k.

    Attributes:
      gone: nodes that are not listed any more and take no messages.
      failing: nodes whose replies are Flower's errors, as after missed heartbeats.
      mute: nodes that take messages and answer them when they are mute no more.
      pushed: (node, message type, device) of every message, in order.
    """

    def __init__(self, app: ClientApp, run_config: dict, nodes: Iterable[int] = NODES) -> None:
        nodes = list(nodes)
        self._app = app
        self._run_config = run_config
        self._parts = len(nodes)
        self._contexts: dict[int, Context] = {}
        for k, node in enumerate(nodes):
            self.join(node, k)
        self._replies: dict[str, Message] = {}
        self.gone: set[int] = set()
        self.failing: set[int] = set()
        self.mute: set[int] = set()
        self.pushed: list[tuple[int, str, int | None]] = []

    def join(self, node, k):
        """Start one more node, as part k."""
        self._contexts[node] = Context(
            run_id=0,
            node_id=node,
            node_config={"partition-id": k, "num-partitions": self._parts},
            state=RecordDict(),
            run_config=self._run_config,
        )

    def retell(self, node, run_config):
        """Tell a node another run config from now on."""
        self._contexts[node].run_config = run_config

    def get_node_ids(self):
        return [node for node in self._contexts if node not in self.gone]

    def push_messages(self, messages):
        accepted = []
        for message in messages:
            node, key = message.metadata.dst_node_id, f"m{len(self.pushed)}"
            message.metadata.__dict__["_message_id"] = key
            arrived = over_the_wire(message)
            device = arrived.content.config_records.get("config", {}).get("device")
            self.pushed.append((node, message.metadata.message_type, device))
            if node in self.gone:
                continue
            if node in self.failing:
                reply = Message(Error(code=4, reason="node unavailable"), reply_to=arrived)
            else:
                reply = self._app(arrived, self._contexts[node])
            self._replies[key] = over_the_wire(reply)
            accepted.append(key)
        return accepted

    def pull_messages(self, message_ids):
        # Last first: replies come in any order.
        asked = self._replies.keys() & set(message_ids)
        ready = sorted((k for k in asked if self._from(k) not in self.mute), reverse=True)
        return [self._replies.pop(key) for key in ready]

    def _from(self, key):
        return self.pushed[int(key[1:])][0]

    def send_and_receive(self, messages, *, timeout=None):
        return self.pull_messages(self.push_messages(messages))

    def set_run(self, run):
        raise NotImplementedError

    @property
    def run(self):
        raise NotImplementedError

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None):
        raise NotImplementedError
