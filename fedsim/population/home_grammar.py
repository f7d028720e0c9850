"""How people talk to a smart home: what each prefers, what is in use when, and what it then says.

The phrases themselves stand in `home_phrases`. Here they become flat arrays, so that everything a
person says is a handful of array operations, whatever it is that the person says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fedsim.population.home_phrases import INTENTS, MANNERS, SLOTS, Intent, Kind
from fedsim.population.labels import OUTSIDE, Inventory

STEPS = 20
"""Steps of the corpus's time within which nothing drifts."""

PASSING_SHARE = 0.55
"""Share of a kind's uses that falls on its passing values, where it has any."""

PASSING_WIDTH = 0.16
"""How long a passing value is in use: one standard deviation, as a share of all time."""

SHORTCUT_WEIGHT = 0.45
"""How often a shortcut is used, relative to a full way to ask."""

TASTE, CURIOSITY = 4.0, 0.07
"""What people ask for: Dirichlet concentration, and the share that follows everybody's taste."""

HABIT = 0.5
"""How people ask: shape of the gamma weights of the ways to ask; smaller is more habitual."""

FAVOURITES = 3
"""Values of each kind that a person prefers."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Grammar:
    """The grammar as flat arrays, ready for drawing many utterances at once.

    A *phrase* is a run of words: a literal piece of a way to ask, or a value. A *kind* is a manner
    or a slot type. Phrases of a kind are contiguous.

    Attributes:
      inventory: intents and slot types, in the order of their ids.
      words: words of all phrases, one after another.
      slots: (words,) int16 slot label ids.
      starts: (phrases + 1,) int64; phrase p holds words starts[p]:starts[p + 1].
      pieces: (ways, columns) int64; a phrase, or -1 - kind where a value stands; 0 is no words.
      way_weights: (ways,) how often each is used within its intent.
      first_way: (intents + 1,) int64; ways of an intent are contiguous.
      intent_weights: (intents,) sum to 1.
      schedule: (STEPS, intents) in [0, 1], share of an intent's weight in use in each step.
      first_value: (kinds,) int64 first phrase of each kind.
      loyalty: (kinds,) probability of a favourite.
      values: (kinds * STEPS * width,) row r = kind * STEPS + step holds r plus the cumulative
        probabilities of the kind's values in that step, so that one sorted search draws all.
      width: values of the largest kind.
    """

    inventory: Inventory
    words: tuple[str, ...]
    slots: np.ndarray
    starts: np.ndarray
    pieces: np.ndarray
    way_weights: np.ndarray
    first_way: np.ndarray
    intent_weights: np.ndarray
    schedule: np.ndarray
    first_value: np.ndarray
    loyalty: np.ndarray
    values: np.ndarray
    width: int


@lru_cache(maxsize=1)
def grammar() -> Grammar:
    """The grammar of `home_phrases`.

    Example:
      >>> labels = grammar().inventory
      >>> len(labels.intents), len(labels.slot_types)
      (33, 22)
    """
    inventory = Inventory(tuple(INTENTS), tuple(SLOTS))
    kinds = MANNERS | SLOTS
    phrases: list[tuple[str, ...]] = [()]
    labels: list[int] = []
    first_value = []
    for name, kind in kinds.items():
        first_value.append(len(phrases))
        for value in _values(kind):
            phrases.append(value)
            labels += _labels(value, name, inventory)

    literals: dict[str, int] = {}
    rows = []
    for intent in INTENTS.values():
        for way in _lines(intent.ways) + _lines(intent.shortcuts):
            row = []
            for piece in _pieces(way):
                if piece.startswith("{"):
                    row.append(-1 - list(kinds).index(piece[1:-1]))
                    continue
                if piece not in literals:
                    literals[piece] = len(phrases)
                    phrases.append(tuple(piece.split()))
                    labels += [inventory.slot_ids[OUTSIDE]] * len(phrases[-1])
                row.append(literals[piece])
            rows.append(row)

    columns = max(len(row) for row in rows)
    ways = [len(_lines(intent.ways)) for intent in INTENTS.values()]
    shortcuts = [len(_lines(intent.shortcuts)) for intent in INTENTS.values()]
    weights = np.array([intent.weight for intent in INTENTS.values()])
    cumulative, width = _cumulative(list(kinds.values()))
    return Grammar(
        inventory=inventory,
        words=tuple(word for phrase in phrases for word in phrase),
        slots=np.array(labels, np.int16),
        starts=np.concatenate([[0], np.cumsum([len(phrase) for phrase in phrases])]),
        pieces=np.array([row + [0] * (columns - len(row)) for row in rows], np.int64),
        way_weights=np.concatenate(
            [
                np.repeat([1.0, SHORTCUT_WEIGHT], (full, short))
                for full, short in zip(ways, shortcuts, strict=True)
            ]
        ),
        first_way=np.concatenate([[0], np.cumsum(np.add(ways, shortcuts))]),
        intent_weights=weights / weights.sum(),
        schedule=np.stack([_schedule(intent) for intent in INTENTS.values()], axis=1),
        first_value=np.array(first_value, np.int64),
        loyalty=np.array([kind.loyalty for kind in kinds.values()]),
        values=cumulative,
        width=width,
    )


class Said(NamedTuple):
    """Utterances as intents (n,) and phrases (n, columns) of the grammar."""

    intents: np.ndarray
    phrases: np.ndarray

    def at(self, position: np.ndarray) -> "Said":
        """The utterances at some positions."""
        return Said(self.intents[position], self.phrases[position])


def speak(step: np.ndarray, random: np.random.Generator) -> Said:
    """What one person says at the given steps (n,) of the corpus's time.

    The person comes first (taste, habits, favourites), then each utterance: an intent in use at
    the time, a way to ask, and values. A favourite is a place in the order of popularity, so that
    where a value has gone out of use, a person takes to what came in its place.
    """
    table = grammar()
    intents, (ways, columns) = len(table.intent_weights), table.pieces.shape
    taste = random.standard_gamma(TASTE * table.intent_weights)
    habits = np.cumsum(table.way_weights * (0.1 + random.standard_gamma(HABIT, ways)))
    favourites = random.random((len(table.loyalty), FAVOURITES), dtype=np.float32)
    # 24-bit numbers: adding a row number is exact, and none reaches what rounding leaves below 1.
    draws = random.random((len(step), 2 + 3 * columns), dtype=np.float32).astype(np.float64)
    loyal, which, value = draws[:, 2:].reshape(len(step), 3, columns).swapaxes(0, 1)

    wish = (1 - CURIOSITY) * taste / taste.sum() + CURIOSITY * table.intent_weights
    wish = np.cumsum(wish * table.schedule, axis=1)
    wish = wish / wish[:, -1:] + np.arange(STEPS)[:, None]
    intent = np.searchsorted(wish.ravel(), step + draws[:, 0], side="right") - step * intents

    low = np.concatenate([[0.0], habits])[table.first_way]
    low, high = low[intent], low[intent + 1]
    way = np.searchsorted(habits, low + (high - low) * draws[:, 1], side="right")
    way = np.minimum(way, table.first_way[intent + 1] - 1)

    phrases = table.pieces[way]
    row, column = np.nonzero(phrases < 0)
    kind = -1 - phrases[row, column]
    favourite = favourites[kind, (which[row, column] * FAVOURITES).astype(np.int64)]
    place = np.where(loyal[row, column] < table.loyalty[kind], favourite, value[row, column])
    cell = kind * STEPS + step[row]
    drawn = np.searchsorted(table.values, cell + place, side="right") - cell * table.width
    phrases[row, column] = table.first_value[kind] + drawn
    return Said(intent, phrases)


def _values(kind: Kind) -> list[tuple[str, ...]]:
    """Values of a kind as words: silence first where it may be silent, steady, then passing."""
    silent = [()] if kind.silence else []
    return [*silent, *_words(kind.steady), *_words(kind.passing)]


def _words(values: str) -> list[tuple[str, ...]]:
    return [tuple(value.split()) for value in values.split(",") if value.strip()]


def _labels(words: Sequence[str], kind: str, inventory: Inventory) -> list[int]:
    """Slot label ids of a value's words; words of a manner are outside every slot."""
    if kind in MANNERS:
        return [inventory.slot_ids[OUTSIDE]] * len(words)
    return [inventory.slot_ids[("I-" if i else "B-") + kind] for i in range(len(words))]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _pieces(way: str) -> list[str]:
    """A way to ask as literals and `{kind}`s, with the manners around and inside it.

    Example:
      >>> _pieces("play the {song} now")
      ['{opening}', 'play the', '{filler}', '{song}', 'now', '{closing}']
    """
    pieces: list[str] = []
    for word in way.split():
        if pieces and not word.startswith("{") and not pieces[-1].startswith("{"):
            pieces[-1] += " " + word
        else:
            pieces.append(word)
    return ["{opening}", pieces[0], "{filler}", *pieces[1:], "{closing}"]


def _moments() -> np.ndarray:
    """The middle of every step, shape (STEPS,), as a share of all time."""
    return (np.arange(STEPS) + 0.5) / STEPS


def _schedule(intent: Intent) -> np.ndarray:
    """Share of the intent's weight in use, shape (STEPS,); it comes and goes within a tenth."""
    moments = _moments()
    coming = np.clip((moments - intent.appears) / 0.1, 0, 1) if intent.appears else 1.0
    return coming * np.clip(1 - (moments - intent.fades) / 0.1, 0, 1)


def _cumulative(kinds: Sequence[Kind]) -> tuple[np.ndarray, int]:
    """`Grammar.values` and `Grammar.width`."""
    width = max(len(_values(kind)) for kind in kinds)
    table = np.ones((len(kinds), STEPS, width))
    for i, kind in enumerate(kinds):
        steady, passing = len(_words(kind.steady)), len(_words(kind.passing))
        popularity = 1 / (np.arange(steady) + 3)
        popularity *= (1 - kind.silence) / popularity.sum()
        probability = np.tile(
            np.concatenate([[kind.silence] if kind.silence else [], popularity]), (STEPS, 1)
        )
        if passing:
            peak = np.linspace(0, 1, passing)
            use = np.exp(-(((_moments()[:, None] - peak) / PASSING_WIDTH) ** 2) / 2)
            use[use < 0.02] = 0
            use *= PASSING_SHARE / use.sum(axis=1, keepdims=True)
            probability = np.concatenate([probability * (1 - PASSING_SHARE), use], axis=1)
        cumulative = np.cumsum(probability, axis=1)
        table[i, :, : cumulative.shape[1]] = cumulative
    return (table.reshape(-1, width) + np.arange(len(kinds) * STEPS)[:, None]).ravel(), width
