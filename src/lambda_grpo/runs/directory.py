"""The run directory: the files of a run, written and read.

run.json          resolved settings, versions, git commit
metrics.jsonl     one line per logged step
completions/      step-00000001.parquet …: the samples of each generation
eval/             before.json, during.jsonl (one line per evaluation), after.json, and the results of `lambda-grpo eval`
config.json, model.safetensors, tokenizer.json, …: the final model, for `from_pretrained`
lambda_state.json λ of the final model
README.md         the model card
checkpoint-*/     the Trainer's checkpoints, each with λ and a model card
overlap.json      training problems found in test sets, with check_overlap
earlier-1/ …      records of an earlier training in the same directory
hub/              the files pushed to the hub
report.html

`LambdaGRPOTrainer` writes run.json, metrics.jsonl, completions/ and checkpoints into its `output_dir`, and the final
model when `save_model()` is called. `lambda-grpo train` calls it, and writes the other files.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lambda_grpo.errors import UserError
from lambda_grpo.files import write_json, write_text
from lambda_grpo.runs.checkpoints import is_complete, is_whole
from lambda_grpo.runs.record import HeldOutRecord, MetricsRecord, RunRecord
from lambda_grpo.runs.sample_files import read_table, step_of, with_tokens, write_table

RUN_FILE, METRICS_FILE, DURING_FILE = "run.json", "metrics.jsonl", "eval/during.jsonl"
# The records of a training, without the model and the checkpoints
RECORDS = (RUN_FILE, METRICS_FILE, "completions/step-*.parquet", "eval/*", "overlap.json", "report.html")


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether a directory is a run directory."""
    return Path(path, RUN_FILE).is_file()


class Run:
    """A run directory, which need not exist yet."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Run:
        """An existing run. Raises UserError if the directory isn't one."""
        run = cls(path)
        if not run.path.is_dir():
            raise UserError(f"{run.path} is not a run directory: it doesn't exist; give the output_dir of a run")
        if not is_run(run.path):
            raise UserError(
                f"{run.path} is not a run directory: it has no {RUN_FILE}, which lambda-grpo train and "
                "LambdaGRPOTrainer write into their output_dir"
            )
        return run

    def check_empty(self) -> None:
        """Raise UserError unless a new run can start here."""
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise UserError(
                f"{self.path} is not empty: add --resume to continue this run, or choose another --output_dir"
            )

    # -- writing -----------------------------------------------------------------------------------------------------

    def log_metrics(self, record: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl. NaN and infinity, which JSON lacks, become null."""
        self._append(METRICS_FILE, record)

    def log_completions(self, step: int, columns: Mapping[str, list[Any]]) -> None:
        """Write the samples generated for `step`, appended to those of an earlier generation for the same step."""
        import pyarrow as pa

        count = len(next(iter(columns.values())))
        path = self._samples_of(step)
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pa.table({**columns, "step": [step] * count})
        if path.exists():  # TRL may generate several batches for one optimizer step
            table = pa.concat_tables([read_table(path, tokens=True), table], promote_options="permissive")
        write_table(table, path)

    def log_tokens(self, step: int, columns: Mapping[str, list[Any]]) -> None:
        """Add values of single tokens to the last samples generated for `step`, as many as each column has values.

        columns: some of `TOKEN_COLUMNS`; None for a sample leaves what there is. What is known isn't replaced, except
            for `clipped`, which changes with each update.
        """
        path = self._samples_of(step)
        write_table(with_tokens(read_table(path, tokens=True), columns), path)

    def log_evaluation(self, name: str, evaluation: Mapping[str, Any]) -> None:
        """Write eval/NAME.json."""
        self._write_json(f"eval/{name}.json", evaluation)

    def log_evaluation_during(self, record: HeldOutRecord) -> None:
        """Append a line to eval/during.jsonl."""
        (self.path / DURING_FILE).parent.mkdir(exist_ok=True)
        self._append(DURING_FILE, record)

    def rewind(self, step: int, metrics: Iterable[Mapping[str, Any]]) -> None:
        """Remove the records after `step`, from which the run resumes; `metrics` are the records up to it."""
        self.write_text(METRICS_FILE, "".join(metrics_line(record) + "\n" for record in metrics))
        if (self.path / DURING_FILE).exists():
            kept = [record for record in self.evaluations_during() if record["step"] <= step]
            self.write_text(DURING_FILE, "".join(metrics_line(record) + "\n" for record in kept))
        (self.path / "eval" / "after.json").unlink(missing_ok=True)
        for part in self.path.glob("completions/step-*.parquet"):
            if step_of(part) > step:
                part.unlink()

    def archive_records(self) -> Path | None:
        """Move the records into a subfolder, itself a run directory, and return it; None if there are none."""
        files = sorted(file for pattern in RECORDS for file in self.path.glob(pattern))
        if not files:
            return None
        folder = next(path for n in itertools.count(1) if not (path := self.path / f"earlier-{n}").exists())
        for file in files:
            moved = folder / file.relative_to(self.path)
            moved.parent.mkdir(parents=True, exist_ok=True)
            file.rename(moved)
        return folder

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write run.json."""
        self._write_json(RUN_FILE, config)

    def log_model(self, step: int) -> None:
        """Record in run.json that the directory itself holds the policy of that step."""
        self.write_config({**self.config(), "model_step": step})

    def write_text(self, name: str, content: str) -> Path:
        """Write a file of the directory atomically."""
        return write_text(self.path / name, content)

    def _samples_of(self, step: int) -> Path:
        return self.path / "completions" / f"step-{step:08d}.parquet"

    def _append(self, name: str, record: Mapping[str, Any]) -> None:
        with open(self.path / name, "a") as file:
            file.write(metrics_line(record) + "\n")

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        write_json(self.path / name, content)

    # -- reading -----------------------------------------------------------------------------------------------------

    def config(self) -> RunRecord:
        """run.json."""
        return json.loads((self.path / RUN_FILE).read_text())

    def metrics(self) -> list[MetricsRecord]:
        """The records of metrics.jsonl in order, without a last line that a kill cut short."""
        return self._lines(METRICS_FILE)

    def _lines(self, name: str) -> list[Any]:
        path = self.path / name
        lines = path.read_text().split("\n") if path.exists() else [""]
        return [json.loads(line) for line in lines[:-1]]  # the text after the last newline is incomplete or empty

    def completions(self, *, steps: Collection[int] | None = None, tokens: bool = False) -> Any:
        """Samples as one pyarrow Table, in order of steps; None if there are none yet.

        Args:
            steps: those for which the samples were generated; None for all.
            tokens: whether to read `TOKEN_COLUMNS` too, as far as they are recorded.
        """
        import pyarrow as pa

        files = sorted(self.path.glob("completions/step-*.parquet"))
        parts = [read_table(file, tokens=tokens) for file in files if steps is None or step_of(file) in steps]
        return pa.concat_tables(parts, promote_options="permissive") if parts else None

    def evaluation(self, name: str) -> dict[str, Any] | None:
        """eval/NAME.json; None if it doesn't exist."""
        path = self.path / "eval" / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def evaluations_during(self) -> list[HeldOutRecord]:
        """The records of eval/during.jsonl in order, without a last line that a kill cut short."""
        return self._lines(DURING_FILE)

    def evaluations(self) -> list[HeldOutRecord]:
        """The evaluations on the held-out problems before, during and after training, in order of steps.

        What an earlier version of this program didn't record is None.
        """
        found: list[Any] = [self.evaluation("before"), *self.evaluations_during(), self.evaluation("after")]
        records: list[Any] = [
            {key: one.get(key) for key in HeldOutRecord.__annotations__} for one in found if one is not None
        ]
        return sorted(records, key=lambda record: record["step"])

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first; those that a kill cut short are left out."""
        found = [path for path in self.path.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
        return sorted(filter(is_complete, found), key=lambda path: int(path.name.removeprefix("checkpoint-")))

    def model(self) -> Path | None:
        """The folder with the run's policy: the directory itself, or a checkpoint while there is no final model."""
        has_weights = any(self.path.glob("*.safetensors")) or any(self.path.glob("pytorch_model*.bin"))
        return self.path if has_weights and "model_step" in self.config() else self.policy_checkpoint()

    def weights_bytes(self) -> int:
        """Bytes of the checkpoints and of the final model."""
        files = [*self.path.glob("checkpoint-*/**/*"), *self.path.glob("*.safetensors")]
        return sum(path.stat().st_size for path in files if path.is_file())

    def remove_half_written(self) -> None:
        """Remove checkpoints that aren't complete and weights of the final model that were cut short."""
        for path in set(self.path.glob("checkpoint-*")).difference(self.checkpoints()):
            shutil.rmtree(path, ignore_errors=True)
        for path in self.path.glob("*.safetensors"):
            if not is_whole(path):
                path.unlink()

    def step_of(self, model: Path) -> int:
        """The step of a folder that `model` or `checkpoints` returned."""
        return self.config()["model_step"] if model == self.path else int(model.name.removeprefix("checkpoint-"))

    def policy_checkpoint(self) -> Path | None:
        """The checkpoint with the run's policy: the last one, or the best one with `load_best_model_at_end`."""
        checkpoints = self.checkpoints()
        if not checkpoints:
            return None
        if self.config().get("resolved", {}).get("training", {}).get("load_best_model_at_end"):
            best = json.loads((checkpoints[-1] / "trainer_state.json").read_text()).get("best_global_step")
            return next((path for path in checkpoints if path.name == f"checkpoint-{best}"), checkpoints[-1])
        return checkpoints[-1]


def grades(samples: Any, task: str | None) -> list[float | None]:
    """The task's own grade of each sample, without weights and penalties; None for those that weren't scored.

    The total reward for a run whose rewards aren't a task's.

    Args:
        samples: `Run.completions`.
        task: the name of the training data in run.json.
    """
    return samples[grade_column(samples.column_names, task)].to_pylist()


def grade_column(columns: Sequence[str], task: str | None) -> str:
    """Which of the columns of the samples has the grades, see `grades`."""
    own = f"reward/{task}"
    return own if own in columns else "reward"


def sampled_accuracy(samples: Any, task: str | None = None) -> list[tuple[int, float]]:
    """By step, the share of samples with a grade of 1 among the scored ones. The arguments are those of `grades`."""
    right: dict[int, int] = defaultdict(int)
    scored: dict[int, int] = defaultdict(int)
    for step, grade in zip(samples["step"].to_pylist(), grades(samples, task), strict=True):
        if grade is not None:
            scored[step] += 1
            right[step] += grade == 1.0
    return [(step, right[step] / scored[step]) for step in sorted(scored)]


def metrics_line(record: Mapping[str, Any]) -> str:
    """A record as a line of metrics.jsonl."""
    return json.dumps({key: _finite(value) for key, value in record.items()})


def _finite(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value  # NumPy numbers, which reward functions log
    return None if isinstance(value, float) and not math.isfinite(value) else value
