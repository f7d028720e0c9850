"""Who takes part: devices, their utterances over periods, labels and vocabulary."""

from fedsim.population.examples import Examples, PaddedBatch, Utterance
from fedsim.population.labels import Inventory
from fedsim.population.periods import Keep
from fedsim.population.population import Population
from fedsim.population.vocabulary import CorpusVocabulary, HashedVocabulary, Vocabulary

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
