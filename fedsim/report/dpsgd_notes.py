"""What does the DP-SGD experiment come to, and how is its table to be read?

The first sentences are computed from the rows, and read the same way whichever way they fall.
"""

from collections.abc import Sequence

from fedsim.report.dpsgd import EDP, GHOST, HOOKS, NAIVE, OURS, PLAIN, Line
from fedsim.report.failures import failure_notes
from fedsim.report.statistics import Estimate


def caption(lines: Sequence[Line]) -> str:
    """What was run."""
    runs = [run for line in lines for run in line.runs]
    seeds = sorted({run.config["seed"] for run in runs})
    parts = []
    for corpus in dict.fromkeys(line.corpus for line in lines):
        own = [run for line in lines if line.corpus == corpus for run in line.runs]
        start = own[0].start
        parts.append(
            f"{corpus} ({start['training_examples']:,} training utterances, {start['devices']:,} "
            f"devices, delta {_delta(own)})"
        )
    c = _setting(lines, "federated")[0].runs[0].config
    central = _setting(lines, "central")[0].runs[0].config
    return (
        f"DP-SGD on {' and '.join(parts)}. Central: {central['rounds']} epochs. Federated: "
        f"{c['rounds']} rounds, expected cohort {c['cohort']}, {c['selection']} selection, "
        f"{c['strategy']}, {c['local_epochs']} local epochs in batches of {c['batch_size']}. "
        f"{'Seed' if len(seeds) == 1 else 'Seeds'} {', '.join(map(str, seeds))}."
    )


def notes(lines: Sequence[Line]) -> list[str]:
    """What the costs are, what eDP-SGD claims, then what a reader must know to read the numbers."""
    private = [run for line in lines if line.noise is not None for run in line.runs]
    clip_norm = private[0].start["privacy"]["example"]["clip_norm"]
    sizes = {setting: _batch_size(lines, setting) for setting in ("central", "federated")}
    batches = f"{sizes['central']} (central) and {sizes['federated']} (federated)"
    said = [run.start["assumptions"] for run in private]
    return [
        _costs(lines),
        *(_claims(place) for place in _places(lines)),
        f"Sigma is the noise multiplier, at clip norm {clip_norm:g}; a private step takes every "
        f"example by its own coin, {batches} of them on average. Learning rates are the same at "
        "all noise levels and for both mechanisms: of devices chosen on the dev set of massive, of "
        "central training on the test utterances of home.",
        f"{HOOKS}, {GHOST} and the {NAIVE} compute the very sums of {OURS} (the tests hold all "
        "four to each other), so no model was trained by them: accuracy and epsilon are those of "
        f"the rows of {OURS}.",
        "Time: processor time of a step (norms, clipping, noise on every parameter, update), on "
        "one thread, on the first batch that this training draws, over that of the fastest "
        "ordinary step of the same model on the same examples: PyTorch's modules, or fedsim's "
        "SGD, on a device on the rows of its own words alone. All ways took turns in one process; "
        "medians over turns. The rows that train work on the batch as training gives it to "
        "them, filled up with empty examples; the other three ways without these.",
        "Memory: the most that the tensors of one such step had at a time, above the model and "
        "what was there before it, by PyTorch's profiler, over that of the same ordinary step.",
        f"{EDP} is a reconstruction (fedsim.privacy.edp_sgd): mean gradients of micro-batches of 4 "
        "are clipped layer by layer, and centrally the noise falls by a tenth an epoch; a device "
        "makes one pass a participation, so there it does not fall. Its epsilon counts a "
        "sensitivity of two clip norms and every step's own noise; the naive reading counts one "
        "clip norm and the first step's noise, and bounds nothing. Its time is that of this "
        "implementation and says nothing of the authors'.",
        f"Without privacy, central training is AdamW in batches of "
        f"{_central_plain(lines)}, and devices run plain SGD. Epsilons are example-level, of the "
        "worst device in any of the runs, every participation charged in full; they hold before "
        "the server too.",
        *dict.fromkeys(
            f"{note.rstrip('.')}."
            for each in said
            for note in each
            if note.startswith(("example-level epsilons", "outside the claim"))
        ),
        *dict.fromkeys(note for line in lines for run in line.runs for note in failure_notes(run)),
    ]


def _costs(lines: Sequence[Line]) -> str:
    """Time and memory of every way, over all models and batches."""
    parts = []
    for way in (OURS, GHOST, HOOKS, NAIVE, EDP):
        costs = [line.cost for line in lines if line.way == way]
        times, memory = [c.time for c in costs], [c.memory for c in costs]
        parts.append(f"{way} {_range(times)} times its time and {_range(memory)} its memory")
    return f"Against an ordinary step of the same model: {'; '.join(parts)}."


def _claims(lines: Sequence[Line]) -> str:
    """What eDP-SGD seems to cost and costs at the middle noise level, beside exact DP-SGD."""
    levels = sorted({line.noise for line in lines if line.noise is not None})
    noise = levels[len(levels) // 2]
    by_way = {line.way: line for line in lines if line.noise == noise}
    plain = next(line for line in lines if line.way == PLAIN)
    exact, edp = by_way[OURS], by_way[EDP]
    return (
        f"{exact.corpus}, {exact.setting}, {exact.model}, sigma {noise:g}: intent accuracy "
        f"{_percent(plain.accuracy)} % without privacy, {_percent(exact.accuracy)} % by exact "
        f"DP-SGD at epsilon {exact.epsilon:.3g}, {_percent(edp.accuracy)} % by {EDP} at epsilon "
        f"{edp.epsilon:.3g}, which a naive reading puts at {edp.naive:.3g}."
    )


def _places(lines: Sequence[Line]) -> list[list[Line]]:
    """Lines of each corpus, setting and model."""
    keys = [(line.corpus, line.setting, line.model) for line in lines]
    return [
        [line for line, key in zip(lines, keys, strict=True) if key == place]
        for place in dict.fromkeys(keys)
    ]


def _setting(lines: Sequence[Line], setting: str) -> list[Line]:
    return [line for line in lines if line.setting == setting and line.runs]


def _batch_size(lines: Sequence[Line], setting: str) -> int:
    run = next(line for line in _setting(lines, setting) if line.noise is not None).runs[0]
    return run.config.get("central", run.config)["batch_size"]


def _central_plain(lines: Sequence[Line]) -> int:
    run = next(line for line in _setting(lines, "central") if line.way == PLAIN).runs[0]
    return run.config["central"]["batch_size"]


def _delta(runs: Sequence) -> str:
    found = (run.start["privacy"] for run in runs)
    return f"{next(p['example']['delta'] for p in found if p):g}"


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.2g}" if f"{low:.2g}" == f"{high:.2g}" else f"{low:.2g} to {high:.2g}"


def _percent(accuracy: Estimate | None) -> str:
    return "–" if accuracy is None else f"{100 * accuracy.mean:.1f}"
