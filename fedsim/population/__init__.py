"""Who takes part: devices, their utterances over periods, labels and vocabulary.

Names are resolved on first use: checking an option must not import what reads a corpus.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedsim.population.examples import Examples, PaddedBatch, Utterance
    from fedsim.population.labels import Inventory
    from fedsim.population.periods import Keep
    from fedsim.population.population import Population
    from fedsim.population.vocabulary import CorpusVocabulary, HashedVocabulary, Vocabulary

_HOMES = {
    "CorpusVocabulary": "vocabulary",
    "Examples": "examples",
    "HashedVocabulary": "vocabulary",
    "Inventory": "labels",
    "Keep": "periods",
    "PaddedBatch": "examples",
    "Population": "population",
    "Utterance": "examples",
    "Vocabulary": "vocabulary",
}

__all__ = [
    "CorpusVocabulary",
    "Examples",
    "HashedVocabulary",
    "Inventory",
    "Keep",
    "PaddedBatch",
    "Population",
    "Utterance",
    "Vocabulary",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fedsim.population' has no attribute {name!r}")
    return getattr(import_module(f"fedsim.population.{_HOMES[name]}"), name)
