"""A few devices whose numbers of utterances differ as much as they can."""

import numpy as np

from fedsim.models import BiLSTMTagger, TransformerTagger
from fedsim.population import Population
from fedsim.population.arrays import ArraySource
from fedsim.population.examples import Utterance
from fedsim.population.labels import Inventory
from fedsim.population.periods import Keep
from fedsim.population.vocabulary import HashedVocabulary

LABELS = Inventory(("on", "off", "ask"), ("room", "time"))
WORDS = HashedVocabulary(buckets=300, pieces=2)
HELD = (7, 1, 12, 1, 17, 4)
"""Training utterances of each device; with several periods, some hold nothing in some of them."""

TESTED = 5
"""Test utterances, all of the first device."""


def people(periods: int = 1, keep: str = "current") -> Population:
    draw = np.random.default_rng(0)

    def utterance(user: str, split: str, order: int) -> Utterance:
        n = int(draw.integers(1, 7))
        return Utterance(
            tokens=tuple(f"word{k}" for k in draw.integers(0, 60, n)),
            slots=tuple(draw.choice(LABELS.slot_labels, n)),
            intent=str(draw.choice(LABELS.intents)),
            user=user,
            split=split,
            order=order,
        )

    rows = [utterance(f"u{d}", "train", i) for d, n in enumerate(HELD) for i in range(n)]
    rows += [utterance("u0", "test", 50 + i) for i in range(TESTED)]
    source = ArraySource.build(rows, LABELS, WORDS)
    whole = Population(name="few", source=source, inventory=LABELS, vocabulary=WORDS)
    return whole.cut(periods, keep=Keep.parse(keep))


PEOPLE = people()
BILSTM = BiLSTMTagger.sized_for(PEOPLE, embedding=6, hidden=5)
TRANSFORMER = TransformerTagger.sized_for(PEOPLE, embedding=8, layers=1, heads=2)
MODELS = {"bilstm": BILSTM, "transformer": TRANSFORMER}
