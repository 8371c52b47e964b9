"""`lambda-grpo inspect`: paths in, findings out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lambda_grpo.errors import UserError
from lambda_grpo.formatting import percent
from lambda_grpo.inspection.formats import parse_columns
from lambda_grpo.inspection.inspect import inspect_samples
from lambda_grpo.inspection.samples import Tokenizer, read_samples

TEXTS = 1000  # that are tokenized together


def inspect_paths(paths: Sequence[str], *, columns: str = "", tokenizer: str | None = None) -> dict[str, Any]:
    """`inspect_samples` of the samples that paths hold, with progress bars on a terminal.

    Args:
        columns: as `parse_columns` reads them.
        tokenizer: a model, whose tokens are counted where a file has no lengths. Default: the path's own.

    Raises:
        UserError: see `read_samples`.
    """
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
        return inspect_samples(samples, progress=bar.update)


def shares_table(found: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows: shares by length and of right answers, and λ; objectives that agree in all of it are one row."""
    right = "above mean" if found["graded"] else "right"
    header = ("", "shortest", "2nd", "3rd", "longest", right, "implied λ", "λ", "step size")
    rows: dict[tuple[str, ...], list[str]] = {}
    for name, one in found["objectives"].items():
        if one["share_by_length_quartile"] is None:
            continue
        cells = (
            *map(percent, one["share_by_length_quartile"]),
            percent(one["share_by_right"][1]),
            _signed(one["implied_lambda"]),
            _signed(one["lambda"]),
            "–" if one["learning_rate_factor"] is None else f"{one['learning_rate_factor']:.3g}",
        )
        rows.setdefault(cells, []).append(name)
    return header, [(", ".join(names), *cells) for cells, names in rows.items()]


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


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
