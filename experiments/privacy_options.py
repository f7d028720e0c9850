"""What do the privacy options of a run ask for?"""

from typing import TYPE_CHECKING

from fedsim.errors import require

if TYPE_CHECKING:
    from experiments.options import RunOptions
    from fedsim.privacy import ExampleLevel
    from fedsim.privacy.clipping import Clipping
    from fedsim.privacy.release import DeviceLevel

NOISE_MULTIPLIER = 1.0
"""Where neither a noise multiplier nor a target epsilon is given."""

CLIP_NORM = 1.0
"""Of an example's gradient, with --dp both."""

_DEVICE = (
    "weight_cap",
    "denominator",
    "example_cap",
    "smallest_rate",
    "device_budget",
    "run_budget",
)
_BOTH = ("example_noise_multiplier", "example_clip_norm")
_EXAMPLE = ("max_participations", "noise_decay")
_ANY = ("noise_multiplier", "epsilon", "delta")


def device_level_of(options: "RunOptions") -> "DeviceLevel | None":
    """Device-level privacy, or None without it.

    Raises:
      ConfigError: an option of a privacy that was not asked for, or values that cannot be.
    """
    _check(options)
    if options.dp not in ("device", "both"):
        return None
    from fedsim.privacy.release import DeviceLevel

    sigma = options.noise_multiplier
    if sigma is None and options.epsilon is None:
        sigma = NOISE_MULTIPLIER
    return DeviceLevel(
        clip_norm=options.clip_norm,
        noise_multiplier=sigma,
        epsilon=options.epsilon,
        delta=options.delta,
        adjacency=options.adjacency,
        weight_cap=options.weight_cap,
        denominator=options.denominator,
        example_cap=options.example_cap,
        smallest_rate=options.smallest_rate,
        device_budget=options.device_budget,
        run_budget=options.run_budget,
        secure_noise=options.secure_noise,
    )


def example_level_of(options: "RunOptions") -> "ExampleLevel | None":
    """Example-level privacy, or None without it.

    With --dp both the options of the noise are those that name the example; a target epsilon is
    then the devices'.

    Raises:
      ConfigError: an option of a privacy that was not asked for, or values that cannot be.
    """
    _check(options)
    if options.dp not in ("example", "both"):
        return None
    from fedsim.privacy import ExampleLevel, NoiseDecay
    from fedsim.privacy.release import AdaptiveClipping

    clip_norm, sigma, target = options.clip_norm, options.noise_multiplier, options.epsilon
    if options.dp == "both":
        clip_norm, sigma, target = CLIP_NORM, options.example_noise_multiplier, None
        if options.example_clip_norm is not None:
            clip_norm = options.example_clip_norm
    if sigma is None and target is None:
        sigma = NOISE_MULTIPLIER
    return ExampleLevel(
        clip_norm=clip_norm,
        noise_multiplier=sigma,
        epsilon=target,
        delta=options.delta,
        max_participations=options.max_participations,
        clipping=_clipping_of(options),
        adaptive=AdaptiveClipping() if options.clipping == "adaptive" else None,
        decay=NoiseDecay()
        if options.noise_decay is None
        else NoiseDecay.parse(options.noise_decay),
        secure_noise=options.secure_noise,
        precision=options.precision,
    )


def _clipping_of(options: "RunOptions") -> "Clipping":
    """How an example's gradient is clipped, to thresholds that wait for the model."""
    from fedsim.privacy import Automatic, Flat, PerLayer
    from fedsim.privacy.edp_sgd import MICRO_BATCH
    from fedsim.privacy.micro_batches import MicroBatches

    ways: dict[str, Clipping] = {
        "automatic": Automatic(),
        "per-layer": PerLayer(),
        "edp-sgd": MicroBatches(size=MICRO_BATCH, within=PerLayer()),
    }
    return ways.get(options.clipping, Flat())


def _check(options: "RunOptions") -> None:
    """Refuse options that the privacy asked for does not use."""
    without = {
        "none": ((*_ANY, *_EXAMPLE, *_DEVICE, *_BOTH), "add --dp example, device or both"),
        "device": ((*_EXAMPLE, *_BOTH), "choose --dp both"),
        "example": (
            (*_DEVICE, *_BOTH),
            "choose --dp both, or leave it out (--noise-multiplier and --clip-norm are the "
            "examples' here)",
        ),
        "both": ((), ""),
    }
    unused, remedy = without[options.dp]
    for name in unused:
        value = getattr(options, name)
        require(
            value is None,
            f"{name.replace('_', '-')} is {value}, which --dp {options.dp} does not use; {remedy}",
        )
    for name, usual in (("clipping", "flat"), ("dp_backend", "book-keeping")):
        value = getattr(options, name)
        require(
            value == usual or options.dp in ("example", "both"),
            f"{name.replace('_', '-')} is {value}, which --dp {options.dp} does not use: it is for "
            "the gradients of examples; choose --dp example or both",
        )
    require(
        options.adjacency == "zero-out" or options.dp in ("device", "both"),
        f"adjacency is {options.adjacency}, which --dp {options.dp} does not use; choose --dp "
        "device or both",
    )
    if options.dp == "none":
        require(
            options.clip_norm == 1.0,
            f"clip-norm is {options.clip_norm:g}, which --dp none does not use; {remedy}",
        )
        require(not options.secure_noise, f"secure-noise has no effect without noise; {remedy}")
