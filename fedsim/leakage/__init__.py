"""What really leaks: panels of people under fair coins, attacks on models, audits of claims."""

from fedsim.leakage.canaries import Canaries, CanaryClient, canary_panel
from fedsim.leakage.panel import Panel
from fedsim.leakage.panels import device_panel, example_panel
from fedsim.leakage.probe import Leakage

__all__ = [
    "Canaries",
    "CanaryClient",
    "Leakage",
    "Panel",
    "canary_panel",
    "device_panel",
    "example_panel",
]
