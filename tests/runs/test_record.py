"""run.json, metrics.jsonl and results.json follow their types, and the JSON schemas are those of the types."""

from pathlib import Path

import pytest

from lambda_grpo.cli import main
from lambda_grpo.runs.record import RunRecord
from lambda_grpo.runs.study_record import StudyRecord
from tests.invariant.scripted_run import Scripted, one_third
from tests.schemas import SCHEMAS, assert_follows, assert_is_metrics, schema
from tests.trl.setup import config, make_trainer

STUDIES = sorted((Path(__file__).parents[2] / "studies").glob("*/results.json"))


@pytest.mark.parametrize(("path", "record"), SCHEMAS.items(), ids=lambda value: getattr(value, "name", None))
def test_a_schema_is_that_of_the_types(path, record):
    assert path.read_text() == schema(record)


@pytest.mark.parametrize("objective", ["lambda_grpo", "grpo", "daro"])
def test_the_records_of_a_run(objective, tmp_path):
    run = tmp_path / "run"
    settings = ["--max_steps", "2", "--eval_size", "8", "--per_device_train_batch_size", "16"]
    arguments = ["--objective", objective, "--max_completion_length", "16", "--output_dir", str(run)]
    assert main(["train", *settings, *arguments]) == 0
    assert_follows(RunRecord, (run / "run.json").read_text())
    for line in (run / "metrics.jsonl").read_text().splitlines():
        assert_is_metrics(line)


def test_the_records_of_a_script(tmp_path):
    make_trainer(config(tmp_path, objective="lambda_grpo", max_steps=2), Scripted, one_third).train()
    assert_follows(RunRecord, (tmp_path / "run.json").read_text())
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        assert_is_metrics(line)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.parent.name)
def test_the_record_of_a_study(path):
    assert_follows(StudyRecord, path.read_text())
