"""Which of Flower's nodes hosts a device, and how does a message get there and back?

Strategies see device ids as node ids, under every engine. Flower's runtime has nodes of its own: a
few processes with random ids, each of which hosts a part of the devices. `NodeGrid` stands between
the two: it asks every node which part it hosts, sends each message to the node of its device, and
hands the reply on as the device's.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from fedsim.engine.flower import NODE_UNAVAILABLE, DeviceGrid
from fedsim.errors import ConfigError, require
from fedsim.population import Population

log = logging.getLogger(__name__)

HOSTED = "hosted"
"""The query a node answers with the part it hosts, and name of the record that says so."""

UNFIT = 0
"""Code of a node's own error reply to that query; Flower's errors have others."""

POLL = 0.1
"""Seconds between looks for replies, as in Flower's own loops."""

PATIENCE = 120.0
"""Seconds that nodes have to connect and to read the corpus at the start, to answer later, or to
come back where all of them are lost."""

_ANOTHER = (
    "a node hosts devices of another population than the server's; "
    "give both the same data (--data, $FEDSIM_DATA) and the same version of fedsim"
)


def part(devices: int, index: int, parts: int) -> range:
    """Devices of one part of a population, equal but for one device.

    Example:
      >>> [list(part(5, index, 2)) for index in (0, 1)]
      [[0, 1], [2, 3, 4]]
    """
    return range(index * devices // parts, (index + 1) * devices // parts)


def hosted(devices: int, fingerprint: str, node_config: Any) -> ConfigRecord:
    """A node's answer: which devices it hosts, and of which population.

    Args:
      devices: of the whole population.
      fingerprint: of the node's population, cut into periods.
      node_config: `partition-id` and `num-partitions`.

    Raises:
      ConfigError: the node was not told its part.
    """
    index, parts = (node_config.get(key) for key in ("partition-id", "num-partitions"))
    require(
        isinstance(index, int) and isinstance(parts, int) and 0 <= index < parts,
        f"a node's part is partition-id={index} of num-partitions={parts}; start it with "
        "--node-config 'partition-id=K num-partitions=N', K from 0 to N - 1",
    )
    own = part(devices, index, parts)
    return ConfigRecord({"start": own.start, "stop": own.stop, "fingerprint": fingerprint})


class NodeGrid(DeviceGrid):
    """A Flower grid whose nodes are devices, over one whose nodes each host a part of them.

    Nodes may come and go: new ones are asked what they host, before each round and while it waits
    for replies, and take part in the next round after their answer. No round waits for that, unless
    there is no node at all: then it waits for one, so that a run does not rush through its rounds.
    A node that fails to answer is asked again, one of another population is not. To Flower a node
    that was restarted is another one, beside which it lists the lost one for up to a minute; so of
    two that host a device, the one that answered last is sent its messages.

    Args:
      grid: of Flower's runtime.
      people: cut into the periods of the run; nodes must have read the same.
      patience: seconds that nodes have to connect and to read the corpus, at the start and
        whenever all of them are lost.

    Raises:
      ConfigError: a node cannot host its part, or some part has no node when patience ends.
    """

    def __init__(self, grid: Grid, people: Population, patience: float = PATIENCE) -> None:
        self._grid = grid
        self._devices = people.devices
        self._fingerprint = people.fingerprint
        self._patience = patience
        self._parts: dict[int, range] = {}
        self._refused: set[int] = set()
        self._asked: dict[str, int] = {}
        self._told: set[str] = set()
        self._waiting: dict[str, Message] = {}
        self._wait_for_nodes()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages to devices; replies as they come in.

        A device that no node hosts is unavailable, which is said at once. For a node that is lost
        with its messages Flower says so, after it has missed its heartbeats: up to a minute.
        """
        messages = list(messages)
        if not messages:
            return []
        end = time.monotonic() + self._patience
        self._look_for_nodes()
        while not self._parts and time.monotonic() < end:
            time.sleep(POLL)
            self._look_for_nodes()
        sent = self._push(messages)
        reached = {message.metadata.dst_node_id for message in sent.values()}
        nowhere = Error(code=NODE_UNAVAILABLE, reason="no node hosts the device")
        unsent = [m for m in messages if m.metadata.dst_node_id not in reached]
        refusals = [Message(nowhere, reply_to=message) for message in unsent]
        return chain(refusals, self._replies(sent, timeout))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages to devices; ids of those that have a node, in no order."""
        return list(self._push(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that are there, as those of devices; each is handed out once."""
        asked = [key for key in message_ids if key in self._waiting]
        replies = []
        for reply in self._grid.pull_messages(asked) if asked else []:
            message = self._waiting.pop(reply.metadata.reply_to_message_id, None)
            if message is not None:
                said = reply.error if reply.has_error() else reply.content
                replies.append(Message(said, reply_to=message))
        return replies

    def get_node_ids(self) -> Iterable[int]:
        """All device ids."""
        return range(self._devices)

    def set_run(self, run) -> None:
        """The runtime's."""
        self._grid.set_run(run)

    @property
    def run(self):
        """The runtime's."""
        return self._grid.run

    def _push(self, messages: Iterable[Message]) -> dict[str, Message]:
        """Send messages to devices; those that have a node, by id."""
        addressed = [
            (message, node)
            for message in messages
            if (node := self._node(message.metadata.dst_node_id)) is not None
        ]
        shells = [_to_node(message, node) for message, node in addressed]
        accepted = set(self._grid.push_messages(shells)) if shells else set()
        sent = {
            shell.metadata.message_id: message
            for shell, (message, _) in zip(shells, addressed, strict=True)
            if shell.metadata.message_id in accepted
        }
        self._waiting |= sent
        return sent

    def _replies(self, ids: Iterable[str], timeout: float | None) -> Iterator[Message]:
        end = None if timeout is None else time.monotonic() + timeout
        waiting = set(ids)
        while waiting:
            yield from self.pull_messages(waiting)
            waiting &= self._waiting.keys()
            if end is not None and time.monotonic() > end:
                return
            if waiting:
                self._look_for_nodes()
                time.sleep(POLL)

    def _look_for_nodes(self) -> None:
        """See which nodes have come or gone; a reason why one hosts nothing is logged once."""
        for reason in {str(error) for error in self._ask_new_nodes()} - self._told:
            log.warning("%s", reason)
            self._told.add(reason)

    def _wait_for_nodes(self) -> None:
        """Return when every device has a node."""
        end = time.monotonic() + self._patience
        failed = ""
        while True:
            for error in self._ask_new_nodes():
                if isinstance(error, ConfigError):
                    raise error
                failed = f" ({error})"
            missing = self._missing()
            if not missing:
                return
            if time.monotonic() >= end:
                raise ConfigError(
                    f"{missing} of {self._devices} devices have no node after {self._patience:g} s"
                    f"{failed}; start a SuperNode for each part, with --node-config "
                    "'partition-id=K num-partitions=N'"
                )
            time.sleep(POLL)

    def _node(self, device: int) -> int | None:
        """The node that hosts a device; of several, the one that answered last."""
        return next((node for node, own in reversed(self._parts.items()) if device in own), None)

    def _missing(self) -> int:
        """Devices without a node."""
        reached = 0
        missing = 0
        for own in sorted(self._parts.values(), key=lambda own: own.start):
            missing += max(0, own.start - reached)
            reached = max(reached, own.stop)
        return missing + max(0, self._devices - reached)

    def _ask_new_nodes(self) -> list[Exception]:
        """Forget nodes that are gone, ask new ones what they host, and hear who has answered.

        Returns:
          Why nodes that answered host nothing: a ConfigError where a person has to do something.
        """
        present = set(self._grid.get_node_ids())
        self._parts = {node: own for node, own in self._parts.items() if node in present}
        self._asked = {key: node for key, node in self._asked.items() if node in present}
        self._refused &= present
        new = present - self._parts.keys() - self._refused - set(self._asked.values())
        # One that is lost on the way ends as an error, and is asked again.
        questions = [Message(RecordDict(), n, f"query.{HOSTED}", ttl=PATIENCE) for n in sorted(new)]
        accepted = set(self._grid.push_messages(questions)) if questions else set()
        sent = {q.metadata.message_id: q.metadata.dst_node_id for q in questions}
        self._asked |= {key: node for key, node in sent.items() if key in accepted}
        errors: list[Exception] = []
        for reply in self._grid.pull_messages(list(self._asked)) if self._asked else []:
            node = self._asked.pop(reply.metadata.reply_to_message_id)
            if reply.has_error():
                reason = f"a node cannot host devices: {reply.error.reason}"
                own = reply.error.code == UNFIT
                errors.append(ConfigError(reason) if own else ConnectionError(reason))
                continue
            said = reply.content.config_records[HOSTED]
            if said["fingerprint"] == self._fingerprint:
                self._parts[node] = range(int(said["start"]), int(said["stop"]))  # type: ignore[arg-type]
            else:
                self._refused.add(node)
                errors.append(ConfigError(_ANOTHER))
        return errors


def _to_node(message: Message, node: int) -> Message:
    """A message to a device as one to its node.

    All messages of a round share one content, so each gets a shell of its own around the same
    arrays, and a config record that says which device it is for.
    """
    content = RecordDict()
    own: dict[str, Any] = {"device": message.metadata.dst_node_id}
    for name, record in message.content.items():
        if isinstance(record, ConfigRecord):
            own |= record
        else:
            content[name] = record
    content["config"] = ConfigRecord(own)
    metadata = message.metadata
    return Message(
        content, node, metadata.message_type, ttl=metadata.ttl, group_id=metadata.group_id
    )
