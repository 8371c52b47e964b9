"""`lambda-grpo inspect`: paths in, findings out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lambda_grpo.errors import UserError
from lambda_grpo.inspection.formats import parse_columns
from lambda_grpo.inspection.inspect import inspect_samples
from lambda_grpo.inspection.samples import Tokenizer, read_samples

TEXTS = 1000  # that are tokenized together


def inspect_paths(
    paths: Sequence[str], *, columns: str = "", tokenizer: str | None = None, lambda_lr: float = 0.1
) -> dict[str, Any]:
    """`inspect_samples` of the samples that paths hold, with progress bars on a terminal.

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

    samples = read_samples([Path(path) for path in paths], given, counter, _files_with_progress)
    with tqdm(total=len(samples), desc="inspect", unit="sample", disable=None) as bar:
        return inspect_samples(samples, lambda_lr=lambda_lr, progress=bar.update)


def shares_table(found: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]], list[str]]:
    """Header and rows of shares in percent and of λ, and a sentence for objectives that are left out or not whole.

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
            "–" if factor is None else f"{factor:.2g}",
        )
        rows.setdefault(cells, []).append(name)
    sentences = [
        f"The same as {first} to these digits: {', '.join(others)}." for first, *others in rows.values() if others
    ]
    sentences += [f"{', '.join(names)}: {note}." for note, names in notes.items()]
    return header, [(names[0], *cells) for cells, names in rows.items()], sentences


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}".replace("-0.00", "+0.00")


def _token_counter(model: str) -> Tokenizer:
    from lambda_grpo.models import load_tokenizer, resolve_model

    tokenizer = load_tokenizer(resolve_model(model))

    def count(texts: list[str]) -> list[int]:
        counts: list[int] = []
        for i in range(0, len(texts), TEXTS):
            encoded = tokenizer(texts[i : i + TEXTS], add_special_tokens=False)["input_ids"]
            counts += map(len, encoded)
        return counts

    return count


def _files_with_progress(files: Iterable[Path], total: int) -> Iterator[Path]:
    with tqdm(total=total, desc="read", unit="B", unit_scale=True, disable=None) as bar:
        for file in files:
            yield file
            bar.update(file.stat().st_size)
