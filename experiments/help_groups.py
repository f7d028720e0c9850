"""Under which headings does `fedsim run --help` show its many options?

Parsing knows no headings; only help is asked for with these types.
"""

from dataclasses import field, fields, make_dataclass
from inspect import getdoc
from typing import Any, get_type_hints

import tyro

from experiments.commands import RunCommand
from experiments.run_options import RunOptions

HEADINGS: dict[str, tuple[str, str]] = {
    "corpus": ("data", "Who has said what, and on which device it lies."),
    "model": ("model", "What is trained."),
    "setting": ("schedule", "How long, and what devices hold meanwhile."),
    "cohort": ("selection", "Which devices take part in a round, and what each weighs."),
    "strategy": ("training", "What the server and a device do in a round."),
    "dp": ("privacy", "What is protected, by how much noise, and what it may cost."),
    "leakage": ("attack", "What leaks all the same."),
    "evaluate_every": ("measurement", "What is written down, and how often."),
    "faults": ("execution", "Where and how it runs, and where the record goes."),
}
"""The first option under each heading, the heading, and what its options are about."""


def grouped_help() -> Any:
    """A type whose `--help` has the options of `fedsim run`, each under its heading, in order.

    Example:
      >>> import contextlib
      >>> with contextlib.suppress(SystemExit):
      ...     tyro.cli(grouped_help(), prog="fedsim run", args=["--help"])
      usage: fedsim run ...data options...privacy options...
    """
    hints = get_type_hints(RunCommand)
    said = "\n".join(_attributes(kind) for kind in (RunOptions, RunCommand))
    groups: dict[str, list[Any]] = {}
    for option in fields(RunCommand):
        if option.name in HEADINGS:
            heading, _ = HEADINGS[option.name]
            groups[heading] = []
        shown = (option.name, hints[option.name], field(default=option.default))
        groups[heading].append(shown)
    abouts = dict(HEADINGS.values())
    parts: list[Any] = []
    for name, options in groups.items():
        part = make_dataclass(name, options)
        part.__doc__ = f"{abouts[name]}\n\nAttributes:\n{said}"
        parts.append((name, part, field(default_factory=part)))
    whole = make_dataclass("Help", parts)
    whole.__doc__ = (getdoc(RunCommand) or "").partition("\n")[0]
    return tyro.conf.OmitArgPrefixes[whole]  # type: ignore[misc, valid-type]


def _attributes(kind: type) -> str:
    """The lines of a docstring that describe its fields."""
    return (getdoc(kind) or "").partition("Attributes:\n")[2]
