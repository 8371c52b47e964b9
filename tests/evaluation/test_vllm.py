"""The vLLM engine against a mock server with vLLM's API, and against a real one if vLLM is installed."""

import json
import os
import re
import shutil
import stat
import sys
import threading
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from lambda_grpo.cli import main
from lambda_grpo.errors import UserError
from lambda_grpo.evaluation.engines import Sampling
from lambda_grpo.evaluation.vllm import VLLMEngine
from lambda_grpo.models import load_tokenizer
from tests.evaluation.tiny_models import save_model, write_jsonl
from tests.evaluation.vllm_server import StandIn

PROBLEMS = [{"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(6)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("qwen2"))


@pytest.fixture
def server(model):
    with StandIn(model) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def evaluate(tmp_path, model, name, *options):
    problems = write_jsonl(tmp_path / "sums.jsonl", PROBLEMS)
    command = ["eval", "--model", model, "--task", str(problems), "--max_completion_length", "12"]
    code = main([*command, "--output_dir", str(tmp_path / name), "--batch_size", "4", *options])
    lines = (tmp_path / name / "sums.samples.jsonl").read_text().splitlines() if code == 0 else []
    return code, [json.loads(line) for line in lines]


def test_greedy_completions_are_those_of_transformers(tmp_path, model, server):
    """The server gets the same token ids, including the chat template's special tokens, and returns the same text."""
    code, local = evaluate(tmp_path, model, "here", "--engine", "transformers")
    assert code == 0
    code, served = evaluate(tmp_path, model, "there", "--engine", "vllm", "--server", server.url)
    assert code == 0
    assert served == local
    assert len({row["completion"] for row in local}) > 1
    tokenizer = load_tokenizer(model)
    by_prompt = {tuple(body["prompt"]): body for body in server.requests}
    assert set(by_prompt) == {tuple(tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]) for row in local}
    body = server.requests[0]
    settings = {key: body[key] for key in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")}
    assert settings == {"temperature": 0, "top_p": 1, "top_k": -1, "min_p": 0, "repetition_penalty": 1}


def test_sampling_follows_the_seed(tmp_path, model, server):
    sampled = ["--engine", "vllm", "--server", server.url, "--samples", "3", "--temperature", "0.8", "--top_p", "0.9"]
    _, first = evaluate(tmp_path, model, "a", *sampled)
    _, again = evaluate(tmp_path, model, "b", *sampled)
    _, other = evaluate(tmp_path, model, "c", *sampled, "--seed", "1")
    assert first == again != other
    assert len({row["completion"] for row in first[:3]}) > 1
    seeds = [body["seed"] for body in server.requests[:18]]
    assert len(set(seeds)) == 18


def test_an_address_may_end_in_v1(model, server):
    assert VLLMEngine(f"{server.url}/v1/", model, load_tokenizer(model)).url == server.url


def test_stops_are_sent_and_removed(tmp_path, model, server):
    _, rows = evaluate(
        tmp_path, model, "stops", "--engine", "vllm", "--server", server.url, "--template", "question_answer"
    )
    assert server.requests[0]["stop"] == ["Question:"]
    assert rows[0]["prompt"] == "Question:\nWhat is 0 + 0?\nAnswer:\nLet's think step by step.\n"


def test_a_request_to_a_busy_server_is_repeated(tmp_path, model, server):
    server.failures = 2
    code, rows = evaluate(tmp_path, model, "busy", "--engine", "vllm", "--server", server.url)
    assert code == 0
    assert len(rows) == 6
    assert len(server.requests) == 8


def test_another_model_is_refused(tmp_path, server, capsys):
    other = save_model(tmp_path / "other")
    code, _ = evaluate(tmp_path, other, "refused", "--engine", "vllm", "--server", server.url)
    assert code == 2
    assert f"serves {server.served}, not {other}: start it with `vllm serve {other}`" in capsys.readouterr().err


def test_a_model_with_another_served_name_is_recognised_by_its_root(model):
    with StandIn(model, name="mine") as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        assert VLLMEngine(running.url, model, load_tokenizer(model)).model == "mine"
        running.shutdown()


def test_prompts_that_exceed_the_context_are_refused_before_sampling(tmp_path, model, server, capsys):
    engine = VLLMEngine(server.url, model, load_tokenizer(model))
    assert engine.context == 512
    code, _ = evaluate(
        tmp_path, model, "long", "--engine", "vllm", "--server", server.url, "--max_completion_length", "480"
    )
    assert code == 2
    assert "a prompt and its completion may take 528 tokens, the model has 512" in capsys.readouterr().err
    assert server.requests == []
    with pytest.raises(UserError, match=r"maximum context length is 512 tokens\. Finished samples are kept"):
        engine.sample([[5, 6, 7]], Sampling(512, 0.0), seed=0, stops=())


def test_no_server(tmp_path, model, capsys):
    code, _ = evaluate(tmp_path, model, "none", "--engine", "vllm", "--server", "http://127.0.0.1:9")
    assert code == 2
    assert "no vLLM server answers at http://127.0.0.1:9: Connection error." in capsys.readouterr().err


def test_finished_samples_are_kept_when_the_server_dies(tmp_path, model, server, capsys, monkeypatch):
    monkeypatch.setattr("lambda_grpo.evaluation.vllm.RETRIES", 0)
    real = server.complete

    def fail_later(body):
        if len(server.requests) > 4:
            raise ConnectionAbortedError
        return real(body)

    monkeypatch.setattr(server, "complete", fail_later)
    monkeypatch.setattr(server, "handle_error", lambda *arguments: None)
    settings = ["--engine", "vllm", "--server", server.url]
    code, _ = evaluate(tmp_path, model, "cut", *settings)
    assert code == 2
    assert "Finished samples are kept: the same command resumes" in capsys.readouterr().err
    assert len((tmp_path / "cut" / "sums.samples.jsonl").read_text().splitlines()) == 4
    monkeypatch.setattr(server, "complete", real)
    code, resumed = evaluate(tmp_path, model, "cut", *settings)
    assert code == 0
    assert resumed == evaluate(tmp_path, model, "whole", *settings)[1]


def stand_in_program(folder, body):
    folder.mkdir()
    program = folder / "vllm"
    program.write_text(body)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(folder)


def test_a_server_is_started_and_ended(tmp_path, model, monkeypatch):
    script = Path(__file__).with_name("vllm_server.py")
    body = f'#!/bin/sh\nexec {sys.executable} {script} "$@"\n'
    monkeypatch.setenv("PATH", stand_in_program(tmp_path / "bin", body), prepend=os.pathsep)
    code, rows = evaluate(tmp_path, model, "started", "--engine", "vllm")
    assert code == 0
    assert rows == evaluate(tmp_path, model, "here", "--engine", "transformers")[1]
    assert "started" in (tmp_path / "started" / "vllm.log").read_text()


def test_a_lora_checkpoint_is_served_as_a_whole_model(tmp_path, model, monkeypatch):
    """vLLM takes no adapter by itself."""
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapter, tokenizer = get_peft_model(AutoModelForCausalLM.from_pretrained(model), lora), load_tokenizer(model)
    adapter.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    script = Path(__file__).with_name("vllm_server.py")
    body = f'#!/bin/sh\nexec {sys.executable} {script} "$@"\n'
    monkeypatch.setenv("PATH", stand_in_program(tmp_path / "bin", body), prepend=os.pathsep)
    code, rows = evaluate(tmp_path, str(tmp_path / "adapter"), "served", "--engine", "vllm")
    assert code == 0
    assert rows == evaluate(tmp_path, str(tmp_path / "adapter"), "here", "--engine", "transformers")[1]
    assert rows != evaluate(tmp_path, model, "base", "--engine", "transformers")[1]
    assert not list((tmp_path / "served").glob(".merged-*"))


def test_a_server_that_doesnt_start_says_why(tmp_path, model, monkeypatch, capsys):
    body = "#!/bin/sh\necho no GPU here; exit 3\n"
    monkeypatch.setenv("PATH", stand_in_program(tmp_path / "bin", body), prepend=os.pathsep)
    code, _ = evaluate(tmp_path, model, "failed", "--engine", "vllm")
    assert code == 2
    error = capsys.readouterr().err
    assert "vllm serve ended with exit code 3: no GPU here" in error
    assert Path(re.search(r"its whole log: (.*)\)", error).group(1)).read_text() == "no GPU here\n"
    assert not (tmp_path / "failed").exists()


def test_no_vllm(tmp_path, model, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert evaluate(tmp_path, model, "none", "--engine", "vllm")[0] == 2
    assert "no vllm program found: pip install vllm, or name a running server" in capsys.readouterr().err


@pytest.mark.vllm
@pytest.mark.skipif(shutil.which("vllm") is None, reason="vLLM isn't installed")
def test_the_real_one(tmp_path, model):
    code, rows = evaluate(tmp_path, model, "real", "--engine", "vllm")
    assert code == 0
    assert [row["problem"] for row in rows] == list(range(6))
    local = evaluate(tmp_path, model, "here", "--engine", "transformers")[1]
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in local]
    assert rows[0]["completion"][:5] == local[0]["completion"][:5]
