"""fedsim simulates privacy-preserving federated learning for natural-language understanding.

Names are resolved on first use, so that importing one room does not import the others.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedsim.errors import ConfigError
    from fedsim.faults import Faults
    from fedsim.population import Population
    from fedsim.record import Run, compare, load_run
    from fedsim.schedule import Continual, Static
    from fedsim.simulation import Simulation

__version__ = "0.1.0"

_HOMES = {
    "ConfigError": "fedsim.errors",
    "Continual": "fedsim.schedule",
    "Faults": "fedsim.faults",
    "Population": "fedsim.population",
    "Run": "fedsim.record",
    "Simulation": "fedsim.simulation",
    "Static": "fedsim.schedule",
    "compare": "fedsim.record",
    "load_run": "fedsim.record",
}

__all__ = [
    "ConfigError",
    "Continual",
    "Faults",
    "Population",
    "Run",
    "Simulation",
    "Static",
    "compare",
    "load_run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fedsim' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
