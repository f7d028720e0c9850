"""What really leaks: panels of people under fair coins, attacks on models, audits of claims."""

from fedsim.leakage.canaries import Canaries, CanaryClient, canary_panel
from fedsim.leakage.panel import Panel
from fedsim.leakage.panels import device_panel, example_panel
from fedsim.leakage.probe import Leakage
from fedsim.leakage.reference_attack import ReferenceAttack, reference_attack
from fedsim.leakage.update_attack import UpdateAttack

__all__ = [
    "Canaries",
    "CanaryClient",
    "Leakage",
    "Panel",
    "ReferenceAttack",
    "UpdateAttack",
    "canary_panel",
    "device_panel",
    "example_panel",
    "reference_attack",
]
