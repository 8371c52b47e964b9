"""The commands of `lambda-grpo`. Heavy imports are inside the commands, so that --help and errors come at once."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from lambda_grpo.cli.help import COMPARE_HELP, DOCTOR_HELP, EVAL_HELP, TRAIN_HELP
from lambda_grpo.cli.interrupts import EXIT_CODE, command_line, exit_on_interrupt, report_interrupt
from lambda_grpo.distributed import is_main_process
from lambda_grpo.errors import Stopped, UserError
from lambda_grpo.formatting import percent, percent_range
from lambda_grpo.suggestions import check_choice, did_you_mean, did_you_mean_option


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
        options, rest = _parser().parse_known_args(arguments)
        if rest and options.command not in ("train", "compare"):
            meant = did_you_mean(rest[0], [f"--{name}" for name in EVAL_OPTIONS]) if options.command == "eval" else ""
            raise UserError(f"unknown argument {rest[0]!r}, see lambda-grpo {options.command} --help{meant}")
        options.arguments = arguments
        code: int | None = options.run(options, rest)
    except UserError as error:
        print(f"lambda-grpo: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        if argv is None:  # the process is ending: another Ctrl-C would only print a traceback
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        report_interrupt(stop, arguments)
        return EXIT_CODE
    return code or 0


Command = Callable[[Any, list[str]], int | None]  # None is exit code 0


def _list(text: str) -> list[str]:
    return text.split(",")


STUDY_OPTIONS: dict[str, Callable[[str], Any]] = {
    "objectives": _list, "against": str, "task": _list, "seeds": int, "tuning_seeds": int, "learning_rates": _list,
    "endpoint": str, "target_accuracy": float,
}  # fmt: skip


def _mapping(text: str) -> dict[str, Any]:
    found = json.loads(text)  # raises ValueError, as argparse expects of a type
    if not isinstance(found, dict):
        raise ValueError
    return found


_mapping.__name__ = "JSON object"  # for argparse's messages


EVAL_OPTIONS: dict[str, Callable[[str], Any]] = {
    "model": str, "task": str, "data": str, "question_column": str, "answer_column": str, "n": int, "template": str,
    "chat_template_kwargs": _mapping, "shots": int, "shots_data": str, "samples": int, "temperature": float,
    "top_p": float, "top_k": int, "max_completion_length": int, "engine": str, "server": str, "batch_size": int,
    "seed": int, "output_dir": str,
}  # fmt: skip


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}, see {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        check_choice(action, value)


class _CommandParser(_Parser):
    """A command's parser. It reports an unknown option before a missing one, which may be the same one misspelt."""

    takes_recipe_keys = False  # if True, other options are keys of a recipe

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        known = [option.removeprefix("--") for option in self._option_string_actions if option.startswith("--")]
        for argument in [] if self.takes_recipe_keys else args or []:
            if argument.startswith("--") and argument.split("=")[0].removeprefix("--") not in known:
                raise UserError(
                    f"unknown argument {argument!r}{did_you_mean_option(argument, known)}, see {self.prog} --help"
                )
        return super().parse_known_args(args, namespace)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="lambda-grpo", description="Learn which tokens a reinforcement-learning run listens to.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_CommandParser)

    def add(name: str, run: Command, help: str, **settings: Any) -> argparse.ArgumentParser:
        command: _CommandParser = commands.add_parser(name, help=help, allow_abbrev=False, **settings)
        command.set_defaults(run=run)
        command.takes_recipe_keys = name in ("train", "compare")
        return command

    train = add(
        "train",
        _train,
        "train a policy; without arguments, the demonstration",
        usage="lambda-grpo train [RECIPE.yaml …] [--key value …] [--output_dir DIR [--resume]]",
        description=TRAIN_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    train.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
    train.add_argument("--resume", action="store_true", help=argparse.SUPPRESS)

    compare = add(
        "compare",
        _compare,
        "compare objectives, with several seeds and error bars",
        usage="lambda-grpo compare [STUDY.yaml] [--objectives A,B,…] [--seeds N] [--task NAME] [--key value …]",
        description=COMPARE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    compare.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
    for name, kind in STUDY_OPTIONS.items():
        compare.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    compare.add_argument("--output_dir", "--output-dir", help=argparse.SUPPRESS)
    compare.add_argument("--processes", type=int, help=argparse.SUPPRESS)

    evaluate = add(
        "eval",
        _eval,
        "evaluate a model on tasks, with confidence intervals",
        usage="lambda-grpo eval --model MODEL --task NAME,… [--key value …] [--output_dir DIR]",
        description=EVAL_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    evaluate.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
    evaluate.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    for name, kind in EVAL_OPTIONS.items():
        required = name in ("model", "task")
        evaluate.add_argument(
            f"--{name}", type=kind, required=required, default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )

    report = add("report", _report, "rewrite a run's or a study's report.html, or print a table of evaluations")
    report.add_argument("paths", nargs="+", metavar="PATH", help="a run or a study; with --table, results of eval")
    report.add_argument("--table", action="store_true", help="print a table of all results at the PATHs")
    report.add_argument("--format", choices=("markdown", "latex", "html"), help="format of the table (markdown)")
    report.add_argument("--metric", help="metric of the table: accuracy, pass@4, maj@16, … (accuracy)")

    bench = add("bench", _bench, "measure speed, as ratios to peers")
    bench.add_argument("names", nargs="*", metavar="NAME", help="benchmarks, named in the table's first column (all)")
    bench.add_argument("--pairs", type=int, help="number of runs of each benchmark and its peer (each benchmark's own)")
    bench.add_argument("--json", action="store_true", help="print a JSON list instead of a table")

    doctor = add(
        "doctor",
        _doctor,
        "check the installation, and suggest fixes",
        description=DOCTOR_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    doctor.add_argument("--json", action="store_true", help="print a JSON object instead")
    return parser


def _train(options: argparse.Namespace, rest: list[str]) -> None:
    first = next((i for i, word in enumerate(rest) if word.startswith("-")), len(rest))
    recipes, overrides = rest[:first], rest[first:]
    with exit_on_interrupt(options.arguments):
        training = _import("lambda_grpo.training.run", "trl")
        report = _import("lambda_grpo.report", "report")
    run = training.train(recipes, overrides, resume=options.resume)
    if not is_main_process():
        return
    summary = report.summarise(run)
    _print_table(f"{summary.objective}, {summary.steps} steps", ("", "before", "after"), summary.rows)
    print("\n".join(summary.verdict))
    print(f"\nReport: {run.path / 'report.html'}")


def _compare(options: argparse.Namespace, rest: list[str]) -> None:
    path = rest.pop(0) if rest and not rest[0].startswith("-") else None
    with exit_on_interrupt(options.arguments):
        comparison = _import("lambda_grpo.comparison", "trl,report")
        report = _import("lambda_grpo.report", "report")
    given = {name: value for name in STUDY_OPTIONS if (value := getattr(options, name)) is not None}
    if "task" in given:
        given["tasks"] = given.pop("task")
    study = comparison.read_study(path, given, rest)
    if options.processes is not None and options.processes < 1:
        raise UserError(f"--processes must be at least 1, got {options.processes}")
    directory = Path(options.output_dir or f"studies/{datetime.now():%Y-%m-%d-%H%M%S}")
    print(study.describe(), file=sys.stderr)
    try:
        results = comparison.compare(study, directory, processes=options.processes)
    except KeyboardInterrupt as stop:
        where = [] if options.output_dir else ["--output_dir", str(directory)]
        raise Stopped(command_line([*options.arguments, *where])) from stop
    page = report.write_study_report(results, directory)
    for task in study.tasks:
        _print_table(f"{study.endpoint} on {task}, against {study.against}", *comparison.arms_table(results, task))
    print("\n".join(results["verdict"]))
    print(f"\nReport: {page}")


def _eval(options: argparse.Namespace, rest: list[str]) -> None:
    with exit_on_interrupt(options.arguments):
        evaluation = _import("lambda_grpo.evaluation.run", "trl,eval")
    given = {name: getattr(options, name) for name in EVAL_OPTIONS if hasattr(options, name)}
    named = given.pop("task")
    names = [named] if Path(named).is_file() else [name.strip() for name in named.split(",")]
    tasks = tuple(name for chosen in names for name in (evaluation.BENCHMARKS if chosen == "benchmarks" else [chosen]))
    for result in evaluation.run(evaluation.Request(tasks=tasks, **given)):
        if options.json:
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
    from lambda_grpo.runs.directory import Run

    report = _import("lambda_grpo.report", "report")
    if options.table:
        print(report.results_table(options.paths, options.metric or "accuracy", options.format or "markdown"))
        return
    if options.format or options.metric:
        raise UserError("--format and --metric need --table")
    for path in options.paths:
        directory = Path(path)
        if (directory / "results.json").is_file():
            page = report.write_study_report(json.loads((directory / "results.json").read_text()), directory)
        else:
            page = report.write_report(Run.open(directory))
        print(f"Report: {page}")


def _bench(options: argparse.Namespace, rest: list[str]) -> None:
    bench = _import("lambda_grpo.bench.benchmarks", "trl")
    if options.pairs is not None and options.pairs < 1:
        raise UserError(f"--pairs must be at least 1, got {options.pairs}")
    for name in options.names:
        if name not in bench.BENCHMARKS:
            meant = did_you_mean(name, bench.BENCHMARKS)
            raise UserError(f"no benchmark {name!r}{meant}: use some of {', '.join(bench.BENCHMARKS)}")
    found = []
    for name in options.names or bench.BENCHMARKS:
        print(f"{name} …", file=sys.stderr)
        found.append(bench.BENCHMARKS[name].measure(options.pairs))
    if options.json:
        print(json.dumps([measurement.to_dict() for measurement in found]))
        return
    _print_table(
        "The peer's time over ours: above 1, ours is faster",
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


def _import(module: str, extra: str) -> Any:
    """Import a module of this package. Raises UserError with the extra to install if a dependency is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("lambda_grpo"):
            raise
        raise UserError(f"this command needs {error.name}: pip install 'lambda-grpo[{extra}]'") from error


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
