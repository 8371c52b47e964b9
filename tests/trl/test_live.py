"""The metrics and weights of a run in TensorBoard, read back from its event file."""

import struct

import pytest

from lambda_grpo.runs.directory import Run
from tests.trl.setup import config, make_trainer

event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")


def events(folder):
    """The values of an event file: (step, protocol buffer) by tag."""
    (path,) = folder.glob("runs/*/events.out.tfevents.*")
    content, place, found = path.read_bytes(), 0, {}
    while place < len(content):
        (length,) = struct.unpack_from("<Q", content, place)  # then a checksum of 4 bytes, the event, another checksum
        event = event_pb2.Event.FromString(content[place + 12 : place + 12 + length])
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value))
        place += 16 + length
    return found


def run(folder, objective):
    args = config(folder, objective=objective, report_to="tensorboard", lambda_lr=5.0, learning_rate=1e-4)
    make_trainer(args).train()
    return events(folder), Run(folder).metrics()


def test_lambda_and_the_weights_of_each_step(tmp_path):
    found, rows = run(tmp_path, "lambda_grpo")
    for key in ("lambda", "lambda_grad", "weight_min", "weight_max", "reward", "entropy"):
        logged = [(step, value.simple_value) for step, value in found[f"train/{key}"]]
        assert logged == [(row["step"], pytest.approx(row[key], rel=1e-6)) for row in rows]
    assert rows[-1]["weight_min"] < 1 < rows[-1]["weight_max"]
    assert [step for step, _ in found["train/weights"]] == [1, 2, 3]
    for (_, value), row in zip(found["train/weights"], rows, strict=True):
        assert value.histo.num == 32  # responses
        assert value.histo.min == pytest.approx(row["weight_min"])
        assert value.histo.max == pytest.approx(row["weight_max"])


def test_weights_of_tokens(tmp_path):
    found, rows = run(tmp_path, "lambda_grpo_prm")
    for (_, value), row in zip(found["train/weights"], rows, strict=True):
        assert value.histo.num == round(32 * row["completion_length_mean"])
        assert value.histo.min == pytest.approx(row["weight_min"])
