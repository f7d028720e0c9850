"""What does a run cost in privacy, for whom, and how much noise keeps it within a budget?

Events say what a mechanism did (`Gaussian`, `NonPrivate`); `epsilon`, `delta_at` and `renyi_bound`
price them. `DeviceLedger` and `ExampleLedger` keep the account of every device over rounds and
periods, and `FilteredLedger` holds every device within a budget where rates or noise follow what
was released; `device_level_noise` and `ExampleLevel.calibrated` find the noise for a target
epsilon.

Sharp edges. Every claim is about the models of one run with secret randomness; losses, cohort
sizes, failures, test metrics and attack figures in the record are outside it. Epsilons of
different units (device, example) or relations (zero-out, replace-one) cannot be compared.
"""

from fedsim.privacy.accounting import delta_at, epsilon, renyi_bound
from fedsim.privacy.calibration import device_level_noise, noise_multiplier_for
from fedsim.privacy.clipping import Automatic, Flat, PerLayer
from fedsim.privacy.device_ledger import DeviceLedger
from fedsim.privacy.device_sum import DeviceSum
from fedsim.privacy.events import (
    MICRO_BATCHES,
    Event,
    Gaussian,
    NonPrivate,
    layer_wise,
    noise_beside_clip_bit,
    rounded,
)
from fedsim.privacy.example_ledger import ExampleLedger
from fedsim.privacy.example_level import ExampleLevel, LocalSteps
from fedsim.privacy.filtered_ledger import FilteredLedger
from fedsim.privacy.noise_decay import NoiseDecay

__all__ = [
    "MICRO_BATCHES",
    "Automatic",
    "DeviceLedger",
    "DeviceSum",
    "Event",
    "ExampleLedger",
    "ExampleLevel",
    "FilteredLedger",
    "Flat",
    "Gaussian",
    "LocalSteps",
    "NoiseDecay",
    "NonPrivate",
    "PerLayer",
    "delta_at",
    "device_level_noise",
    "epsilon",
    "layer_wise",
    "noise_beside_clip_bit",
    "noise_multiplier_for",
    "renyi_bound",
    "rounded",
]
