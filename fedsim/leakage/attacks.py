"""How strongly do a model's losses suggest that it was trained on an example?

Every attack turns losses into scores, higher where it believes in membership. Cheapest first:

- `by_loss`: a low loss (Yeom et al., CSF 2018, https://arxiv.org/abs/1709.01604).
- `by_reference`: a loss lower than a reference model's, which takes out how hard the example is
  (Watson et al., ICLR 2022, https://arxiv.org/abs/2111.08440). An untrained or an earlier model
  serves and costs no training.
- `lira`: how unlikely so high a confidence would be for models trained without the example
  (offline likelihood-ratio attack, Carlini et al., S&P 2022, https://arxiv.org/abs/2112.03570).
- `rmia`: how many other examples it beats in confidence relative to models trained without it
  (offline RMIA, Zarifzadeh et al., ICML 2024, https://arxiv.org/abs/2312.03262).

An utterance has two signals: the joint loss (intent loss plus mean slot loss), whose exp(-loss)
serves as the confidence, and the largest loss of any of its words (`largest_token_losses`), which a
memorised name gives away where the mean would hide it.
"""

import numpy as np
from scipy.special import log_ndtr

from fedsim.errors import require

OWN_SPREAD_FROM = 64
"""Reference models from which each example gets its own spread; with fewer, all share one (Carlini
et al., section VI)."""

LEAST_SPREAD = 1e-6
"""Of phi over reference models: losses are float32, and smaller spreads are rounding."""

RMIA_GAMMA = 2.0
"""An example beats another where its relative confidence is so many times the other's."""

RMIA_OFFLINE = 0.3
"""a in ((1 + a) out + 1 - a) / 2, the average confidence over models with and without an example
where only the latter are known: smaller where models memorise more. The paper's for CIFAR-10."""


def by_loss(losses: np.ndarray) -> np.ndarray:
    """Minus the loss, shape (n,)."""
    return -losses


def by_reference(losses: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """A reference model's loss minus the model's own.

    Args:
      losses: (n,) of the attacked model.
      reference: (n,) of an untrained or earlier model.

    Example:
      >>> by_reference(np.array([0.5, 2.0]), np.array([3.0, 2.0])).tolist()
      [2.5, 0.0]
    """
    return reference - losses


def lira(losses: np.ndarray, reference: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Offline likelihood-ratio attack.

    With phi = log(p / (1 - p)), p = exp(-loss), and the mean and spread of phi over the reference
    models that were trained without the example, 1 - Phi((phi - mean) / spread) is small for
    members. The score is minus its logarithm, which does not saturate.

    Args:
      losses: (n,) of the attacked model.
      reference: (models, n) losses of the reference models.
      out: (models, n) bool, which models were trained without which examples.

    Raises:
      ConfigError: an example has no reference model, or the spread cannot be estimated.

    Example:
      >>> reference = np.array([[2.0, 2.0], [2.5, 1.5]])
      >>> scores = lira(np.array([0.1, 1.8]), reference, np.ones((2, 2), bool))
      >>> bool(scores[0] > scores[1])
      True
    """
    count = _out_models(out)
    phi = _logit(reference)
    mean = np.where(out, phi, 0).sum(0) / count
    squares = np.where(out, (phi - mean) ** 2, 0).sum(0)
    require(
        int(count.sum()) > len(count),
        "a spread cannot be estimated from one reference model an example; train 4 or more, so "
        "that some examples are left out of two",
    )
    if count.min() >= OWN_SPREAD_FROM:
        spread = np.sqrt(squares / (count - 1))
    else:
        spread = np.sqrt(squares.sum() / (count - 1).sum())
    z = (_logit(losses) - mean) / np.maximum(spread, LEAST_SPREAD)
    return -log_ndtr(-z)


def rmia(
    losses: np.ndarray,
    reference: np.ndarray,
    out: np.ndarray,
    others: np.ndarray,
    others_reference: np.ndarray,
) -> np.ndarray:
    """Offline relative attack: share of other examples that are beaten by a factor of `RMIA_GAMMA`.

    The ratio of an example is its confidence under the attacked model over its average confidence
    under other models; it beats another whose ratio is at most 1 / gamma of its own.

    Args:
      losses: (n,) of the attacked model.
      reference: (models, n) losses of the reference models; one is enough.
      out: (models, n) bool, which models were trained without which examples.
      others: (z,) losses of the attacked model on utterances that no model was trained on.
      others_reference: (models, z) losses of the reference models on them.

    Returns:
      (n,) in [0, 1].

    Raises:
      ConfigError: an example has no reference model.

    Example:
      >>> losses, out, hard = np.array([0.1, 3.0]), np.ones((1, 2), bool), np.full((1, 4), 3.0)
      >>> rmia(losses, hard[:, :2], out, hard[0], hard)
      array([1., 0.])
    """
    count = _out_models(out)
    mine = np.where(out, np.exp(-reference), 0).sum(0) / count
    # In logarithms: confidences underflow where losses do not.
    ratio = -losses - _log_average(mine)
    theirs = np.sort(-others - _log_average(np.exp(-others_reference).mean(0)))
    beaten = np.searchsorted(theirs, ratio - np.log(RMIA_GAMMA), side="right")
    return beaten / len(theirs)


def _log_average(without: np.ndarray) -> np.ndarray:
    """Log of the average confidence over models with and without an example, from the latter's.

    The same for examples and for those that they are compared with: otherwise whoever is hard to
    predict, where the models that know it are guessed to be sure, would beat nobody.
    """
    return np.log(((1 + RMIA_OFFLINE) * without + 1 - RMIA_OFFLINE) / 2)


def largest_token_losses(losses: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The largest loss of any word of each utterance.

    Args:
      losses: (words,) slot losses, utterance after utterance.
      offsets: (n + 1,) where utterances start; each holds a word or more.

    Example:
      >>> largest_token_losses(np.array([0.1, 2.0, 0.3]), np.array([0, 2, 3])).tolist()
      [2.0, 0.3]
    """
    return np.maximum.reduceat(losses, offsets[:-1])


def _out_models(out: np.ndarray) -> np.ndarray:
    """Reference models trained without each example, (n,); all of them have one or more."""
    count = out.sum(0)
    bare = int((count == 0).sum())
    require(
        bare == 0,
        f"{bare} of {len(count)} examples were in the training data of every reference model; "
        "train more reference models, or leave these examples out of the attack",
    )
    return count


def _logit(losses: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) of p = exp(-loss), finite for a loss that rounded to 0."""
    least = np.finfo(np.float64).tiny
    loss = np.maximum(np.asarray(losses, np.float64), least)
    # log(expm1(loss)) overflows where -loss is already the answer.
    return np.where(loss > 30, -loss, -np.log(np.expm1(np.minimum(loss, 30))))
