"""The JSON records of runs and studies against their types, and the JSON schemas that are generated from the types.

`python -m tests.schemas` writes the schemas again.
"""

import json
from pathlib import Path

from pydantic import TypeAdapter

from lambda_grpo.runs.record import MetricsRecord, RunRecord
from lambda_grpo.runs.study_record import StudyRecord

RUNS = Path(__file__).parents[1] / "src" / "lambda_grpo" / "runs"
SCHEMAS = {RUNS / "schema.json": RunRecord, RUNS / "study_schema.json": StudyRecord}


def assert_follows(record, text):
    """The JSON text has all keys of a record type, with values of the right types, and no others."""
    adapter = TypeAdapter(record)
    assert adapter.dump_python(adapter.validate_json(text, strict=True), mode="json") == json.loads(text)


def assert_is_metrics(line):
    """The line is a `MetricsRecord`, which may have other keys: all that TRL logs."""
    TypeAdapter(MetricsRecord).validate_json(line, strict=True)


def schema(record):
    return json.dumps(TypeAdapter(record).json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    for path, record in SCHEMAS.items():
        path.write_text(schema(record))
