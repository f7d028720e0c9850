"""What do the privacy options of a run ask for?"""

from typing import TYPE_CHECKING

from fedsim.errors import require

if TYPE_CHECKING:
    from experiments.options import RunOptions
    from fedsim.privacy.release import DeviceLevel

NOISE_MULTIPLIER = 1.0
"""Where neither a noise multiplier nor a target epsilon is given."""

_DEVICE = ("weight_cap", "denominator", "example_cap")
_ANY = ("noise_multiplier", "epsilon", "delta")


def device_level_of(options: "RunOptions") -> "DeviceLevel | None":
    """Device-level privacy, or None without it.

    Raises:
      ConfigError: an option of a privacy that was not asked for, or values that cannot be.
    """
    if options.dp == "none":
        for name in (*_ANY, *_DEVICE):
            value = getattr(options, name)
            require(
                value is None,
                f"{name.replace('_', '-')} is {value}, which has no effect without privacy; add "
                "--dp device",
            )
        require(
            options.clip_norm == 1.0 and options.adjacency == "zero-out",
            f"clip-norm is {options.clip_norm:g} and adjacency {options.adjacency}, which have no "
            "effect without privacy; add --dp device",
        )
        require(not options.secure_noise, "secure-noise has no effect without noise; add --dp")
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
        secure_noise=options.secure_noise,
    )
