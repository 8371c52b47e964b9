"""The commands of `lambda-grpo`. Heavy imports are inside the commands, so that --help and errors come at once."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from lambda_grpo.cli.interrupts import EXIT_CODE, command_line, exit_on_interrupt, report_interrupt
from lambda_grpo.cli.parser import (
    EVAL_OPTIONS,
    RECIPE_COMMANDS,
    STUDY_OPTIONS,
    WATCH_PORT,
    command_line_parser,
    import_module,
)
from lambda_grpo.disk import reporting_full_disk
from lambda_grpo.distributed import is_main_process
from lambda_grpo.errors import Stopped, UserError
from lambda_grpo.formatting import percent, percent_range
from lambda_grpo.suggestions import did_you_mean


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Returns the exit code: 0 success, 2 wrong input, 1 any other error or problems found by doctor, 130 Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # One progress bar, and no warnings on deprecations between libraries, which users can't fix.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft)\.")
    try:
        options, rest = command_line_parser().parse_known_args(arguments)
        if rest and options.command not in RECIPE_COMMANDS:
            meant = did_you_mean(rest[0], [f"--{name}" for name in EVAL_OPTIONS]) if options.command == "eval" else ""
            raise UserError(f"unknown argument {rest[0]!r}, see lambda-grpo {options.command} --help{meant}")
        options.arguments = arguments
        code = COMMANDS[options.command](options, rest)
    except UserError as error:
        print(f"lambda-grpo: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        if argv is None:  # the process is ending: another Ctrl-C would only print a traceback
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        report_interrupt(stop, arguments)
        return EXIT_CODE
    return code or 0


def _recipes_and_overrides(rest: list[str]) -> tuple[list[str], list[str]]:
    """A command line as the recipe files at its start, and the `--key value` pairs."""
    first = next((i for i, word in enumerate(rest) if word.startswith("-")), len(rest))
    return rest[:first], rest[first:]


def _warmup(options: argparse.Namespace, rest: list[str]) -> None:
    with exit_on_interrupt(options.arguments):
        warmup = import_module("lambda_grpo.training.warmup", "trl")
    print(f"Model: {warmup.warm_up(*_recipes_and_overrides(rest))}")


def _train(options: argparse.Namespace, rest: list[str]) -> None:
    recipes, overrides = _recipes_and_overrides(rest)
    with exit_on_interrupt(options.arguments):
        training = import_module("lambda_grpo.training.run", "trl")
        summary_of = import_module("lambda_grpo.report.summary", "report")
    run = training.train(recipes, overrides, resume=options.resume)
    if not is_main_process():
        return
    summary = summary_of.summarise(run)
    _print_table(f"{summary.objective}, {summary.steps} steps", ("", "before", "after"), summary.rows)
    print("\n".join(summary.verdict))
    print(f"\nReport: {run.path / 'report.html'}")


def _compare(options: argparse.Namespace, rest: list[str]) -> None:
    path = rest.pop(0) if rest and not rest[0].startswith("-") else None
    with exit_on_interrupt(options.arguments):
        comparison = import_module("lambda_grpo.comparison", "trl,report")
        report = import_module("lambda_grpo.report.study_page", "report")
    given = {name: getattr(options, name) for name in STUDY_OPTIONS if hasattr(options, name)}
    study = comparison.read_study(path, given, rest)
    if options.processes is not None and options.processes < 1:
        raise UserError(f"--processes must be at least 1, got {options.processes}")
    directory = Path(options.output_dir or f"studies/{datetime.now():%Y-%m-%d-%H%M%S}")
    print(study.describe(), file=sys.stderr)
    where = [] if options.output_dir else ["--output_dir", str(directory)]
    command = command_line([*options.arguments, *where])
    with reporting_full_disk(directory, lambda: command):
        try:
            results = comparison.compare(study, directory, processes=options.processes)
        except KeyboardInterrupt as stop:
            raise Stopped(command) from stop
        page = report.write_study_report(results, directory)
    for task in study.tasks:
        _print_table(f"{study.endpoint} on {task}, against {study.against}", *comparison.arms_table(results, task))
    print("\n".join(results["verdict"]))
    print(f"\nReport: {page}")


def _eval(options: argparse.Namespace, rest: list[str]) -> None:
    with exit_on_interrupt(options.arguments):
        evaluation = import_module("lambda_grpo.evaluation.run", "trl,eval")
    given = {name: getattr(options, name) for name in EVAL_OPTIONS if hasattr(options, name)}
    request = evaluation.Request(**given)
    with reporting_full_disk(request.directory, lambda: command_line(options.arguments)):
        _print_results(evaluation.run(request), options.json)


def _print_results(results: Iterable[Any], as_json: bool) -> None:
    for result in results:
        if as_json:
            print(json.dumps(result), flush=True)
            continue
        rows = [
            (name, percent(found["value"]), percent_range(found["ci95"]))
            for name, found in result["metrics"].items()
            if name == "accuracy" or result["samples"] > 1  # with one sample all metrics are equal
        ]
        samples = f"{result['samples']} samples each, " if result["samples"] > 1 else ""
        _print_table(f"{result['model']} on {result['task']}", ("", "", "95 % interval"), rows)
        print(
            f"{result['n']} problems, {samples}template {result['template']['name']}; "
            f"{result['completion_length_mean']:.1f} tokens on average, {percent(result['truncated'])} truncated "
            "at the limit"
            + ("" if result["unanswered"] is None else f", {percent(result['unanswered'])} without an answer")
            + (f", {result['timed_out']} graded wrong after a timeout" if result["timed_out"] else "")
            + "\n"
        )


def _report(options: argparse.Namespace, rest: list[str]) -> None:
    if not options.table and (options.format or options.metric):
        raise UserError("--format and --metric need --table")
    if not options.watch and options.port is not None:
        raise UserError("--port needs --watch")
    if not options.paired and (options.json or options.page):
        raise UserError("--json and --page need --paired")
    if options.table:
        table = _report_module("results_table", options)
        print(table.results_table(options.paths, options.metric or "accuracy", options.format or "markdown"))
    elif options.paired:
        _pair(options)
    elif options.watch:
        _watch(options)
    else:
        pages = _report_module("pages", options)
        for path in options.paths:
            directory = Path(path)
            with reporting_full_disk(directory, lambda: command_line(options.arguments)):
                written = pages.write_pages(directory)
            for page in written:
                print(f"Report: {page}")


def _report_module(name: str, options: argparse.Namespace) -> Any:
    with exit_on_interrupt(options.arguments):
        return import_module(f"lambda_grpo.report.{name}", "report")


def _pair(options: argparse.Namespace) -> None:
    if len(options.paths) != 2:
        raise UserError(f"--paired compares the results at two PATHs, got {len(options.paths)}")
    pairs = _report_module("paired_evaluations", options).pair_evaluations(*options.paths)
    _print_pairs(pairs, options.json)
    if options.page:
        if len(pairs) > 1:
            raise UserError(f"--page shows one task, and these have {len(pairs)}: give two result files")
        page = _report_module("evaluation_page", options).write_paired_report(pairs[0], Path(options.page))
        print(f"Report: {page}", file=sys.stderr)


def _print_pairs(pairs: Iterable[Any], as_json: bool) -> None:
    for pair in pairs:
        if as_json:
            print(json.dumps(pair.to_dict()))
            continue
        print(f"first:  {pair.first.name}\nsecond: {pair.second.name}\n")
        print("\n".join([pair.verdict, *pair.notes]))
        _print_table(f"\n{pair.task}, {pair.statistics.n} problems", ("", "first", "second"), pair.rows())
        print("\n".join(pair.details()) + "\n")


def _watch(options: argparse.Namespace) -> None:
    if len(options.paths) > 1:
        raise UserError("--watch shows one run or study: start it once for each PATH, with a --port of its own")
    _report_module("watch", options).watch(Path(options.paths[0]), WATCH_PORT if options.port is None else options.port)


def _inspect(options: argparse.Namespace, rest: list[str]) -> None:
    with exit_on_interrupt(options.arguments):
        inspection = import_module("lambda_grpo.inspection", "report")
    inspected = inspection.inspect_paths(
        options.paths, columns=options.columns, tokenizer=options.tokenizer, lambda_lr=options.lambda_lr
    )
    found = inspected.found
    if options.page:
        report = _report_module("inspection_page", options)
        page = report.write_inspection_report(inspected, options.paths, Path(options.page))
        print(f"Report: {page}", file=sys.stderr)
    if options.json:
        print(json.dumps(found))
        return
    for columns in dict.fromkeys(found["columns"].values()):
        print(f"Read: {columns}")
    print(f"{inspected.counts}\n")
    print("\n".join(found["verdict"]))
    header, rows, notes = inspection.shares_table(found)
    _print_table("\n% of the gradient by quarter of the lengths, and of right answers", header, rows)
    limits = ", ".join(f"{limit:.0f}" for limit in found["length_quartiles"])
    print(f"Quarters: up to {limits} tokens, and longer. implied: λ; step: its size over DAPO's.")
    print("\n".join(notes))


def _bench(options: argparse.Namespace, rest: list[str]) -> None:
    bench = import_module("lambda_grpo.bench.benchmarks", "trl")
    if options.pairs is not None and options.pairs < 1:
        raise UserError(f"--pairs must be at least 1, got {options.pairs}")
    for name in options.names:
        if name not in bench.BENCHMARKS:
            meant = did_you_mean(name, bench.BENCHMARKS)
            raise UserError(f"no benchmark {name!r}{meant}: use some of {', '.join(bench.BENCHMARKS)}")
    found = []
    for name in options.names or bench.BENCHMARKS:
        if packages := bench.BENCHMARKS[name].to_install:
            advice = f"{name} needs {' and '.join(packages)}: pip install {' '.join(packages)}"
            if options.names:
                raise UserError(advice)
            print(f"skipped: {advice}", file=sys.stderr)
            continue
        print(f"{name} …", file=sys.stderr)
        found.append(bench.BENCHMARKS[name].measure(options.pairs))
    if options.json:
        print(json.dumps([measurement.to_dict() for measurement in found]))
        return
    rate = found[0].matrix_gflops if found else 0.0  # of this machine, so the same for each
    _print_table(
        f"The peer's time over ours: above 1, ours is faster. Products of large matrices: {rate:.0f} GFLOP/s",
        ("", "median", "95 % interval", "min – max", "pairs"),
        [
            (
                m.name,
                f"{m.ratio_median:.3g}",
                "too few" if m.ci95 is None else f"{m.ci95[0]:.3g} – {m.ci95[1]:.3g}",
                f"{m.ratio_min:.3g} – {m.ratio_max:.3g}",
                str(m.pairs),
            )
            for m in found
        ],
    )
    for m in found:
        print(f"  {m.name}: {m.what}")
        for side, seconds in m.seconds.items():
            if "generate" in seconds and m.name.startswith("step_"):
                phases = ", ".join(
                    f"{name} {seconds[name]:.3f}" for name in ("generate", "forward", "backward", "rest")
                )
                print(f"      {side}: {seconds['step']:.3f} s ({phases}), peak {seconds['peak_mib']:.0f} MiB")
        if m.of_matrix_rate is not None:
            shares = ", ".join(f"{phase} {share:.2f}" for phase, share in m.of_matrix_rate.items())
            print(f"      ours, of the machine's matrix rate: {shares}")


def _doctor(options: argparse.Namespace, rest: list[str]) -> int:
    from lambda_grpo.doctor.facts import examine
    from lambda_grpo.doctor.page import describe

    print("importing what is installed …", file=sys.stderr)
    facts = examine()
    print(json.dumps(facts) if options.json else describe(facts))
    return 1 if facts["problems"] else 0


def _print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for position, name in enumerate(header):
        table.add_column(name, justify="left" if position == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:  # don't truncate the table in a file or a pipe
        console = Console(width=max(console.width, console.measure(table).maximum))
    console.print(table)


COMMANDS: dict[str, Callable[[argparse.Namespace, list[str]], int | None]] = {  # None is exit code 0
    "train": _train, "warmup": _warmup, "compare": _compare, "eval": _eval, "report": _report, "inspect": _inspect,
    "bench": _bench, "doctor": _doctor,
}  # fmt: skip
