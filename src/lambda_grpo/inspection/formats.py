"""Which files hold a run's samples, and which of their columns say what: ours, TRL's, verl's, or named by the user."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from lambda_grpo.errors import UserError
from lambda_grpo.suggestions import did_you_mean

SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".csv", ".arrow", ".feather")
# Where a run leaves its samples: lambda-grpo and TRL's log_completions, then verl's rollout_data_dir, and any folder
PATTERNS = ("completions/step-*.parquet", "completions/completions_*.parquet", "*")


@dataclass(frozen=True)
class Columns:
    """Names of columns.

    Attributes:
        length: tokens that the policy generated.
        text: the completion, whose tokens are counted where there is no length.
        reward: one or several, which are added up.
        group: the id of a group; members share it within a step.
        prompt: what tells the groups of a step apart where there is no id.
        step: the step for which the sample was generated.
    """

    length: str | None = None
    text: str | None = None
    reward: tuple[str, ...] = ()
    group: str | None = None
    prompt: str | None = None
    step: str | None = None

    @property
    def names(self) -> list[str]:
        """The columns to read."""
        length = [self.length] if self.length else [self.text]
        group = [self.group] if self.group else [self.prompt]
        return [name for name in dict.fromkeys([*length, *self.reward, *group, self.step]) if name]

    def described(self) -> str:
        """What is read as what, for readers."""
        length = f"length = {self.length}" if self.length else f"length = tokens of {self.text}"
        group = f"group = {self.group}" if self.group else f"group = {self.prompt}"
        step = f", step = {self.step}" if self.step else ", all one step"
        return f"{length}, reward = {' + '.join(self.reward)}, {group}{step}"


# Usual names of columns in files of unknown origin, the likeliest first
USUAL: dict[str, tuple[str, ...]] = {
    "length": ("length", "completion_length", "response_length", "num_tokens", "tokens"),
    "text": ("completion", "response", "output", "text"),
    "reward": ("reward", "score", "rewards"),
    "group": ("group", "group_id", "uid", "prompt_id"),
    "prompt": ("prompt", "input", "question", "problem"),
    "step": ("step", "global_step", "iteration"),
}
TRL_COLUMNS = {"step", "prompt", "completion", "advantage"}


def parse_columns(text: str) -> dict[str, Any]:
    """`length=tokens,reward=format+accuracy,group=uid` as fields of `Columns`.

    Raises:
        UserError: a part isn't `name=column`, or the name isn't one of the fields.
    """
    known = [field.name for field in fields(Columns)]
    found: dict[str, Any] = {}
    for part in text.split(","):
        name, _, column = (piece.strip() for piece in part.partition("="))
        if name not in known:
            raise UserError(f"--columns: {name!r} is none of {', '.join(known)}{did_you_mean(name, known)}")
        if not column:
            raise UserError(f"--columns: {name} names no column: write {name}=COLUMN")
        found[name] = tuple(column.split("+")) if name == "reward" else column
    return found


def find_columns(path: Path, there: Collection[str], numeric: Sequence[str], given: dict[str, Any]) -> Columns:
    """The columns of a file.

    Args:
        there: its columns.
        numeric: those that hold numbers or booleans.
        given: what the user named, which comes first.

    Raises:
        UserError: a column that was named isn't there, or one that is needed can't be found.
    """
    for name, column in given.items():
        for one in column if isinstance(column, tuple) else (column,):
            if one not in there:
                meant = did_you_mean(one, there)
                raise UserError(f"{path} has no column {one!r} for {name}{meant}: it has {', '.join(there)}")
    guessed = _guessed(there, numeric)
    columns = replace(guessed, **given)
    if "text" in given and "length" not in given:
        columns = replace(columns, length=None)
    if "prompt" in given and "group" not in given:
        columns = replace(columns, group=None)
    for needed, found in (
        ("length", columns.length or columns.text),
        ("reward", columns.reward),
        ("group", columns.group or columns.prompt),
    ):
        if not found:
            other = ", or that of the completions, whose tokens are counted, --columns text=COLUMN"
            raise UserError(
                f"{path}: which column is the {needed}? It has {', '.join(there)}: name it, --columns {needed}=COLUMN"
                + (other if needed == "length" else "")
            )
    return columns


def _guessed(there: Collection[str], numeric: Sequence[str]) -> Columns:
    if set(there) >= TRL_COLUMNS and "reward" not in there:  # TRL's log_completions: a column for each reward function
        rewards = tuple(name for name in numeric if name not in ("step", "advantage"))
        return Columns(text="completion", reward=rewards, prompt="prompt", step="step")
    found = {name: next((one for one in names if one in there), None) for name, names in USUAL.items()}
    reward = found.pop("reward")
    return Columns(**found, reward=(reward,) if reward else ())


def sample_files(path: Path) -> list[Path]:
    """The files of samples that a path stands for: itself, or those of a directory in natural order.

    Raises:
        UserError: there is no such path, or no file that could hold samples.
    """
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise UserError(f"{path}: give a file that ends in {', '.join(SUFFIXES)}, or a run directory")
        return [path]
    if not path.is_dir():
        raise UserError(f"{path} doesn't exist: give a run directory, or files of samples")
    for pattern in PATTERNS:
        found = [one for one in path.glob(pattern) if one.is_file() and one.suffix in SUFFIXES]
        found = [one for one in found if one.name != "metrics.jsonl" and not one.name.endswith(".samples.jsonl")]
        if found:
            return sorted(found, key=_natural)
    raise UserError(
        f"{path} holds no samples: neither completions/ of lambda-grpo or of TRL's log_completions, nor files that end "
        f"in {', '.join(SUFFIXES)}"
    )


def _natural(path: Path) -> list[tuple[int, str]]:
    """A key by which step 9 comes before step 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]
