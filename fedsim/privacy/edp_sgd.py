"""What does eDP-SGD cost, as published, and what would a naive reading of it claim?

Dupuy, Arava, Gupta & Rumshisky, "An efficient DP-SGD mechanism for large scale NLU models", ICASSP
2022, https://arxiv.org/abs/2107.14586: DP-SGD at the speed of ordinary training on GPUs, part of
the tuning automated. Known of the method, from its abstract and from a summary: one clipped
gradient a micro-batch, a clip scale for each layer, and noise that decays epoch by epoch.

The rest is reconstruction: that a record finds its micro-batch by a hash of its own (batches cut in
a row would let one record move all micro-batches after it), that thresholds are in proportion to
the root of a layer's size, hence follow from the clip norm and public shapes alone, that noise
falls geometrically, and the default numbers. How the paper tunes itself beyond that is not known
here, and nothing stands in for it.

It is a baseline: `fedsim.training.DPSGD` clips every example by itself at about the same speed.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from fedsim.privacy.clipping import Flat, PerLayer
from fedsim.privacy.example_level import ExampleLevel
from fedsim.privacy.micro_batches import MicroBatches
from fedsim.privacy.noise_decay import NoiseDecay

if TYPE_CHECKING:
    from torch import Tensor

MICRO_BATCH = 4
"""Expected examples of a micro-batch where no number is given."""


def edp_sgd(
    private: ExampleLevel,
    parameters: Mapping[str, "Tensor"],
    *,
    steps_an_epoch: int,
    micro_batch: int = MICRO_BATCH,
    factor: float = 0.9,
) -> ExampleLevel:
    """Example-level DP with the mechanism of eDP-SGD, priced at what it costs.

    The sensitivity is 2 C: a zeroed record replaces one clipped mean by another, and the layers'
    thresholds are jointly C. Each step is composed at its own noise.

    Args:
      private: clip norm, noise or target epsilon, delta.
      parameters: of the model, for the sizes of its layers.
      steps_an_epoch: steps after which the noise falls.
      micro_batch: expected examples of a micro-batch.
      factor: what the noise is multiplied by.

    Example:
      >>> import torch
      >>> from fedsim.privacy import LocalSteps, epsilon
      >>> plain = ExampleLevel(clip_norm=1.0, noise_multiplier=1.0, delta=1e-5)
      >>> shapes = {"embedding": torch.empty(100, 4), "intent_weight": torch.empty(9, 4)}
      >>> edp = edp_sgd(plain, shapes, steps_an_epoch=100, factor=1.0)
      >>> steps = LocalSteps(batch_size=10, local_steps=1000)
      >>> claims = edp, naive_reading(edp)
      >>> [round(epsilon(each.participation(1000, steps), 1e-5), 1) for each in claims]
      [13.4, 1.8]
    """
    return replace(
        private,
        clipping=MicroBatches(size=micro_batch, within=PerLayer.by_size(parameters)),
        decay=NoiseDecay(factor=factor, every=steps_an_epoch),
    )


def naive_reading(private: ExampleLevel) -> ExampleLevel:
    """What would be claimed if each example were clipped by itself, at the first step's noise.

    To be shown beside the honest figure, and labelled: it is not a bound on anything.
    """
    return replace(private, clipping=Flat(), decay=NoiseDecay())
