"""`lambda-grpo inspect`: paths in, findings out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lambda_grpo.errors import UserError
from lambda_grpo.formatting import counted, percent
from lambda_grpo.inspection.formats import parse_columns
from lambda_grpo.inspection.inspect import inspect_samples
from lambda_grpo.inspection.samples import Array, Samples, Tokenizer, read_samples, read_texts

TEXTS = 1000  # that are tokenized together


@dataclass(frozen=True)
class Inspection:
    """What paths hold, and what was found in it.

    found: of `inspect_samples`. samples: the numbers of all samples. texts: the prompts and completions of some rows.
    """

    found: dict[str, Any]
    samples: Samples
    texts: Callable[[Array], list[tuple[str | None, str | None]]]

    @property
    def counts(self) -> str:
        """What was read: "64 samples, 8 groups, 2 steps"."""
        nouns = {"rows": "sample", "groups": "group", "steps": "step"}
        return ", ".join(counted(self.found[name], noun) for name, noun in nouns.items())


def inspect_paths(
    paths: Sequence[str], *, columns: str = "", tokenizer: str | None = None, lambda_lr: float = 0.1
) -> Inspection:
    """Read the samples that paths hold and inspect them, with progress bars on a terminal.

    Args:
        columns: as `parse_columns` reads them.
        tokenizer: a model, whose tokens are counted where a file has no lengths. Default: the path's own.
        lambda_lr: learning rate of the replayed λ.

    Raises:
        UserError: the learning rate is negative; otherwise see `read_samples`.
    """
    if not (math.isfinite(lambda_lr) and lambda_lr >= 0):
        raise UserError(f"--lambda_lr must be at least 0, got {lambda_lr}")
    given = parse_columns(columns) if columns else {}

    def counter(path: Path) -> Tokenizer:
        folder = path if path.is_dir() else path.parent
        if tokenizer is None and not (folder / "tokenizer_config.json").is_file():
            raise UserError(
                f"{path} has no column of lengths: name one, --columns length=COLUMN, or give the model whose tokens "
                "are counted, --tokenizer MODEL"
            )
        return _token_counter(tokenizer or str(folder))

    sources = [Path(path) for path in paths]
    samples = read_samples(sources, given, counter, _files_with_progress)
    with tqdm(total=len(samples), desc="inspect", unit="sample", disable=None) as bar:
        found = inspect_samples(samples, lambda_lr=lambda_lr, progress=bar.update)
    return Inspection(found, samples, lambda rows: read_texts(sources, given, samples, rows))


def shares_table(found: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]], list[str]]:
    """Header and rows of shares in percent and of λ, and sentences on what the rows leave out.

    Objectives that agree in all figures are one row.
    """
    header = ("", "1st", "2nd", "3rd", "4th", "above" if found["graded"] else "right", "implied", "λ", "step")
    rows: dict[tuple[str, ...], list[str]] = {}
    notes: dict[str, list[str]] = {}
    for name, one in found["objectives"].items():
        if one["note"]:
            notes.setdefault(one["note"], []).append(name)
        if one["share_by_length_quartile"] is None:
            continue
        shares = (*one["share_by_length_quartile"], one["share_by_right"][1])
        factor = one["learning_rate_factor"]
        cells = (
            *(f"{100 * share:.0f}" for share in shares),
            _signed(one["implied_lambda"]),
            _signed(one["lambda"]),
            _factor(factor),
        )
        rows.setdefault(cells, []).append(name)
    sentences = [
        f"The same as {first} to these digits: {', '.join(others)}." for first, *others in rows.values() if others
    ]
    sentences += [f"{', '.join(names)}: {note}." for note, names in notes.items()]
    sentences += [
        f"{name}: λ is the mean of its {len(values)}, which are from {_signed(min(values))} to {_signed(max(values))}."
        for name, one in found["objectives"].items()
        if (values := one["lambdas"])
    ]
    saturated = [f"{name} {percent(one['saturated'])}" for name, one in found["objectives"].items() if one["saturated"]]
    if saturated:
        what = "Groups of different lengths in which one response has nine tenths of the weight"
        sentences.append(f"{what}: {', '.join(saturated)}.")
    return header, [(names[0], *cells) for cells, names in rows.items()], sentences


def _signed(value: float | None) -> str:
    """In five characters, as what `_factor` gives: the table then fits into a terminal of 80."""
    if value is None:
        return "–"
    return f"{value:+.1f}" if abs(value) >= 9.995 else f"{value:+.2f}".replace("-0.00", "+0.00")


def _factor(value: float | None) -> str:
    if value is None:
        return "–"
    if not 0.01 <= value < 99999:
        return f"{value:.0e}"
    return f"{value:.2g}" if value < 99 else f"{value:.0f}"


def _token_counter(model: str) -> Tokenizer:
    from lambda_grpo.models import load_tokenizer, resolve_model

    tokenizer = load_tokenizer(resolve_model(model))

    def count(texts: list[str]) -> list[int]:
        counts: list[int] = []
        for i in range(0, len(texts), TEXTS):
            encoded = tokenizer(texts[i : i + TEXTS], add_special_tokens=False, verbose=False)["input_ids"]
            counts += map(len, encoded)
        return counts

    return count


def _files_with_progress(files: Iterable[Path], total: int) -> Iterator[Path]:
    with tqdm(total=total, desc="read", unit="B", unit_scale=True, disable=None) as bar:
        for file in files:
            yield file
            bar.update(file.stat().st_size)
