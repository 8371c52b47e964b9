"""The problems of `make real`: sums and ASDiv for the warm-up, MAWPS to train on by reinforcement, and to evaluate.

    python studies/smollm2/problems.py DATA OUTPUT_DIR [--seed N]

DATA holds published data sets as JSONL: ASDiv (arXiv 2106.15772; columns body, question, answer, formula) as
asdiv.jsonl, and MAWPS (NAACL 2016; columns input, target) as mawps_addsub.jsonl, mawps_singleop.jsonl,
mawps_singleeq.jsonl and mawps_multiarith.jsonl. Problems of MAWPS that share 13 words in a row with one of ASDiv or
with a held-out one are left out when the run begins (`remove_overlap`).
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from pathlib import Path
from typing import Any

MAWPS = ("addsub", "singleop", "singleeq", "multiarith")
SUMS = 4500
TEST_SIZE = 500
SPLIT_SEED = 0  # the held-out problems are the same for all seeds
ARITHMETIC = re.compile(r"[\d.,+\-*/() ]+=[\d., ]+")  # a formula without units and remarks


def sum_of_two(draw: random.Random) -> dict[str, str]:
    """One sum, difference, product or quotient, whose result is a whole number."""
    kind = draw.choices("+-*/", (0.3, 0.4, 0.15, 0.15))[0]
    largest = draw.choices((20, 100, 1000), (0.3, 0.55, 0.15))[0]
    a, b = draw.randint(1, largest), draw.randint(1, largest)
    if kind == "-":
        a, b = max(a, b), min(a, b)
    if kind in "*/":
        a, b = draw.randint(1, 12 if draw.random() < 0.7 else 60), draw.randint(1, 12)
    if kind == "/":
        a *= b
    result = {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[kind]
    return {"question": f"What is {a} {kind} {b}?", "solution": f"{a}{kind}{b}={result}", "answer": str(result)}


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a data set."""
    path = folder / f"{name}.jsonl"
    if not path.is_file():
        sys.exit(f"problems.py: no file {path}: set DATA to the folder with ASDiv and MAWPS, see {__file__}")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """A data set as JSONL."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def unique_mawps(folder: Path) -> list[dict[str, Any]]:
    """The problems of MAWPS, each once: its parts share some, with other spaces."""
    by_words = {}
    for part in MAWPS:
        for row in read(folder, f"mawps_{part}"):
            words = "".join(re.findall(r"\w", row["input"].lower()))
            by_words.setdefault(words, {"question": row["input"], "answer": row["target"]})
    return list(by_words.values())


def main() -> None:
    """Write sums.jsonl, asdiv.jsonl, train.jsonl and test.jsonl."""
    parser = argparse.ArgumentParser(description="Write the problems of `make real`.")
    parser.add_argument("data", type=Path)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--seed", type=int, default=1, help="of the sums")
    args = parser.parse_args()
    asdiv = [row for row in read(args.data, "asdiv") if ARITHMETIC.fullmatch(row["formula"])]
    mawps = unique_mawps(args.data)
    random.Random(SPLIT_SEED).shuffle(mawps)
    draw = random.Random(args.seed)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    write(args.output_dir / "sums.jsonl", [sum_of_two(draw) for _ in range(SUMS)])
    write(args.output_dir / "asdiv.jsonl", asdiv)
    write(args.output_dir / "test.jsonl", mawps[:TEST_SIZE])
    write(args.output_dir / "train.jsonl", mawps[TEST_SIZE:])


if __name__ == "__main__":
    main()
