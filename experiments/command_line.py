"""The command `fedsim`: parse, call one typed function, print what it returns.

Exit codes: 0 done, 2 something in the options, the files or the data is wrong, or runs of a sweep
failed, 3 a run is done and its audit of leakage refutes what it claims (a sentence on standard
error says what), 130 interrupted. Nothing heavy is imported before a command runs.
"""

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from experiments.arguments import check_arguments
from experiments.commands import (
    BenchCommand,
    ExperimentCommand,
    ReportCommand,
    ResumeCommand,
    RunCommand,
    SweepCommand,
    TablesCommand,
)
from experiments.help_groups import grouped_help
from experiments.run_options import RunOptions
from fedsim import __version__
from fedsim.errors import ConfigError, did_you_mean, require

if TYPE_CHECKING:
    from fedsim.record import Run
    from fedsim.report.table import Table

REFUTED = 3
"""Exit code of a finished run whose audit shows more leakage than it claims."""


def run(command: RunCommand) -> int:
    """`fedsim run`."""
    from experiments.recipe import run_recipe

    values = {field.name: getattr(command, field.name) for field in fields(RunOptions)}
    finished = run_recipe(RunOptions(**values), command.out)
    show(finished)
    return verdict(finished)


def resume(command: ResumeCommand) -> int:
    """`fedsim resume`."""
    from experiments import recipe

    if (command.folder / "summary.json").is_file():
        from fedsim.record import load_run

        print(f"The run in {command.folder} is finished; there is nothing left to do.")
        return verdict(load_run(command.folder))
    finished = recipe.resume(command.folder)
    show(finished)
    return verdict(finished)


def verdict(finished: "Run") -> int:
    """The exit code of a finished run; where its audit refutes its claim, a sentence says so."""
    from fedsim.report.leakage import refutation

    sentence = refutation(finished)
    if sentence is None:
        return 0
    print(f"fedsim: {sentence}", file=sys.stderr)
    return REFUTED


def show(finished: "Run") -> None:
    """Print a run's figures, what a reader should know of them, and where the record is."""
    from fedsim.report.failures import failure_notes

    print(finished.table().markdown())
    for sentence in [*failure_notes(finished), *finished.start["assumptions"]]:
        print(f"Note: {sentence.rstrip('.')}.")
    if finished.path is not None:
        print(f"\nRecord: {finished.path}")


def experiment(command: ExperimentCommand) -> int:
    """`fedsim experiment`."""
    run_experiment, preset_options = _experiment(command)
    passed = {field.name for field in fields(RunOptions)} & vars(command).keys()
    given = {key: getattr(command, key) for key in passed if getattr(command, key) is not None}
    out = command.out or Path("runs") / command.name
    table = run_experiment(
        preset_options(command.preset, given),
        preset=command.preset,
        seeds=command.seeds,
        out=out,
        processes=command.processes,
    )
    print(table.markdown())
    print("\nFiles:")
    for path in table.save(out, command.name):
        print(f"  {path}")
    print(f"  {out / 'runs'}/  (one folder a run)")
    refuted = [row["refuted"] for row in table.rows if row.get("refuted")]
    for sentence in refuted:
        print(f"fedsim: {sentence}", file=sys.stderr)
    return REFUTED if refuted else 0


def _experiment(command: ExperimentCommand) -> tuple[Callable[..., "Table"], Callable]:
    """The function that runs an experiment, and the one that says what its presets run with."""
    if command.name == "price-of-activity":
        from experiments import price_of_activity

        return price_of_activity.price_of_activity, price_of_activity.preset_options
    if command.name == "dpsgd":
        from experiments import dpsgd

        for name in ("epsilon", "periods", "by", "keep"):
            value = getattr(command, name)
            require(
                value is None,
                f"--{name} is {value}, and experiment dpsgd has noise levels and one period of its "
                "own; leave it out",
            )
        return dpsgd.dpsgd, dpsgd.preset_options
    if command.name == "leakage":
        from experiments import leakage

        require(
            command.epsilon is None,
            f"--epsilon is {command.epsilon}, and experiment leakage has noise levels of its own; "
            "leave it out",
        )
        return leakage.leakage, leakage.preset_options
    from experiments import selection

    require(
        command.epsilon is None,
        f"epsilon is {command.epsilon}, and experiment selection has no privacy; leave it out, or "
        "choose price-of-activity",
    )
    return selection.selection, selection.preset_options


def sweep(command: SweepCommand) -> int:
    """`fedsim sweep`."""
    from experiments.sweep import cells_of, listing, run_cells

    cells, out = cells_of(command.recipe), command.out or Path("runs") / command.recipe.stem
    print(listing(cells, out))
    if command.list:
        return 0
    ended = run_cells(cells, out, command.processes)
    failed = {name: run for name, run in ended.items() if isinstance(run, BaseException)}
    codes = [verdict(run) for run in ended.values() if not isinstance(run, BaseException)]
    if codes:
        first = out / "runs" / next(name for name in ended if name not in failed)
        print(
            f"\n{len(codes)} of {len(ended)} runs are finished.\n"
            f"  {shlex.join(['fedsim', 'tables', str(first), str(out)])}\n"
            f"  {shlex.join(['fedsim', 'report', str(first), str(out)])}\n"
            "compare them with the kind that is named first."
        )
    for name, error in failed.items():
        kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
        print(f"fedsim: {name} failed: {kind}{error}", file=sys.stderr)
    return 2 if failed else max(codes)


def report(command: ReportCommand) -> None:
    """`fedsim report`."""
    from fedsim.report.grouping import runs_in
    from fedsim.report.report import write_report

    single = command.folders[0] if len(command.folders) == 1 else Path()
    page, *files = write_report(runs_in(command.folders), command.out or single / "report.html")
    print(f"Page: {page}\nFigures: {files[0].parent} ({len(files)} files)")


def tables(command: TablesCommand) -> None:
    """`fedsim tables`."""
    from fedsim.report.group_table import group_table
    from fedsim.report.grouping import grouped, runs_in

    table = group_table(grouped(runs_in(command.folders)))
    print(table.markdown())
    if command.out is not None:
        print("Files:")
        for path in table.save(command.out, "table"):
            print(f"  {path}")


def bench(command: BenchCommand) -> None:
    """`fedsim bench`."""
    require(
        command.name == "round" or command.pfl_python is None,
        "--pfl-python names another simulator for bench round; leave it out here",
    )
    require(
        command.name in ("round", "population", "leakage") or command.workers is None,
        f"--workers is {command.workers}, and bench {command.name} trains no devices; leave it out",
    )
    if command.json is not None:
        _check_writable(command.json)
    settings: dict[str, Any] = {"repeats": command.repeats}
    if command.rounds is not None:
        settings["steps" if command.name == "dpsgd" else "rounds"] = command.rounds
    if command.name == "round":
        from experiments.bench_round import bench_round

        measured = bench_round(**settings, workers=command.workers, pfl_python=command.pfl_python)
    elif command.name == "population":
        from experiments.bench_population import bench_population

        measured = bench_population(**settings, workers=command.workers)
    elif command.name == "dpsgd":
        from experiments.bench_dpsgd import bench_dpsgd

        measured = bench_dpsgd(**settings)
    elif command.name == "cohort":
        from experiments.bench_cohort import bench_cohort

        measured = bench_cohort(**settings)
    elif command.name == "leakage":
        from experiments.bench_leakage import bench_leakage

        measured = bench_leakage(**settings, workers=command.workers)
    else:
        from experiments.bench_ledger import bench_ledger

        measured = bench_ledger(**settings)
    print(measured.markdown())
    if command.json is not None:
        command.json.write_text(measured.json(), "utf-8")


def _check_writable(path: Path) -> None:
    """Refuse a file that cannot be written before minutes of work go into it."""
    new = not path.exists()
    try:
        path.open("a").close()
    except OSError as error:
        raise ConfigError(
            f"--json {path} cannot be written ({error.strerror}); name a file in a folder that "
            "exists and that you may write to"
        ) from None
    if new:
        path.unlink()


COMMANDS: dict[str, tuple[type, Callable]] = {
    "run": (RunCommand, run),
    "resume": (ResumeCommand, resume),
    "experiment": (ExperimentCommand, experiment),
    "sweep": (SweepCommand, sweep),
    "bench": (BenchCommand, bench),
    "report": (ReportCommand, report),
    "tables": (TablesCommand, tables),
}

USAGE = """usage: fedsim COMMAND [OPTIONS]

  run                 one simulation
  resume DIR          go on with one that was interrupted
  experiment NAME     one paper-style table: selection, price-of-activity, dpsgd, leakage
  sweep FILE          every combination of options that a recipe lists
  bench NAME          one benchmark: round, population, dpsgd, ledger, leakage,
                      cohort
  report DIR...       one HTML page about one run or several
  tables DIR...       a paper-style table of any runs

  fedsim COMMAND --help    the options of a command
  fedsim --version         the version

Exit codes: 0 done; 2 options, files or data are wrong, or runs of a sweep failed; 3 the run is
done, and its audit of leakage refutes what it claims; 130 interrupted."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
      arguments: without the program's name; default: those of the process.

    Returns:
      The exit code.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if arguments[0] == "--version":
        print(f"fedsim {__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        hint = f"{did_you_mean(arguments[0], COMMANDS)}; choose one of {', '.join(COMMANDS)}"
        print(f"fedsim: unknown command {arguments[0]!r}{hint}", file=sys.stderr)
        return 2
    options, function = COMMANDS[arguments[0]]
    try:
        check_arguments(options, arguments[1:])
        helps = options is RunCommand and not {"-h", "--help"}.isdisjoint(arguments)
        kind = grouped_help() if helps else options
        command: Any = tyro.cli(kind, prog=f"fedsim {arguments[0]}", args=arguments[1:])
        return function(command) or 0
    except ConfigError as error:
        print(f"fedsim: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"fedsim: {where}{error.strerror or error}", file=sys.stderr)
        return 2
    except SystemExit as stop:
        # The parser leaves this way after help (0) and after a sentence of its own (2).
        return int(stop.code or 0)
    except KeyboardInterrupt as stop:
        after = getattr(stop, "__notes__", [])
        if arguments[0] in ("experiment", "sweep"):
            after = ["finished runs are kept, and the same command goes on from there"]
        print("; ".join(["fedsim: interrupted", *after]), file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
