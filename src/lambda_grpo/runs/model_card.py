"""The model card: how a model was trained, the course of λ, and its evaluations.

A card is written whenever a model is saved. Later evaluations are inserted into the existing cards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from yaml import YAMLError

from lambda_grpo.errors import warn_once
from lambda_grpo.formatting import in_words, percent, percent_range
from lambda_grpo.runs.directory import Run
from lambda_grpo.runs.provenance import provenance

CARD_FILE = "README.md"
MAX_LAMBDA_STEPS = 12  # that λ's table lists
NOT_EVALUATED = "Not evaluated."
REQUIRED_KEYS = {  # of an evaluation
    "task",
    "n",
    "accuracy",
    "ci95",
    "completion_length_mean",
    "sampling",
    "samples",
}

_EVALUATION = re.compile(r"(?<=<!-- evaluation -->\n).*?(?=\n<!-- end of evaluation -->)", re.DOTALL)


@dataclass(frozen=True)
class CardFacts:
    """The contents of a card.

    Attributes:
        name: the model's name.
        base_model: the base model's name for readers. hub_model: its id on the hub, or None.
        is_adapter: whether the saved model is an adapter, loaded on top of the base model.
        objective, data, training: settings by name; those that are None are left out.
        metrics: the logged steps that have a λ; empty for an objective without one.
        lambda_value: λ after the last step; a list with one value per pass rate if the objective has several.
        output_dir: the run directory, whose `eval/` holds the evaluations.
        trl_citation: the paper that TRL's trainer asks to cite.
    """

    name: str
    base_model: str
    hub_model: str | None
    is_adapter: bool
    step: int
    objective: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    lambda_value: float | list[float]
    data: Mapping[str, Any]
    training: Mapping[str, Any]
    output_dir: Path
    datasets: list[str] | None = None
    tags: Sequence[str] = ()
    trl_citation: str | None = None


def write_card(path: Path, facts: CardFacts) -> None:
    """Write a card, replacing an existing one."""
    evaluations = read_evaluations(facts.output_dir)
    versions = provenance()
    data = ModelCardData(
        base_model=facts.hub_model,
        base_model_relation="adapter" if facts.is_adapter and facts.hub_model else None,
        datasets=facts.datasets,
        library_name="peft" if facts.is_adapter else "transformers",
        pipeline_tag="text-generation",
        model_name=facts.name,
        tags=["lambda-grpo", "grpo", "trl", "reinforcement-learning", *facts.tags],
        eval_results=_eval_results(evaluations, facts.step),
    )
    values = facts.lambda_value if isinstance(facts.lambda_value, list) else [facts.lambda_value]
    card = ModelCard.from_template(
        data,
        template_path=str(files("lambda_grpo.runs").joinpath("model_card.md")),
        name=facts.name,
        base_model=facts.base_model,
        is_adapter=facts.is_adapter,
        step=facts.step,
        objective=facts.objective["objective"],
        objective_table=_settings(facts.objective),
        lambda_table=_lambda_table(facts.metrics),
        lambda_value=", ".join(f"{value:+.4f}" for value in values),
        data_table=_settings(facts.data),
        training_table=_settings(facts.training),
        evaluation=_evaluation_table(evaluations),
        versions_table=_settings({**versions["versions"], "git commit": versions["git_commit"]}),
        version=versions["versions"]["lambda-grpo"],
        trl_citation=facts.trl_citation,
    )
    card.save(path)


def update_cards(run: Run) -> None:
    """Insert a run's evaluations into its cards: that of the final model, and those of the checkpoints."""
    evaluations, final_model = read_evaluations(run.path), run.model()
    for folder in (run.path, *run.checkpoints()):
        path = folder / CARD_FILE
        if final_model is None or not path.exists() or not _EVALUATION.search(path.read_text(errors="replace")):
            continue  # the user's own file
        model = final_model if folder == run.path else folder
        try:
            card = ModelCard.load(path)
        except (ValueError, YAMLError) as error:
            warn_once(f"{path} can't be read and is left unchanged: {' '.join(str(error).split())}")
            continue
        card.text = _EVALUATION.sub(lambda _: _evaluation_table(evaluations), card.text)
        card.data.eval_results = _eval_results(evaluations, run.step_of(model))
        card.save(path)


def read_evaluations(output_dir: Path) -> list[dict[str, Any]]:
    """The finished evaluations of a run, each with a `label` of its model, and its `step` if the run trained it."""
    evaluations = []
    for path in sorted((output_dir / "eval").glob("*.json")):
        try:
            result = json.loads(path.read_text())
        except ValueError:
            result = None
        if not isinstance(result, dict) or not set(result) >= REQUIRED_KEYS:
            continue  # another program's file, or an unfinished evaluation
        if path.stem == "before":
            evaluations.append({**result, "label": "before training", "step": 0})
        elif path.stem == "after":
            step = result.get("step")
            evaluations.append({**result, "label": f"after training (step {step})", "step": step})
        else:
            trained = result.get("trained")
            step = trained["step"] if trained and Path(trained["run"]).resolve() == output_dir.resolve() else None
            label = result.get("model", "–") if step is None else f"step {step}"
            evaluations.append({**result, "label": label, "step": step})
    return sorted(evaluations, key=lambda result: (result["task"], result["label"] != "before training"))


def _evaluation_table(evaluations: Sequence[Mapping[str, Any]]) -> str:
    if not evaluations:
        return NOT_EVALUATED
    rows = []
    for result in evaluations:
        sampling, samples = result["sampling"], result["samples"]
        temperature = sampling["temperature"]
        sampled = (
            "greedy" if temperature == 0 else f"T = {temperature:g}" + (f", {samples} each" if samples > 1 else "")
        )
        rows.append(
            (
                result["task"],
                result["label"],
                str(result["n"]),
                percent(result["accuracy"]),
                percent_range(result["ci95"]),
                f"{result['completion_length_mean']:.1f}",
                f"{sampled}, at most {sampling['max_completion_length']} tokens",
            )
        )
    header = ("task", "model", "problems", "accuracy", "95 % interval", "mean length (tokens)", "sampling")
    return _table(header, rows)


def _eval_results(evaluations: Sequence[Mapping[str, Any]], step: int) -> list[EvalResult] | None:
    """For the hub: the evaluations of the model at a step by `lambda-grpo eval`, on data sets."""
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=result["data"]["data"],
            dataset_name=result["task"],
            dataset_split=result["data"].get("split"),
            metric_type="accuracy",
            metric_value=result["accuracy"],
            metric_name=f"accuracy, 95 % interval {result['ci95'][0]:.4f} to {result['ci95'][1]:.4f}",
        )
        for result in evaluations
        if result["step"] == step and "data" in result.get("data", {})
    ]
    return results or None


def _lambda_table(metrics: Sequence[Mapping[str, Any]]) -> str | None:
    """λ at the first logged step, at the last one, and at some between."""
    if not metrics:
        return None
    last = len(metrics) - 1
    indices = sorted({round(i * last / (MAX_LAMBDA_STEPS - 1)) for i in range(MAX_LAMBDA_STEPS)})
    rows = []
    for record in (metrics[index] for index in indices):
        weights = "–" if record["weight_min"] is None else f"{record['weight_min']:.3f} – {record['weight_max']:.3f}"
        rows.append((str(record["step"]), f"{record['lambda']:+.4f}", f"{record['lambda_grad']:+.2e}", weights))
    return _table(("step", "λ", "dL/dλ", "range of f"), rows)


def _settings(settings: Mapping[str, Any]) -> str:
    return _table(("", ""), [(name, in_words(value)) for name, value in settings.items() if value is not None])


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )
