"""What did these runs do, cost and give away: one page about any runs, with its figures as files.

A section stands only where the runs measured what it shows.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsim.privacy.claim import EVERY_CLAIM
from fedsim.record.run import Run
from fedsim.report.chart_drawing import drawn
from fedsim.report.curves import Group
from fedsim.report.failures import failure_notes
from fedsim.report.files import write_whole
from fedsim.report.group_table import group_table
from fedsim.report.grouping import grouped, strategy_of
from fedsim.report.leakage import leakage_notes, refutation
from fedsim.report.learning_charts import learning_charts
from fedsim.report.page import Page, Section, html
from fedsim.report.privacy_charts import UNITS, privacy_charts
from fedsim.report.round_charts import round_charts
from fedsim.report.runs import rounds_table
from fedsim.report.style import image
from fedsim.report.table import Column, Table


def write_report(runs: Sequence[Run], out: Path) -> list[Path]:
    """Write a page about runs to `out`, and its figures to a folder beside it.

    Args:
      runs: one or more; those that differ in the seed alone are shown together.
      out: the HTML file; it and the files of its figures are replaced.

    Returns:
      The page, then NAME.png, NAME.svg and NAME.csv of every figure, in OUT's name + "-files".

    Raises:
      ConfigError: two runs are the same, or a file cannot be written.
    """
    page = report_page(grouped(runs), f"{out.stem}-files")
    charts = [chart for section in page.sections for chart in section.charts]
    svgs: dict[str, str] = {}
    contents: dict[str, bytes] = {}
    for chart in charts:
        figure = drawn(chart)
        vector = image(figure, "svg")
        svgs[chart.name] = vector.decode()
        contents |= {
            f"{chart.name}.png": image(figure, "png"),
            f"{chart.name}.svg": vector,
            f"{chart.name}.csv": chart.csv().encode(),
        }
    for section in page.sections:
        if section.table is not None:
            contents[f"{section.title.lower().replace(' ', '-')}.csv"] = (
                section.table.csv().encode()
            )
    # The page last: where it stands, its figures do.
    written = [write_whole(out.parent / page.files / name, data) for name, data in contents.items()]
    return [write_whole(out, html(page, svgs).encode()), *written]


def report_page(groups: Sequence[Group], files: str) -> Page:
    """What the page says, as data.

    Args:
      groups: one or more.
      files: folder of its figures, relative to the page.
    """
    runs = [run for group in groups for run in group.runs]
    refuted = [(run, sentence) for run in runs if (sentence := refutation(run))]
    single = len(runs) == 1
    return Page(
        title=f"Federated learning on {', '.join(dict.fromkeys(_corpus(run) for run in runs))}",
        lead=_lead(groups),
        alarms=[f"CLAIM REFUTED ({_named(run)}): {sentence}." for run, sentence in refuted],
        files=files,
        sections=[
            Section(
                title="Results",
                table=rounds_table(runs[0]) if single else group_table(groups),
            ),
            Section(title="What was run", facts=_facts(groups), details=_options(groups)),
            Section(title="What was assumed", sentences=_assumptions(runs)),
            Section(title="What is claimed", table=_claims(runs[0]) if single else None,
                    sentences=[] if _private(runs) else [_NO_CLAIM]),
            Section(
                title="What the claim does not cover",
                sentences=[_sentence(text) for text in EVERY_CLAIM] if _private(runs) else [],
            ),
            Section(title="Learning", charts=learning_charts(groups)),
            Section(
                title="Privacy and leakage",
                charts=privacy_charts(groups),
                sentences=_leakage(groups) if len(runs) > 1 else [],
            ),
            Section(title="Rounds", charts=round_charts(groups), sentences=_failed(runs)),
        ],
    )  # fmt: skip


_NO_CLAIM = (
    "Nothing: these runs have no privacy mechanism, and every epsilon is infinite before every "
    "observer."
)


def _lead(groups: Sequence[Group]) -> str:
    runs = [run for group in groups for run in group.runs]
    seeds = sorted({run.config["seed"] for run in runs})
    if len(runs) == 1:
        return (
            f"One run: {groups[0].setting}, {groups[0].selection} selection, {len(runs[0].rounds)} "
            f"rounds, seed {seeds[0]}."
        )
    names = "; ".join(group.label for group in groups)
    return f"{len(runs)} runs of {len(groups)} kinds ({names}), {len(seeds)} seeds."


def _corpus(run: Run) -> str:
    return run.start["population"]


def _named(run: Run) -> str:
    return f"{run.config.get('selection_label')}, seed {run.config['seed']}"


def _facts(groups: Sequence[Group]) -> dict[str, str]:
    """What was run, from every group; a fact that differs is told of each."""
    each = [_facts_of(group) for group in groups]
    found = {}
    for name in dict.fromkeys(key for facts in each for key in facts):
        told = dict.fromkeys(facts[name] for facts in each if name in facts)
        found[name] = "; ".join(told)
    return found


def _facts_of(group: Group) -> dict[str, str]:
    run = group.runs[0]
    config, start = run.config, run.start
    simulation, environment = config.get("simulation", {}), config.get("environment", {})
    commit = environment.get("commit")
    client, local = simulation.get("client"), ""
    if isinstance(client, Mapping):
        local = _scalars(client)
    found = {
        "data": f"{start['population']}: {start['devices']:,} devices, "
        f"{start['training_examples']:,} training examples, {start['test_examples']:,} test "
        "utterances",
        "setting": _setting(run),
        "selection": group.selection + (f", {config['draw']} draws" if "draw" in config else ""),
        "weighting": group.weighting,
        "expected cohort": str(config.get("cohort", "")),
        "strategy": strategy_of(run),
        "model": f"{simulation.get('model', {}).get('class', config.get('model', ''))}, "
        f"{start['parameters']:,} parameters",
        "device": local,
        "privacy": _mechanism(start.get("privacy")),
        "seeds": ", ".join(str(one.config["seed"]) for one in group.runs),
        "code": f"fedsim {environment.get('fedsim', '')}"
        + (f", commit {commit[:10]}" if commit else "")
        + (", with uncommitted changes" if environment.get("uncommitted_changes") else ""),
    }
    return {name: text for name, text in found.items() if text}


def _setting(run: Run) -> str:
    config = run.config
    text = f"{config['setting']}, {len(run.rounds)} rounds"
    if config["setting"] == "continual" and "keep" in config:
        text += f", {config['periods']} periods by {config['by']}, keep {config['keep']}"
    return text


def _mechanism(privacy: Mapping[str, Any] | None) -> str:
    """A mechanism in words, that of the devices after that of the server."""
    if privacy is None:
        return "none"
    own = _scalars(privacy)
    inner = privacy.get("example")
    return "; ".join(text for text in (own, _scalars(inner) if inner else "") if text)


def _scalars(found: Mapping[str, Any]) -> str:
    """What is set, as "Class: name value, ..."."""
    told = [
        f"{name.replace('_', ' ')} {value:g}" if isinstance(value, float) else
        f"{name.replace('_', ' ')} {value}"
        for name, value in found.items()
        if name != "class" and value not in (None, False) and not isinstance(value, Mapping)
    ]  # fmt: skip
    name = found.get("class")
    return f"{name}: {', '.join(told)}" if name else ", ".join(told)


def _options(groups: Sequence[Group]) -> dict[str, str]:
    return {
        f"Every option: {group.label}": json.dumps(group.runs[0].config, indent=1, default=str)
        for group in groups
    }


def _assumptions(runs: Sequence[Run]) -> list[str]:
    """Every assumption of every run once; what no claim covers has a section of its own."""
    said = dict.fromkeys(text for run in runs for text in run.start.get("assumptions") or [])
    return [_sentence(text) for text in said if text not in EVERY_CLAIM]


def _private(runs: Sequence[Run]) -> bool:
    return any(run.start.get("privacy") is not None for run in runs)


def _claims(run: Run) -> Table | None:
    """Epsilon of the worst device and example before each observer, at the end."""
    if run.start.get("privacy") is None:
        return None
    last = run.rounds[-1]
    observers = {
        "the released models": "epsilon_max",
        "the released models and who took part": "epsilon_participation_max",
        "the server, which sees every update": "epsilon_server_max",
    }
    rows = [
        # Devices protect their examples themselves, so that holds before everybody.
        {"observer": who, "device": last[key], "example": last.get(UNITS[1][1])}
        for who, key in observers.items()
    ]
    return Table(
        columns=[
            Column("observer", "who sees", label=True),
            *(
                Column(unit, f"epsilon of the worst {unit}", "number")
                for unit, _ in UNITS
                # Where a mechanism ran and nothing is claimed, infinite ones say so.
                if last["privacy_unit"] in (unit, "both")
            ),
        ],
        rows=rows,
        caption=f"Upper bounds at the end of the run, at delta {last['delta']:g}.",
    )


def _leakage(groups: Sequence[Group]) -> list[str]:
    """What the first run of each group says of its panel, once; what all say, without names."""
    told = {group.label: leakage_notes(group.runs[0]) for group in groups}
    told = {label: texts for label, texts in told.items() if texts}
    labels: dict[str, list[str]] = {}
    for label, texts in told.items():
        for text in texts:
            labels.setdefault(text, []).append(label)
    return [text for text, own in labels.items() if len(own) == len(told)] + [
        f"{'; '.join(own)}: {text}" for text, own in labels.items() if len(own) < len(told)
    ]


def _failed(runs: Sequence[Run]) -> list[str]:
    return [
        _sentence(text if len(runs) == 1 else f"{_named(run)}: {text}")
        for run in runs
        for text in failure_notes(run)
    ]


def _sentence(text: str) -> str:
    """A sentence; names of figures stay as they are written."""
    first = text.split(" ", 1)[0]
    begun = text if "_" in first else f"{text[:1].upper()}{text[1:]}"
    return f"{begun.rstrip('.')}."
