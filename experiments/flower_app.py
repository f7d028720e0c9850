"""What runs on Flower's own runtime: two apps that know a run by its options.

`flwr run` hands both apps a run config; from it each process rebuilds the same simulation. The
server runs the round loop and scores, nodes train the devices they host.

A run config holds text, numbers and truth values but no None: there, an empty text stands for an
option that is not given.
"""

import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, get_type_hints

import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from clients import app
from experiments.arguments import option_value
from experiments.command_line import show
from experiments.options import ENGINE, RunOptions
from experiments.recipe import build
from fedsim.engine.flower import reason
from fedsim.engine.nodes import HOSTED, UNFIT, hosted
from fedsim.errors import ConfigError, did_you_mean, require
from fedsim.population import Population

PLACES = ("out", "data", "labels")
"""Keys that hold paths, which Flower's processes would look up from folders of their own."""

server_app = ServerApp()
client_app = ClientApp()


def options_of(run_config: Mapping[str, Any]) -> tuple[RunOptions, Path | None]:
    """The options and the output folder that a run config names.

    Raises:
      ConfigError: an unknown key, a value of the wrong kind, or a path that is not absolute.

    Example:
      >>> options, out = options_of({"local-epochs": 2, "devices": "", "out": "/runs/a"})
      >>> options.local_epochs, options.devices, options.engine, str(out)
      (2, None, 'flower', '/runs/a')
      >>> options_of({"local-epoch": 2})
      Traceback (most recent call last):
      fedsim.errors.ConfigError: unknown run-config key 'local-epoch' (did you mean
      'local-epochs'?); the keys are the options of fedsim run
    """
    hints = get_type_hints(RunOptions)
    known = {name.replace("_", "-"): name for name in hints if name not in ENGINE}
    given = {key: value for key, value in run_config.items() if value != ""}
    for key, value in run_config.items():
        require(
            key in known or key == "out",
            f"unknown run-config key {key!r}{did_you_mean(key, [*known, 'out'])}; "
            "the keys are the options of fedsim run",
        )
        require(
            key not in PLACES or value == "" or Path(str(value)).is_absolute(),
            f"{key} is {value!r}, which Flower's processes would look up from folders of their "
            "own; write an absolute path",
        )
    out = given.pop("out", None)
    values = {
        known[key]: option_value(key, value, hints[known[key]]) for key, value in given.items()
    }
    return RunOptions(**values, engine="flower"), None if out is None else Path(str(out))


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the simulation on the nodes of a grid; goes on where the run in `out` stopped."""
    try:
        options, out = options_of(context.run_config)
        recipe = asdict(options)
        show(build(options).run(out, resume=True, recipe=recipe, progress=False, grid=grid))
    except ConfigError:
        # Flower fails a run by an exception alone, and shows it with the way it came, of which a
        # refusal needs nothing. This process serves one run, and ends with it.
        sys.tracebacklimit = 0
        raise


@client_app.query(HOSTED)
def part(message: Message, context: Context) -> Message:
    """Which devices this node hosts."""
    try:
        people, _ = _node(options_of(context.run_config)[0])
        answer = hosted(people.devices, people.fingerprint, context.node_config)
    except ConfigError as error:
        return Message(Error(code=UNFIT, reason=str(error)), reply_to=message)
    return Message(RecordDict({HOSTED: answer}), reply_to=message)


@client_app.train()
@client_app.evaluate()
@client_app.query()
def device(message: Message, context: Context) -> Message:
    """What the device that a message names does with it; what it raises becomes an error reply."""
    try:
        _, train = _node(options_of(context.run_config)[0])
        return train(message, context)
    except Exception as error:
        return Message(Error(code=0, reason=reason(error)), reply_to=message)


@lru_cache(maxsize=1)
def _node(options: RunOptions) -> tuple[Population, ClientApp]:
    """The population and the devices' app, once a process."""
    # As the threads of the local engine: more of them would sum in another order.
    torch.set_num_threads(1)
    # The server alone shows the run elsewhere.
    simulation = build(replace(options, tracker=None))
    schedule = simulation.schedule
    people = simulation.population.cut(schedule.periods, schedule.by, schedule.retention)
    return people, app(simulation.client.bind(people, simulation.model, simulation.seed))
