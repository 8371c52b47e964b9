"""Samples from files of every kind, and what is said of bad ones."""

import json
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.feather as pf
import pyarrow.parquet as pq
import pytest

from lambda_grpo.cli import main
from lambda_grpo.errors import UserError
from lambda_grpo.inspection import inspect_paths, read_samples
from lambda_grpo.inspection.formats import parse_columns, sample_files
from lambda_grpo.models import BUILTIN, load_tokenizer, resolve_model
from tests.trl.setup import config, make_trainer, stock_config

TABLE = pa.table({
    "length": [5, 9, 2, 7], "reward": [1.0, 0.0, 1.0, 1.0], "group": [4, 4, 9, 9], "step": [1, 1, 1, 1],
})  # fmt: skip


def write(path, table=TABLE):
    match path.suffix:
        case ".parquet":
            pq.write_table(table, path)
        case ".csv":
            pc.write_csv(table, path)
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
        case ".feather":
            pf.write_feather(table, str(path))
        case ".arrow":
            with pa.ipc.new_stream(path, table.schema) as writer:
                writer.write_table(table)
    return path


def read(*paths, tokenizer=None, **columns):
    return read_samples(list(paths), columns, tokenizer or (lambda path: pytest.fail("no text is read")))


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl", "feather", "arrow"])
def test_every_format(suffix, tmp_path):
    samples = read(write(tmp_path / f"rows.{suffix}"))
    assert samples.length.tolist() == [5, 9, 2, 7]
    assert samples.reward.tolist() == [1, 0, 1, 1]
    assert samples.group_start.tolist() == [0, 2, 4]
    assert samples.steps.tolist() == [1]


def test_rows_come_in_the_order_of_steps_and_groups(tmp_path):
    table = pa.table({
        "length": [1, 2, 3, 4, 5, 6], "reward": [0.0] * 6, "group": ["b", "a", "b", "a", "a", "b"],
        "step": [2, 1, 1, 2, 1, 2],
    })  # fmt: skip
    samples = read(write(tmp_path / "rows.parquet", table))
    assert samples.steps.tolist() == [1, 2]
    assert samples.step_start.tolist() == [0, 3, 6]
    assert sorted(map(sorted, np.split(samples.length, samples.group_start[1:-1]))) == [[1, 6], [2, 5], [3], [4]]


def test_the_same_group_number_in_two_runs_is_two_groups(tmp_path):
    one, two = write(tmp_path / "a.parquet"), write(tmp_path / "b.parquet")
    assert len(read(one, two).group_size) == 4
    assert len(read(tmp_path).group_size) == 2  # parts of one run


def test_runs_with_the_same_steps_follow_one_another(tmp_path):
    one, two = write(tmp_path / "a.parquet"), write(tmp_path / "b.csv")
    assert read(one, two).steps.tolist() == [1, 2]
    assert read(one, two).step_start.tolist() == [0, 4, 8]


def test_parts_of_a_run_are_in_the_order_of_their_steps(tmp_path):
    """As a shell lists them: step-10 comes before step-9."""
    later, earlier = (TABLE.set_column(3, "step", pa.array([step] * 4)) for step in (10, 9))
    paths = write(tmp_path / "step-10.parquet", later), write(tmp_path / "step-9.parquet", earlier)
    assert read(*paths).steps.tolist() == [9, 10]


def test_a_file_without_steps_beside_one_with_steps(tmp_path):
    write(tmp_path / "a.parquet")
    write(tmp_path / "b.parquet", TABLE.drop_columns(["step"]))
    with pytest.raises(UserError, match=r"b\.parquet has no column of steps, but .*a\.parquet has"):
        read(tmp_path)


def test_long_texts_are_not_held(tmp_path):
    """A row group of 80 MB of prompts and completions, of which a thousand rows are in memory at a time."""
    text = np.random.default_rng(0).integers(97, 123, 10**6, dtype=np.uint8).tobytes().decode()
    rows = range(20_000)
    table = pa.table({
        "prompt": [text[row // 8 : row // 8 + 2000] for row in rows],
        "completion": [text[row : row + 2000] for row in rows],
        "reward": [float(row % 3 == 0) for row in rows], "step": [row // 1000 for row in rows],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "rows.parquet", use_dictionary=False, compression="none")
    script = (
        "import sys, pathlib, pyarrow\n"
        "from lambda_grpo.inspection import read_samples\n"
        "count = lambda path: lambda texts: [len(text) for text in texts]\n"
        "samples = read_samples([pathlib.Path(sys.argv[1])], {}, count)\n"
        "print(len(samples), len(samples.group_size), pyarrow.default_memory_pool().max_memory())"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "rows.parquet")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    count, groups, most = map(int, printed.split())
    assert (count, groups) == (20_000, 2500)
    assert most < 30e6


def test_a_run_of_ours(tmp_path):
    make_trainer(config(tmp_path, max_steps=2)).train()
    samples = read(tmp_path)
    assert len(samples) == 2 * 32
    assert samples.group_size.tolist() == [8] * 8
    assert samples.steps.tolist() == [1, 2]


@pytest.mark.parametrize("name", ["lambda_grpo", "lambda_grpo_paper", "lambda_grpo_linear", "lambda_grpo_exp", "daro"])
def test_the_replayed_lambda_is_that_of_the_run(name, tmp_path):
    """On policy, with one optimiser step for each generation, λ takes the very steps that it took in training."""
    trainer = make_trainer(config(tmp_path, objective=name, max_steps=6, lambda_lr=2.0))
    trainer.train()
    found = inspect_paths([str(tmp_path)], lambda_lr=2.0).found["objectives"][name]
    logged = [line["lambda"] for line in trainer.state.log_history if "lambda" in line]
    assert found["by_step"]["lambda"] == pytest.approx(logged, rel=1e-3)
    ours = np.atleast_1d(found["lambdas"] or found["lambda"])
    assert np.abs(ours).max() > 1e-3
    assert ours.tolist() == pytest.approx(np.atleast_1d(trainer.lambda_state.value).tolist(), rel=1e-3)


def test_what_trl_logs(tmp_path, monkeypatch):
    from trl import GRPOTrainer

    make_trainer(stock_config(tmp_path, max_steps=2, log_completions=True, loss_type="grpo"), GRPOTrainer).train()
    (tmp_path / "tokenizer_config.json").unlink(missing_ok=True)
    with pytest.raises(UserError, match="--tokenizer MODEL"):
        inspect_paths([str(tmp_path)])
    found = inspect_paths([str(tmp_path)], tokenizer=BUILTIN).found
    assert (found["rows"], found["groups"], found["steps"]) == (64, 8, 2)
    logged = pd.concat(pd.read_parquet(path) for path in sorted((tmp_path / "completions").glob("*.parquet")))
    tokens = load_tokenizer(resolve_model(BUILTIN))(logged["completion"].tolist(), add_special_tokens=False)
    assert found["length_quartiles"] == pytest.approx(
        np.quantile([len(ids) for ids in tokens["input_ids"]], (0.25, 0.5, 0.75))
    )


def test_what_verl_dumps(tmp_path):
    """One file a step, by number; groups are found by their prompt."""
    for step in (9, 10):
        rows = [
            {"input": f"q{i // 2}", "output": "12" * (i + 1), "gts": "1", "score": float(i % 2), "step": step}
            for i in range(4)
        ]
        (tmp_path / f"{step}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [path.name for path in sample_files(tmp_path)] == ["9.jsonl", "10.jsonl"]
    samples = read(tmp_path, tokenizer=lambda path: lambda texts: [len(text) for text in texts])
    assert samples.length.tolist() == [2, 4, 6, 8] * 2
    assert samples.group_start.tolist() == [0, 2, 4, 6, 8]


def test_conversations_are_texts(tmp_path):
    table = pa.table({
        "prompt": [[{"role": "user", "content": "a"}], [{"role": "user", "content": "a"}]],
        "completion": [[{"role": "assistant", "content": "bcd"}], [{"role": "assistant", "content": "e"}]],
        "reward": [1.0, 0.0],
    })  # fmt: skip
    samples = read(write(tmp_path / "rows.parquet", table), tokenizer=lambda path: lambda texts: list(map(len, texts)))
    assert samples.length.tolist() == [3, 1]
    assert samples.group_size.tolist() == [2]


# -- columns ---------------------------------------------------------------------------------------------------------


def test_columns_by_name(tmp_path):
    table = pa.table({"n": [5, 9], "a": [1.0, 0.0], "b": [0.5, 0.5], "who": ["x", "x"]})
    given = parse_columns("length=n, reward=a+b, group=who")
    samples = read_samples([write(tmp_path / "rows.csv", table)], given, lambda path: None)
    assert samples.reward.tolist() == [1.5, 0.5]
    assert samples.steps.tolist() == [0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lenght=n", 'did you mean "length"'),
        ("length=", "write length=COLUMN"),
        ("length=m", r"no column 'm' for length.*it has n, a"),
        ("length=n", "which column is the reward"),
    ],
)
def test_a_wrong_column_is_named(text, message, tmp_path):
    path = write(tmp_path / "rows.parquet", pa.table({"n": [5], "a": [1.0]}))
    with pytest.raises(UserError, match=message):
        read_samples([path], parse_columns(text), lambda path: None)


def test_csv_holds_later_what_its_first_rows_do_not(tmp_path):
    """Texts of several lines, and, far from the head, fractions and ids that aren't numbers."""
    lines = [f'{n % 9},{n % 2},{n // 8},"one\n\ntwo, ""three"""' for n in range(200_000)] + ['2.5,0.5,x,"a"', "4,1,x,b"]
    (tmp_path / "rows.csv").write_text("length,reward,group,completion\n" + "\n".join(lines))
    samples = read(tmp_path / "rows.csv")
    assert len(samples) == 200_002
    assert sorted(samples.length[-2:]) == [2.5, 4]
    assert len(samples.group_size) == 25_001


def test_truth_values_are_rewards(tmp_path):
    table = TABLE.set_column(1, "reward", pa.array([True, False, True, True]))
    for suffix in ("csv", "jsonl", "parquet"):
        assert read(write(tmp_path / f"rows.{suffix}", table)).reward.tolist() == [1, 0, 1, 1]


# -- bad files and rows ----------------------------------------------------------------------------------------------


def test_rows_that_cannot_be_used_are_counted(tmp_path):
    table = pa.table({
        "length": [5.0, math.nan, -1.0, 3.0, 4.0, 6.0], "reward": [1.0, 1.0, 1.0, math.inf, None, 0.0],
        "group": [1, 1, 1, 1, 1, None],
    })  # fmt: skip
    samples = read(write(tmp_path / "rows.parquet", table))
    assert samples.left_out == {
        "without a length": 1, "with a length below 0 or above 1e9": 1, "with a reward beyond ±1e100": 1,
        "without a group": 1,
    }  # fmt: skip
    assert samples.length.tolist() == [5, 4]
    assert math.isnan(samples.reward[1])  # it wasn't scored: it has a length


def test_nan_in_json_lines(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"length": 3, "reward": NaN, "group": 1}\n{"length": 4, "reward": 1, "group": 1}\n'
    )
    assert np.isnan(read(tmp_path / "a.jsonl").reward).tolist() == [True, False]


def test_no_row_left(tmp_path):
    path = write(tmp_path / "rows.parquet", pa.table({"length": [-1], "reward": [1.0], "group": [1]}))
    with pytest.raises(UserError, match="no sample is left to inspect; 1 with a length below 0"):
        read(path)


@pytest.mark.parametrize("suffix", ["parquet", "feather", "arrow", "jsonl"])
def test_a_file_that_is_cut_short(suffix, tmp_path):
    path = write(tmp_path / f"rows.{suffix}")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=rf"rows\.{suffix}"):
        read(path)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_an_empty_file(suffix, tmp_path):
    (tmp_path / f"rows.{suffix}").touch()
    with pytest.raises(UserError, match=rf"rows\.{suffix}"):
        read(tmp_path / f"rows.{suffix}")


def test_parts_with_other_columns(tmp_path):
    """Each file is read by its own columns, and one that lacks something is named."""
    write(tmp_path / "a.parquet")
    write(tmp_path / "b.parquet", TABLE.drop_columns(["length"]))
    with pytest.raises(UserError, match=r"b\.parquet: which column is the length"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"length": "long", "reward": 1, "group": 1}', 'line 2: "long" must be a number'),
        ('{"length": [1, 2], "reward": 1, "group": 1}', r"line 2: \[1, 2\] must be a number"),
        ("[1, 2]", "line 2 must be a JSON object"),
        ('{"length": "\udce9"}', "line 2 isn't JSON"),
    ],
)
def test_a_bad_line_is_named(line, message, tmp_path):
    good = b'{"length": 3, "reward": 0, "group": 1}\n'
    (tmp_path / "a.jsonl").write_bytes(good + line.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=message):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [("step", [1.5, 1, 1, 1], "whole numbers"), ("length", [[1], [1], [2], [3]], "must hold numbers")],
)
def test_a_column_of_the_wrong_kind(name, values, message, tmp_path):
    path = write(tmp_path / "rows.parquet", TABLE.drop_columns([name]).append_column(name, [values]))
    with pytest.raises(UserError, match=message):
        read(path)


def test_two_columns_of_one_name(tmp_path):
    (tmp_path / "rows.csv").write_text("length,reward,reward,group\n1,0,1,1\n")
    with pytest.raises(UserError, match="2 columns 'reward'"):
        read(tmp_path / "rows.csv")


def test_a_parquet_file_that_is_damaged_inside(tmp_path):
    path = write(tmp_path / "rows.parquet")
    data = path.read_bytes()
    path.write_bytes(data[:40] + b"\xff" * 60 + data[100:])
    with pytest.raises(UserError, match=r"rows\.parquet can't be read"):
        read(path)


def test_words_where_numbers_should_be(tmp_path):
    path = write(tmp_path / "rows.parquet", TABLE.set_column(1, "reward", pa.array(["good", "bad", "bad", "good"])))
    with pytest.raises(UserError, match=r"the column reward must hold numbers"):
        read(path)


# -- the command -----------------------------------------------------------------------------------------------------


def test_the_command_prints_a_verdict_and_a_table(tmp_path, capsys):
    write(tmp_path / "rows.parquet")
    assert main(["inspect", str(tmp_path / "rows.parquet")]) == 0
    printed = capsys.readouterr().out
    assert "Read: length = length, reward = reward, group = group, step = step" in printed
    assert "The same as dapo to these digits: bnpo" in printed
    assert main(["inspect", str(tmp_path / "rows.parquet"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == 4
    assert found["groups"] == 2
    assert "implied_lambda" in found["objectives"]["grpo"]


def test_wrong_input_is_one_line(tmp_path, capsys):
    for arguments in ([str(tmp_path / "none")], [str(tmp_path)]):
        assert main(["inspect", *arguments]) == 2
        assert capsys.readouterr().err.count("\n") == 1
