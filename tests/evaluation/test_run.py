"""`lambda-grpo eval` on files, benchmarks and generated tasks: results, samples, resuming, templates, engines."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from transformers import AutoModelForCausalLM

from lambda_grpo.cli import main
from lambda_grpo.errors import warn_once
from lambda_grpo.evaluation import record
from lambda_grpo.evaluation.engines import Completion, LocalEngine, Sampling
from lambda_grpo.evaluation.samples import Sample, draw_samples, render_prompts, summarise
from lambda_grpo.models import load_model, load_tokenizer, training_info, weights_id
from lambda_grpo.report.results_table import results_table
from lambda_grpo.tasks import load_task
from lambda_grpo.tasks.arithmetic import Arithmetic
from lambda_grpo.tasks.maths.templates import TEMPLATES, find_template
from tests.evaluation.tiny_models import CHATML, save_model, write_jsonl
from tests.peft_adapters import adapted
from tests.tasks.maths.benchmark_files import write_data_set

RECORD = TypeAdapter(record.EvaluationRecord)
PROBLEMS = [{"question": f"What is {i} + {i}?", "answer": str(2 * i), "id": f"sum-{i}"} for i in range(10)]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "qwen2")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "llama", "llama")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "base", chat=False)


@pytest.fixture
def problems(tmp_path):
    return str(write_jsonl(tmp_path / "sums.jsonl", PROBLEMS))


def evaluate(*options):
    return main(["eval", "--max_completion_length", "12", "--batch_size", "8", *options])


def read(directory, task="sums"):
    """The result and its samples."""
    lines = (directory / f"{task}.samples.jsonl").read_text().splitlines()
    return json.loads((directory / f"{task}.json").read_text()), [json.loads(line) for line in lines]


def assert_follows_the_schema(path):
    """The file has all keys of an `EvaluationRecord`, of the right types, and no others."""
    text = path.read_text()
    assert RECORD.dump_python(RECORD.validate_json(text, strict=True), mode="json") == json.loads(text)


def test_the_schema_is_that_of_the_types():
    schema = json.loads(Path(record.__file__).with_name("schema.json").read_text())
    assert schema == RECORD.json_schema()


def test_result_and_samples(tmp_path, qwen, problems, capsys):
    sampled = ["--samples", "4", "--temperature", "0.8", "--output_dir", str(tmp_path / "out")]
    assert evaluate("--model", qwen, "--task", problems, *sampled) == 0
    result, samples = read(tmp_path / "out")
    assert (result["task"], result["n"], result["samples"], result["finished"]) == ("sums", 10, 4, True)
    assert set(result["metrics"]) == {"accuracy", "avg@4", "pass@1", "pass@2", "pass@4", "maj@4"}
    for estimate in result["metrics"].values():
        assert 0 <= estimate["ci95"][0] <= estimate["value"] <= estimate["ci95"][1] <= 1
    assert result["template"]["name"] == "boxed_system"
    assert result["template"]["source"].startswith("Qwen2.5-Math")
    assert result["example_prompt"] == (
        "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
        "<|im_start|>user\nWhat is 0 + 0?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert (result["data"]["data"], result["data"]["rows"]) == (problems, 10)
    assert {"torch", "transformers", "math-verify"} <= set(result["versions"])
    assert len(samples) == 40
    assert [(one["problem"], one["sample"]) for one in samples] == [(i, j) for i in range(10) for j in range(4)]
    assert set(samples[0]) >= {
        "prompt",
        "completion",
        "answer",
        "extracted",
        "correct",
        "timed_out",
        "length",
        "ended",
        "id",
    }
    assert (samples[4]["answer"], samples[4]["id"]) == ("2", "sum-1")
    assert result["accuracy"] == pytest.approx(sum(sample["correct"] for sample in samples) / 40)
    assert result["completion_length_mean"] == pytest.approx(sum(sample["length"] for sample in samples) / 40)
    assert result["truncated"] == pytest.approx(sum(not sample["ended"] for sample in samples) / 40)
    assert_follows_the_schema(tmp_path / "out" / "sums.json")
    printed = capsys.readouterr().out
    assert "maj@4" in printed
    assert "10 problems, 4 samples each, template boxed_system" in printed


def test_llamas_prompt_has_one_beginning_of_sequence_token(tmp_path, llama, problems):
    """The chat template writes the special token, so the tokenizer mustn't."""
    assert evaluate("--model", llama, "--task", problems, "--output_dir", str(tmp_path / "out")) == 0
    result, _ = read(tmp_path / "out")
    prompt = result["example_prompt"]
    assert prompt.startswith("<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nPlease reason")
    tokenizer = load_tokenizer(llama)
    ids = TEMPLATES["boxed_system"].tokenize(prompt, tokenizer)
    assert ids.count(tokenizer.bos_token_id) == 1
    plain = TEMPLATES["qa"].tokenize(TEMPLATES["qa"].render("1+1?", tokenizer), tokenizer)
    assert plain.count(tokenizer.bos_token_id) == 1  # and where there is no chat template, the tokenizer does


@pytest.mark.parametrize("family", ["qwen", "llama"])
def test_the_engines_agree(family, tmp_path, request, problems):
    model = request.getfixturevalue(family)
    found = {}
    for engine in ("transformers", "fast", "auto"):
        out = tmp_path / engine
        assert evaluate("--model", model, "--task", problems, "--engine", engine, "--output_dir", str(out)) == 0
        found[engine] = read(out)[1]
    assert found["fast"] == found["transformers"] == found["auto"]
    assert len({sample["completion"] for sample in found["fast"]}) > 1


def test_a_base_model_gets_a_template_without_chat_and_with_stops(tmp_path, base, problems):
    assert evaluate("--model", base, "--task", problems, "--output_dir", str(tmp_path / "out")) == 0
    result, samples = read(tmp_path / "out")
    assert result["template"]["name"] == "question_answer"
    assert samples[1]["prompt"] == "Question:\nWhat is 1 + 1?\nAnswer:\nLet's think step by step.\n"
    assert TEMPLATES["question_answer"].cut(" It is 4.\n\nQuestion:\nWhat") == " It is 4.\n\n"
    assert TEMPLATES["r1_zero"].cut("<answer> 4 </answer> User: and") == "<answer> 4 "


def test_worked_examples_precede_the_problem(tmp_path, qwen, base, problems, capsys, monkeypatch):
    shots = [{"problem": "1+1?", "solution": "It is 2. #### 2"}, {"problem": "2+2?", "solution": "It is 4. #### 4"}]
    data = str(write_jsonl(tmp_path / "shots.jsonl", shots))
    options = ["--task", problems, "--shots", "2", "--shots_data", data, "--n", "1"]
    assert evaluate("--model", base, *options, "--template", "qa", "--output_dir", str(tmp_path / "text")) == 0
    assert_follows_the_schema(tmp_path / "text" / "sums.json")
    assert read(tmp_path / "text")[0]["example_prompt"] == (
        "Question: 1+1?\nAnswer: It is 2. #### 2\n\nQuestion: 2+2?\nAnswer: It is 4. #### 4\n\n"
        "Question: What is 0 + 0?\nAnswer:"
    )
    assert evaluate("--model", qwen, *options, "--output_dir", str(tmp_path / "chat")) == 0
    prompt = read(tmp_path / "chat")[0]["example_prompt"]
    assert "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\nIt is 2. #### 2<|im_end|>\n" in prompt
    assert prompt.endswith("<|im_start|>user\nWhat is 0 + 0?<|im_end|>\n<|im_start|>assistant\n")
    for wrong, message in (
        (["--shots", "3"], "--shots 3 needs as many worked examples"),
        (["--shots", "-1"], "at least 0"),
    ):
        assert evaluate("--model", base, *options, *wrong, "--output_dir", str(tmp_path / "no")) == 2
        assert message in capsys.readouterr().err
    assert evaluate("--model", base, *options[:4], "--output_dir", str(tmp_path / "none")) == 2
    assert "sums.jsonl has no training split: name a file of worked examples by --shots_data" in capsys.readouterr().err


def test_every_template_renders_and_names_its_source(qwen):
    tokenizer = load_tokenizer(qwen)
    for name, template in TEMPLATES.items():
        assert find_template(name, tokenizer) == (name, template)
        text = template.render("What is {x} in \\frac{1}{2}?", tokenizer)
        assert text.count("What is {x} in \\frac{1}{2}?") == 1
        assert "{question}" not in text
        assert len(template.source) > 20


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=12))
def test_metrics_against_plain_loops(right):
    samples = [
        Sample(i, i, j, "p", "c", "1", "1", float(is_right), is_right, False, "r" if is_right else f"w{i}{j}", 5, True)
        for i, samples in enumerate(right)
        for j, is_right in enumerate(samples)
    ]
    metrics = summarise(Arithmetic("test", n := len(right)), samples, Sampling(8), 0).metrics
    assert metrics["accuracy"].value == pytest.approx(sum(map(sum, right)) / (3 * n))
    assert metrics["pass@3"].value == pytest.approx(sum(any(samples) for samples in right) / n)
    pairs = [sum(samples[a] or samples[b] for a, b in ((0, 1), (0, 2), (1, 2))) / 3 for samples in right]
    assert metrics["pass@2"].value == pytest.approx(sum(pairs) / n)
    # one right sample ties with two wrong ones that differ
    majority = [1.0 if sum(samples) > 1 else sum(samples) / 3 for samples in right]
    assert metrics["maj@3"].value == pytest.approx(sum(majority) / n)


class TestResuming:
    SETTINGS = ("--samples", "3", "--temperature", "1.0", "--max_completion_length", "12", "--batch_size", "8")

    def command(self, model, problems, out):
        return ["eval", "--model", model, "--task", problems, *self.SETTINGS, "--output_dir", str(out)]

    def test_killed_in_the_middle_and_resumed_is_the_same(self, tmp_path, qwen, problems):
        assert main(self.command(qwen, problems, tmp_path / "whole")) == 0
        whole = read(tmp_path / "whole")
        out = tmp_path / "cut"
        program = subprocess.Popen(
            [sys.executable, "-c", SLOW, *self.command(qwen, problems, out)], stdout=subprocess.DEVNULL
        )
        samples = out / "sums.samples.jsonl"
        while not (samples.exists() and samples.read_text().count("\n") >= 8):
            assert program.poll() is None
            time.sleep(0.02)
        program.send_signal(signal.SIGKILL)
        program.wait()
        assert not json.loads((out / "sums.json").read_text())["finished"]
        with open(samples, "a") as file:
            file.write('{"problem": 3, "id": "su')  # as a kill in the middle of a write leaves it
        assert main(self.command(qwen, problems, out)) == 0
        assert read(out) == whole

    def test_a_finished_evaluation_is_not_sampled_again(self, tmp_path, qwen, problems, monkeypatch, capsys):
        command = self.command(qwen, problems, tmp_path / "out")
        assert main(command) == 0
        first = capsys.readouterr().out
        monkeypatch.setattr(LocalEngine, "sample", None)
        assert main(command) == 0
        assert capsys.readouterr().out == first

    def test_other_settings_are_refused(self, tmp_path, qwen, llama, problems, capsys):
        out = tmp_path / "out"
        assert main(self.command(qwen, problems, out)) == 0
        before = (out / "sums.samples.jsonl").read_bytes()
        for other in (
            ["--n", "9"],
            ["--temperature", "0.5"],
            ["--model", llama],
            ["--seed", "1"],
            ["--template", "boxed"],
        ):
            assert main([*self.command(qwen, problems, out), *other]) == 2
            assert "is of another evaluation: its" in capsys.readouterr().err
        assert (out / "sums.samples.jsonl").read_bytes() == before

    def test_other_weights_in_the_same_place_are_noticed(self, tmp_path, qwen, problems, capsys):
        model = shutil.copytree(qwen, tmp_path / "model")
        assert main(self.command(str(model), problems, tmp_path / "out")) == 0
        assert weights_id(str(model)) == weights_id(qwen)  # a copy is the same
        weights = bytearray((model / "model.safetensors").read_bytes())
        weights[-1] ^= 1
        (model / "model.safetensors").write_bytes(weights)
        assert main(self.command(str(model), problems, tmp_path / "out")) == 2
        assert "its weights is" in capsys.readouterr().err

    def test_other_problems_in_the_same_file_are_noticed(self, tmp_path, qwen, problems, capsys):
        assert main(self.command(qwen, problems, tmp_path / "out")) == 0
        write_jsonl(Path(problems), [*PROBLEMS[:9], {"question": "What is 9 + 10?", "answer": "19"}])
        assert main(self.command(qwen, problems, tmp_path / "out")) == 2
        assert "is of another evaluation: its data is" in capsys.readouterr().err

    def test_samples_of_another_evaluation_are_refused(self, tmp_path, qwen, problems, capsys):
        out = tmp_path / "out"
        assert main(self.command(qwen, problems, out)) == 0
        samples = (out / "sums.samples.jsonl").read_text()
        (out / "sums.samples.jsonl").write_text(samples + samples.split("\n")[0] + "\n")
        assert main(self.command(qwen, problems, out)) == 2
        assert "holds samples of another evaluation" in capsys.readouterr().err
        (out / "sums.json").unlink()
        assert main(self.command(qwen, problems, out)) == 2
        assert "sums.samples.jsonl has no sums.json beside it" in capsys.readouterr().err
        (out / "sums.json").write_text('{"task": ')
        assert main(self.command(qwen, problems, out)) == 2
        assert "isn't a result of lambda-grpo eval" in capsys.readouterr().err

    def test_without_a_directory_the_same_command_finds_its_own(self, tmp_path, qwen, problems, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        for seed in ("0", "0", "1"):
            assert evaluate("--model", qwen, "--task", problems, "--seed", seed) == 0
        named = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Results and samples: ")]
        assert named[0] == named[1] != named[2]
        assert len(list((tmp_path / "evals").iterdir())) == 2

    def test_one_program_at_a_time(self, tmp_path, qwen, problems, capsys):
        out = tmp_path / "out"
        program = subprocess.Popen(
            [sys.executable, "-c", SLOW, *self.command(qwen, problems, out)], stdout=subprocess.DEVNULL
        )
        while not (out / "sums.samples.jsonl").exists():
            time.sleep(0.02)
        assert main(self.command(qwen, problems, out)) == 2
        assert "another program is evaluating in" in capsys.readouterr().err
        program.kill()
        program.wait()


SLOW = """
import sys, time
from lambda_grpo.evaluation.engines import LocalEngine
fast = LocalEngine.sample
def slowly(*arguments, **settings):
    time.sleep(0.7)
    return fast(*arguments, **settings)
LocalEngine.sample = slowly
from lambda_grpo.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_several_tasks_and_json(tmp_path, qwen, problems, capsys):
    other = str(write_jsonl(tmp_path / "more.jsonl", PROBLEMS[:3]))
    assert (
        evaluate("--model", qwen, "--task", f"{problems},{other}", "--json", "--output_dir", str(tmp_path / "o")) == 0
    )
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["task"], second["task"]) == ("sums", "more")
    assert first["n"] == 10
    assert second["accuracy"] == second["metrics"]["accuracy"]["value"]


def test_a_generated_task_has_votes_too(tmp_path):
    settings = ["--samples", "8", "--n", "40", "--output_dir", str(tmp_path / "out")]
    assert main(["eval", "--model", "builtin", "--task", "arithmetic", *settings]) == 0
    result, samples = read(tmp_path / "out", "arithmetic")
    assert_follows_the_schema(tmp_path / "out" / "arithmetic.json")
    assert result["template"]["name"] == "plain"
    assert result["example_prompt"] == samples[0]["prompt"]
    metrics = {name: estimate["value"] for name, estimate in result["metrics"].items()}
    assert metrics["pass@1"] == pytest.approx(metrics["accuracy"])
    assert metrics["pass@1"] < metrics["pass@2"] < metrics["pass@8"]
    assert metrics["maj@8"] > metrics["accuracy"]


def test_a_timeout_is_counted_in_the_result(tmp_path, qwen, problems, monkeypatch):
    hostile = Completion(r"\boxed{\prod_{k=1}^{10^9} k}", 12, True)
    monkeypatch.setattr(LocalEngine, "sample", lambda self, prompts, *a, **k: [hostile] * len(prompts))
    assert evaluate("--model", qwen, "--task", problems, "--n", "2", "--output_dir", str(tmp_path / "out")) == 0
    result, samples = read(tmp_path / "out")
    assert result["timed_out"] == 2
    assert [sample["timed_out"] for sample in samples] == [True, True]


def test_the_result_records_how_a_runs_checkpoint_was_trained(tmp_path, problems):
    quick = [
        "--max_steps",
        "2",
        "--eval_size",
        "0",
        "--per_device_train_batch_size",
        "8",
        "--max_completion_length",
        "8",
    ]
    assert main(["train", "--output_dir", str(tmp_path / "run"), "--objective", "dapo", *quick]) == 0
    found = training_info(str(tmp_path / "run" / "checkpoint-2"))
    assert (found["objective"], found["step"]) == ("dapo", 2)
    assert main(["eval", "--model", str(tmp_path / "run"), "--task", "arithmetic", "--n", "8"]) == 0
    assert read(tmp_path / "run" / "eval", "arithmetic")[0]["trained"] == found
    assert_follows_the_schema(tmp_path / "run" / "eval" / "arithmetic.json")
    assert "| dapo " in results_table([str(tmp_path / "run")])
    assert training_info(str(tmp_path)) is None


BAD = [
    (["--samples", "2"], "several --samples of a greedy completion are all the same"),
    (["--samples", "0"], "--samples must be at least 1, got 0"),
    (["--top_p", "0"], "--top_p must be above 0 and at most 1, got 0.0"),
    (["--seed", "99999999999999999"], "--seed must be from 0 to 4294967295"),
    (["--output_dir", __file__], "is a file"),
    (["--top_k", "-1"], "--top_k must be at least 0, got -1"),
    (["--engine", "sglang"], "--engine is 'sglang': use 'auto', 'fast', 'transformers' or 'vllm'"),
    (["--server", "http://127.0.0.1:1"], "--server needs --engine vllm"),
    (["--template", "boxd"], "unknown template 'boxd': use plain, boxed_system"),
    (["--data", "x.jsonl"], "--data is another source of one benchmark"),
    (["--question_column", "text"], "has no column text: name the one with the questions by --question_column"),
    (["--max_completion_length", "0"], "--max_completion_length must be at least 1, got 0"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[" ".join(options) for options, _ in BAD])
def test_bad_options_are_one_line(options, message, tmp_path, qwen, problems, capsys):
    assert main(["eval", "--model", qwen, "--task", problems, "--output_dir", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_errors_of_a_later_task_are_raised_before_sampling(tmp_path, qwen, problems, capsys):
    out = tmp_path / "out"
    settings = ["--samples", "4", "--output_dir", str(out)]
    assert evaluate("--model", qwen, "--task", f"arithmetic,{problems}", *settings) == 2
    assert "several --samples of a greedy completion" in capsys.readouterr().err
    other = write_jsonl(tmp_path / "other" / "sums.jsonl", PROBLEMS[:2])
    assert evaluate("--model", qwen, "--task", f"{problems},{other}", "--output_dir", str(out)) == 2
    assert "two tasks are called 'sums'" in capsys.readouterr().err
    taken = write_jsonl(tmp_path / "gsm8k.jsonl", PROBLEMS)
    assert evaluate("--model", qwen, "--task", str(taken), "--output_dir", str(out)) == 2
    assert "has the name of a benchmark" in capsys.readouterr().err
    taken = write_jsonl(tmp_path / "after.jsonl", PROBLEMS)
    assert evaluate("--model", qwen, "--task", str(taken), "--output_dir", str(out)) == 2
    assert "has the name of a run's own evaluation after training: rename it" in capsys.readouterr().err
    assert not out.exists()


def test_prompts_that_exceed_the_context_are_refused(tmp_path, qwen, problems, capsys):
    out = str(tmp_path / "out")
    assert evaluate("--model", qwen, "--task", problems, "--max_completion_length", "2000", "--output_dir", out) == 2
    assert re.search(
        r"may take \d+ tokens, the model has 1024: set --max_completion_length lower", capsys.readouterr().err
    )


class TestFailing:
    """A failure before the first samples leaves no files; later, the finished samples are kept."""

    @pytest.mark.parametrize("options", [["--max_completion_length", "2000"], ["--engine", "fast"]])
    def test_no_folder(self, options, tmp_path, problems, monkeypatch, capsys):
        model = save_model(tmp_path / "model", hidden_act="gelu")  # which the fast sampler refuses
        monkeypatch.chdir(tmp_path)
        before = sorted(tmp_path.rglob("*"))
        for where in ([], ["--output_dir", "deep/down/out"]):
            assert evaluate("--model", model, "--task", f"{problems},arithmetic", *where, *options) == 2
        assert "lambda-grpo: error: " in capsys.readouterr().err
        assert sorted(tmp_path.rglob("*")) == before

    def test_an_existing_folder_is_kept(self, tmp_path, qwen, problems):
        out = tmp_path / "out"
        out.mkdir()
        too_long = ["--max_completion_length", "2000", "--output_dir", str(out)]
        assert evaluate("--model", qwen, "--task", problems, *too_long) == 2
        assert list(out.iterdir()) == []

    @pytest.mark.parametrize("batches", [0, 1])
    def test_a_program_that_fails(self, batches, tmp_path, qwen, problems, monkeypatch):
        calls, fast = [], LocalEngine.sample

        def failing(*arguments, **settings):
            calls.append(1)
            if len(calls) > batches:
                raise RuntimeError("the machine has no more memory")
            return fast(*arguments, **settings)

        monkeypatch.setattr(LocalEngine, "sample", failing)
        out = tmp_path / "out"
        with pytest.raises(RuntimeError, match="no more memory"):
            evaluate("--model", qwen, "--task", problems, "--output_dir", str(out))
        assert out.exists() == bool(batches)
        if batches:
            assert sorted(path.name for path in out.iterdir()) == ["sums.json", "sums.samples.jsonl"]

    def test_a_later_task_that_exceeds_the_context_is_refused_before_sampling(self, tmp_path, qwen, problems, capsys):
        long = write_jsonl(tmp_path / "long.jsonl", [{"question": "x" * 2000, "answer": "1"}])
        out = tmp_path / "out"
        assert evaluate("--model", qwen, "--task", f"{problems},{long}", "--output_dir", str(out)) == 2
        assert "long: a prompt and its completion may take" in capsys.readouterr().err
        assert not out.exists()


MISSPELT = {
    ("--task", "math50"): "math500",
    ("--task", "arithmetik"): "arithmetic",
    ("--task", "gsm8k,Olympiad-Bench"): "olympiadbench",
    ("--task", "minerva_math", "--data", "x.jsonl"): "minerva",
    ("--task", "neutral", "--template", "boxed-sytem"): "boxed_system",
    ("--task", "neutral", "--engine", "vlm"): "vllm",
    ("--task", "neutral", "--temprature", "0.5"): "--temperature",
}


@pytest.mark.parametrize(("options", "meant"), MISSPELT.items(), ids=lambda value: str(value))
def test_a_misspelt_name_gets_the_close_one(options, meant, tmp_path, qwen, hub, capsys):
    write_data_set(hub, "openai/gsm8k", 1319)
    assert main(["eval", "--model", qwen, "--output_dir", str(tmp_path / "no"), *options]) == 2
    error = capsys.readouterr().err
    assert re.search(rf'[Dd]id you mean "?{re.escape(meant)}"?\?', error)
    assert error.count("\n") == 1
    assert not (tmp_path / "no").exists()


def test_a_path_may_have_commas_brackets_and_capitals(tmp_path, qwen, capsys):
    path = write_jsonl(tmp_path / "a, b" / "t[1]*.JSONL", PROBLEMS[:3])
    write_jsonl(tmp_path / "a, b" / "t1x.JSONL", PROBLEMS)
    assert evaluate("--model", qwen, "--task", str(path), "--json", "--output_dir", str(tmp_path / "out")) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 3


def test_unknown_options_of_a_chat_template_are_refused(tmp_path, qwen, problems, capsys):
    options = ["--chat_template_kwargs", '{"tokenize": true}', "--output_dir", str(tmp_path / "no")]
    assert evaluate("--model", qwen, "--task", problems, *options) == 2
    assert "or other --chat_template_kwargs" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_a_chat_template_without_a_system_role(tmp_path, problems, capsys):
    model = save_model(tmp_path / "model")
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    (tmp_path / "model" / "chat_template.jinja").write_text(strict + CHATML.split("{% endif %}", 1)[1])
    assert evaluate("--model", model, "--task", problems, "--output_dir", str(tmp_path / "no")) == 2
    assert (
        "refuses template 'boxed_system' (System role not supported): use another --template" in capsys.readouterr().err
    )
    assert (
        evaluate("--model", model, "--task", problems, "--template", "boxed", "--output_dir", str(tmp_path / "o")) == 0
    )


def test_a_completion_cut_at_a_stop_has_the_length_of_its_text(qwen):
    class Engine:
        tokenizer, context = load_tokenizer(qwen), None

        def sample(self, prompts, sampling, *, seed, stops):
            return [Completion("It is 4.\nQuestion: and then?", 500, False)] * len(prompts)

    task = load_task("arithmetic", "test", size=1)
    prompts = render_prompts(task, TEMPLATES["qa"], Engine.tokenizer)
    ((sample,),) = draw_samples(Engine(), task, prompts, TEMPLATES["qa"], Sampling(500))
    assert sample.completion == "It is 4.\n"
    assert sample.length == len(Engine.tokenizer("It is 4.\n")["input_ids"]) < 10
    assert sample.ended


def test_maj_at_k_of_a_model_that_never_answers_is_zero(tmp_path, qwen, problems, monkeypatch):
    monkeypatch.setattr(LocalEngine, "sample", lambda self, prompts, *a, **k: [Completion("", 1, True)] * len(prompts))
    settings = ["--samples", "2", "--temperature", "1", "--output_dir", str(tmp_path / "out")]
    assert evaluate("--model", qwen, "--task", problems, *settings) == 0
    result, _ = read(tmp_path / "out")
    assert result["unanswered"] == 1.0
    assert result["metrics"]["maj@2"]["value"] == 0.0


def test_a_chat_prompt_template_needs_a_chat_template(tmp_path, base, problems, capsys):
    assert (
        evaluate("--model", base, "--task", problems, "--template", "boxed", "--output_dir", str(tmp_path / "o")) == 2
    )
    assert (
        "template 'boxed' is for chat models, and this one has no chat template: use plain" in capsys.readouterr().err
    )


def test_a_file_that_isnt_there(tmp_path, qwen, capsys):
    assert evaluate("--model", qwen, "--task", "nowhere.jsonl", "--output_dir", str(tmp_path / "out")) == 2
    assert "no file nowhere.jsonl" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_greedy_is_the_same_for_any_batch(tmp_path, qwen, problems):
    found = []
    for size in ("1", "3", "64"):
        out = tmp_path / size
        assert evaluate("--model", qwen, "--task", problems, "--batch_size", size, "--output_dir", str(out)) == 0
        found.append(read(out)[1])
    assert found[0] == found[1] == found[2]


def test_the_random_state_and_the_training_mode_are_unchanged(qwen):
    import torch

    model, tokenizer = load_model(qwen)
    model.train()
    before = torch.get_rng_state()
    engine = LocalEngine(model, tokenizer)
    first = engine.sample([[5, 6], [7]], Sampling(6), seed=3, stops=())
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert engine.sample([[5, 6], [7]], Sampling(6), seed=3, stops=()) == first


def test_without_math_verify_the_message_says_what_to_install(tmp_path, qwen, problems, monkeypatch, capsys):
    from lambda_grpo.grading import grade as graders

    graders._started_pool.cache_clear()
    monkeypatch.setattr(graders, "find_spec", lambda name: None)
    assert evaluate("--model", qwen, "--task", problems, "--output_dir", str(tmp_path / "out")) == 2
    assert "grading maths needs math-verify: pip install 'lambda-grpo[eval]'" in capsys.readouterr().err


ADAPTERS = [
    ("LORA", "embed_tokens", None),
    ("LORA", "lm_head", None),
    ("LOHA", "q_proj", "loha adapters"),
    ("VERA", "q_proj", "vera adapters"),
    ("PROMPT_TUNING", "q_proj", "prompt_tuning adapters"),
]


@pytest.mark.parametrize(("kind", "place", "cause"), ADAPTERS)
def test_an_adapters_completions_are_those_of_peft(kind, place, cause, tmp_path, qwen, problems):
    """Greedy completions of each engine equal those of PEFT's model, prompt by prompt, and not the base model's."""
    folder, torch = tmp_path / "adapter", pytest.importorskip("torch")
    model = adapted(kind, place, AutoModelForCausalLM.from_pretrained(qwen))
    model.save_pretrained(folder)
    tokenizer = load_tokenizer(qwen)
    tokenizer.save_pretrained(folder)
    warn_once.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        options = ["--task", problems, "--template", "plain", "--output_dir"]
        assert evaluate("--model", str(folder), *options, str(tmp_path / "auto")) == 0
    caught_warnings = [str(warning.message) for warning in caught if "fast sampler" in str(warning.message)]
    assert len(caught_warnings) == (cause is not None)
    assert all(cause in text for text in caught_warnings)
    assert evaluate("--model", str(folder), "--engine", "transformers", *options, str(tmp_path / "generate")) == 0
    assert evaluate("--model", qwen, *options, str(tmp_path / "below")) == 0
    auto, generated, below = (
        [sample["completion"] for sample in read(tmp_path / name)[1]] for name in ("auto", "generate", "below")
    )
    assert auto == generated != below
    own = []
    for sample in read(tmp_path / "auto")[1]:
        ids = torch.tensor([tokenizer(sample["prompt"], add_special_tokens=False).input_ids])
        new = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        own.append(tokenizer.decode(new[0, ids.size(1) :], skip_special_tokens=True))
    assert own == auto
