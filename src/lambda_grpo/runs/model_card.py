"""The model card: what a model was trained with, λ on the way, and how it does.

It is written whenever a model is saved. What is evaluated later is put into cards that are there already.
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
SHOWN = 12  # rows of λ's table at most
NOT_EVALUATED = "Not evaluated."
SHOWN_OF_EVALUATIONS = {"task", "n", "accuracy", "ci95", "completion_length_mean", "sampling", "samples"}

_EVALUATION = re.compile(r"(?<=<!-- evaluation -->\n).*?(?=\n<!-- end of evaluation -->)", re.DOTALL)


@dataclass(frozen=True)
class CardFacts:
    """What a card says.

    Attributes:
        name: of the model.
        base_model: what it was trained from, for a reader. hub_model: its id on the hub, or None.
        is_adapter: whether the saved model is an adapter that the base model is loaded with.
        objective, data, training: settings by name; those that are None are left out.
        metrics: the logged steps that have a λ; empty for an objective without one.
        lambda_value: what λ is now, after the last step; one for each pass rate where an objective has several.
        output_dir: the run's, whose `eval/` holds its evaluations.
        trl_citation: TRL's, of the paper that its trainer is made from.
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
    """Write a card, over one that is there."""
    found = read_evaluations(facts.output_dir)
    versions = provenance()
    data = ModelCardData(
        base_model=facts.hub_model,
        base_model_relation="adapter" if facts.is_adapter and facts.hub_model else None,
        datasets=facts.datasets,
        library_name="peft" if facts.is_adapter else "transformers",
        pipeline_tag="text-generation",
        model_name=facts.name,
        tags=["lambda-grpo", "grpo", "trl", "reinforcement-learning", *facts.tags],
        eval_results=_eval_results(found, facts.step),
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
        evaluation=_evaluation_table(found),
        versions_table=_settings({**versions["versions"], "git commit": versions["git_commit"]}),
        version=versions["versions"]["lambda-grpo"],
        trl_citation=facts.trl_citation,
    )
    card.save(path)


def update_cards(run: Run) -> None:
    """Put the evaluations of a run into its cards: its own, and those of its checkpoints."""
    found, chosen = read_evaluations(run.path), run.model()
    for folder in (run.path, *run.checkpoints()):
        path = folder / CARD_FILE
        if chosen is None or not path.exists() or not _EVALUATION.search(path.read_text(errors="replace")):
            continue  # one of the user's own
        model = chosen if folder == run.path else folder
        try:
            card = ModelCard.load(path)
        except (ValueError, YAMLError) as error:
            warn_once(f"{path} can't be read, and stays as it is: {' '.join(str(error).split())}")
            continue
        card.text = _EVALUATION.sub(lambda _: _evaluation_table(found), card.text)
        card.data.eval_results = _eval_results(found, run.step_of(model))
        card.save(path)


def read_evaluations(output_dir: Path) -> list[dict[str, Any]]:
    """The finished evaluations of a run, with what each is `of` in words, and the `step` if the model is the run's."""
    found = []
    for path in sorted((output_dir / "eval").glob("*.json")):
        try:
            result = json.loads(path.read_text())
        except ValueError:
            result = None
        if not isinstance(result, dict) or not set(result) >= SHOWN_OF_EVALUATIONS:
            continue  # another program's, or one that isn't finished
        if path.stem == "before":
            found.append({**result, "of": "before training", "step": 0})
        elif path.stem == "after":
            step = result.get("step")
            found.append({**result, "of": f"after training (step {step})", "step": step})
        else:
            trained = result.get("trained")
            step = trained["step"] if trained and Path(trained["run"]).resolve() == output_dir.resolve() else None
            found.append({**result, "of": result.get("model", "–") if step is None else f"step {step}", "step": step})
    return sorted(found, key=lambda result: (result["task"], result["of"] != "before training"))


def _evaluation_table(found: Sequence[Mapping[str, Any]]) -> str:
    if not found:
        return NOT_EVALUATED
    rows = []
    for result in found:
        sampling, samples = result["sampling"], result["samples"]
        temperature = sampling["temperature"]
        drawn = "greedy" if temperature == 0 else f"T = {temperature:g}" + (f", {samples} each" if samples > 1 else "")
        rows.append(
            (
                result["task"],
                result["of"],
                str(result["n"]),
                percent(result["accuracy"]),
                percent_range(result["ci95"]),
                f"{result['completion_length_mean']:.1f}",
                f"{drawn}, at most {sampling['max_completion_length']} tokens",
            )
        )
    header = ("task", "model", "problems", "accuracy", "95 % interval", "mean length (tokens)", "sampling")
    return _table(header, rows)


def _eval_results(found: Sequence[Mapping[str, Any]], step: int) -> list[EvalResult] | None:
    """Those that the hub shows of the model at a step: of `lambda-grpo eval`, on data sets."""
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
        for result in found
        if result["step"] == step and "data" in result.get("data", {})
    ]
    return results or None


def _lambda_table(metrics: Sequence[Mapping[str, Any]]) -> str | None:
    """The first step, the last one, and some between."""
    if not metrics:
        return None
    last = len(metrics) - 1
    places = sorted({round(i * last / (SHOWN - 1)) for i in range(SHOWN)})
    rows = []
    for row in (metrics[place] for place in places):
        weights = "–" if row["weight_min"] is None else f"{row['weight_min']:.3f} – {row['weight_max']:.3f}"
        rows.append((str(row["step"]), f"{row['lambda']:+.4f}", f"{row['lambda_grad']:+.2e}", weights))
    return _table(("step", "λ", "dL/dλ", "range of f"), rows)


def _settings(settings: Mapping[str, Any]) -> str:
    return _table(("", ""), [(name, in_words(value)) for name, value in settings.items() if value is not None])


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )
