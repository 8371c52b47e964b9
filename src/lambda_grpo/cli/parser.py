"""The command line: its commands, and their options from those that options/ declares."""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, get_args, get_origin

from lambda_grpo.cli.help import (
    COMPARE_HELP,
    DOCTOR_HELP,
    EVAL_HELP,
    INSPECT_HELP,
    TRAIN_HELP,
    TRAIN_OPTIONS,
    WARMUP_HELP,
)
from lambda_grpo.errors import UserError
from lambda_grpo.options.evaluation import EvaluationOptions
from lambda_grpo.options.option import REQUIRED, OptionFacts, options_of
from lambda_grpo.options.study import StudyOptions
from lambda_grpo.options.text import describe_in_full
from lambda_grpo.suggestions import check_choice, did_you_mean, did_you_mean_option

WATCH_PORT = 8955  # default port of report --watch
EVAL_OPTIONS = options_of(EvaluationOptions)
RECIPE_COMMANDS = ("train", "warmup", "compare")  # whose other options are keys of a recipe
STUDY_OPTIONS = {name: facts for name, facts in options_of(StudyOptions).items() if name != "keep_checkpoints"}


def command_line_parser() -> argparse.ArgumentParser:
    """The parser of `lambda-grpo`. It raises UserError; options of eval and compare that aren't given are left out."""
    parser = _Parser(prog="lambda-grpo", description="Learn which tokens a reinforcement-learning run listens to.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_CommandParser)

    def add(
        name: str, help: str, description: str | None = None, usage: str | None = None, **on_help: Any
    ) -> argparse.ArgumentParser:
        """A command. With a usage of its own, its options are those that the description explains."""
        command: _CommandParser = commands.add_parser(
            name,
            help=help,
            description=description,
            usage=usage,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=usage is None,
        )
        if usage is not None:
            command.add_argument("-h", "--help", help=argparse.SUPPRESS, **(on_help or {"action": "help"}))
        command.takes_recipe_keys = name in RECIPE_COMMANDS
        return command

    train = add(
        "train",
        "train a policy; without arguments, the demonstration",
        TRAIN_HELP,
        "lambda-grpo train [RECIPE.yaml …] [--key value …] [--output_dir DIR [--resume]]",
        nargs="*",
        action=_ExplainKeys,
    )
    train.add_argument("--resume", action="store_true", help=argparse.SUPPRESS)

    add(
        "warmup",
        "fine-tune a model on solutions, before it is trained",
        WARMUP_HELP,
        "lambda-grpo warmup [RECIPE.yaml …] --model_name_or_path MODEL --tasks NAME … --output_dir DIR",
    )

    compare = add(
        "compare",
        "compare objectives, with several seeds and error bars",
        COMPARE_HELP,
        "lambda-grpo compare [STUDY.yaml] [--objectives A,B,…] [--seeds N] [--key value …]",
    )
    for facts in STUDY_OPTIONS.values():
        _add_option(compare, facts, "--task" if facts.name == "tasks" else f"--{facts.name}")
    compare.add_argument("--output_dir", "--output-dir", help=argparse.SUPPRESS)
    compare.add_argument("--processes", type=int, help=argparse.SUPPRESS)

    evaluate = add(
        "eval",
        "evaluate a model on tasks, with confidence intervals",
        EVAL_HELP,
        "lambda-grpo eval --model MODEL --task NAME,… [--key value …] [--output_dir DIR]",
    )
    evaluate.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    for facts in EVAL_OPTIONS.values():
        _add_option(evaluate, facts, f"--{facts.name}")

    report = add("report", "write the page of a run, a study or an evaluation, show it live, or compare evaluations")
    what = "a run, a study or results of eval; with --table and --paired, results of eval"
    report.add_argument("paths", nargs="+", metavar="PATH", help=what)
    instead = report.add_mutually_exclusive_group()
    instead.add_argument(
        "--watch", action="store_true", help="serve the page on this machine, refreshed during the run"
    )
    instead.add_argument("--table", action="store_true", help="print a table of all results at the PATHs")
    instead.add_argument("--paired", action="store_true", help="compare the results at two PATHs problem by problem")
    report.add_argument("--port", type=int, help=f"port of --watch, 0 for any free one ({WATCH_PORT})")
    report.add_argument("--format", choices=("markdown", "latex", "html"), help="format of the table (markdown)")
    report.add_argument("--metric", help="metric of the table: accuracy, pass@4, maj@16, … (accuracy)")
    report.add_argument("--page", metavar="FILE", help="with --paired, also write a page with both sides' samples")
    report.add_argument("--json", action="store_true", help="with --paired, print a JSON object for each task")

    inspect = add("inspect", "say what a run's gradient listened to, from its logs", INSPECT_HELP)
    inspect.add_argument("paths", nargs="+", metavar="PATH", help="run directories, or files of samples")
    inspect.add_argument("--columns", default="", help="names of a file's columns: length=A,reward=B+C,group=D,step=E")
    inspect.add_argument("--tokenizer", help="model whose tokens are counted where there is no column of lengths")
    inspect.add_argument("--lambda_lr", type=float, default=0.1, help="learning rate of the replayed λ (0.1)")
    inspect.add_argument("--page", metavar="FILE", help="also write a page, with charts and the samples")
    inspect.add_argument("--json", action="store_true", help="print a JSON object instead of a table")

    bench = add("bench", "measure speed, as ratios to peers")
    bench.add_argument("names", nargs="*", metavar="NAME", help="benchmarks, named in the table's first column (all)")
    bench.add_argument("--pairs", type=int, help="number of runs of each benchmark and its peer (each benchmark's own)")
    bench.add_argument("--json", action="store_true", help="print a JSON list instead of a table")

    doctor = add("doctor", "check the installation, and suggest fixes", DOCTOR_HELP)
    doctor.add_argument("--json", action="store_true", help="print a JSON object instead")
    return parser


def import_module(module: str, extra: str) -> Any:
    """Import a module of this package. Raises UserError with the extra to install if a dependency is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("lambda_grpo"):
            raise
        raise UserError(f"this command needs {error.name}: pip install 'lambda-grpo[{extra}]'") from error


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}, see {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        check_choice(action, value)


class _CommandParser(_Parser):
    """A command's parser. It reports an unknown option before a missing one, which may be the same one misspelt."""

    takes_recipe_keys = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        known = [option.removeprefix("--") for option in self._option_string_actions if option.startswith("--")]
        for argument in [] if self.takes_recipe_keys else args or []:
            if argument.startswith("--") and argument.split("=")[0].removeprefix("--") not in known:
                raise UserError(
                    f"unknown argument {argument!r}{did_you_mean_option(argument, known)}, see {self.prog} --help"
                )
        return super().parse_known_args(args, namespace)


class _ExplainKeys(argparse.Action):
    """`--help` prints the help page, `--help KEY …` what is known of those keys of a recipe."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None) -> None:
        if not values:
            parser.print_help()
            parser.exit()
        known = {name: facts for kind in TRAIN_OPTIONS for name, facts in options_of(kind).items()}
        names = [value.lstrip("-").replace("-", "_") for value in values]
        if not set(names) <= known.keys():  # of TRL's, whose import takes seconds
            recipe = import_module("lambda_grpo.training.recipe", "trl")
            known |= {name: facts for kind in recipe.KINDS for name, facts in options_of(kind).items()}
        for name in names:
            if name not in known:
                raise UserError(f"a recipe has no key {name!r}{did_you_mean(name, known)}")
            print(describe_in_full(known[name]))
        parser.exit()


def _add_option(command: argparse.ArgumentParser, facts: OptionFacts, spelling: str) -> None:
    command.add_argument(
        spelling,
        dest=facts.name,
        type=_reader(facts.hint),
        required=facts.default is REQUIRED,
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
    )


def _reader(hint: Any) -> Callable[[str], Any]:
    """What reads a value of this type from a command line. Lists are A,B,C; of several types the first one counts."""
    first = next(iter(get_args(hint))) if get_origin(hint) not in (None, list, dict) else hint
    readers: dict[Any, Callable[[str], Any]] = {list: _read_list, dict: _read_json_object, int: int, float: float}
    return readers.get(get_origin(first) or first, str)


def _read_list(text: str) -> Sequence[str]:
    return text.split(",")


def _read_json_object(text: str) -> dict[str, Any]:
    found = json.loads(text)  # raises ValueError, as argparse expects of a type
    if not isinstance(found, dict):
        raise ValueError
    return found


_read_json_object.__name__ = "JSON object"  # for argparse's messages
