"""How is a run made whose private steps are those of eDP-SGD as published?

`RunOptions` speak of exact per-example clipping alone; these runs have the same options, and say in
their recipe that the mechanism is another. Noise falls epoch by epoch within a participation: a
device that makes one pass a round has nothing to let fall, so only central training has the decay.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from experiments.options import RunOptions
from fedsim.errors import require

if TYPE_CHECKING:
    from torch import Tensor

    from fedsim.privacy import ExampleLevel
    from fedsim.record import Run

Mechanism = Literal["exact", "edp-sgd"]
"""A private step: DP-SGD with per-example clipping, or eDP-SGD (`fedsim.privacy.edp_sgd`)."""


def central_privacy(
    private: "ExampleLevel",
    mechanism: Mechanism,
    parameters: Mapping[str, "Tensor"],
    steps_an_epoch: int,
) -> "ExampleLevel":
    """The privacy of central training under a mechanism.

    Args:
      private: clip norm and noise.
      mechanism: what a private step is.
      parameters: of the model.
      steps_an_epoch: steps after which the noise of eDP-SGD falls.

    Raises:
      ConfigError: eDP-SGD is asked for with a target epsilon.
    """
    if mechanism == "exact":
        return private
    from fedsim.privacy.edp_sgd import edp_sgd

    _check(private)
    return edp_sgd(private, parameters, steps_an_epoch=steps_an_epoch)


def run_published(options: RunOptions, path: Path) -> "Run":
    """Run a simulation whose devices take eDP-SGD's steps, at constant noise.

    Args:
      options: of a run with `dp="example"` and a noise multiplier.
      path: a new folder for the record.

    Raises:
      ConfigError: other privacy is asked for, or options that cannot be run.
    """
    from experiments.recipe import build
    from fedsim.privacy.edp_sgd import edp_sgd

    require(options.dp == "example", f"dp is {options.dp!r}, but eDP-SGD protects examples")
    simulation = build(options)
    private = simulation.client.privacy
    _check(private)
    parameters = dict(simulation.model.named_parameters())
    private = edp_sgd(private, parameters, steps_an_epoch=1, factor=1.0)
    edp = replace(simulation, client=replace(simulation.client, privacy=private))
    return edp.run(path, recipe=asdict(options) | {"mechanism": "edp-sgd"}, progress=False)


def _check(private: "ExampleLevel") -> None:
    require(
        private.epsilon is None,
        f"epsilon is {private.epsilon}, but runs of eDP-SGD are given their noise; choose "
        "noise_multiplier",
    )
