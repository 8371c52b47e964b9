"""Completions from a vLLM server, by its OpenAI protocol (`vllm serve`): one that runs, or one that is started here."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Any

import openai

from lambda_grpo.errors import UserError
from lambda_grpo.evaluation.engines import Completion, Sampling
from lambda_grpo.models import merge_adapter

CONCURRENT = 256  # requests; vLLM makes batches of them itself
SECONDS_TO_END = 60  # that a server has
RETRIES = 5  # of a request, with growing pauses


class VLLMEngine:
    """Draws from a server.

    Args:
        url: of the server, e.g. http://127.0.0.1:8000. An API key is read from VLLM_API_KEY.
        model: what it has to serve, by the name that it was started with.
        tokenizer: the model's. Prompts are sent as token ids, so they are the same as for any other engine.

    Raises:
        UserError: nothing answers there, or it serves another model.
    """

    def __init__(self, url: str, model: str, tokenizer: Any):
        self.url, self.tokenizer = url.rstrip("/").removesuffix("/v1"), tokenizer
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=_key(), max_retries=RETRIES, timeout=None)
        try:
            served = self.client.with_options(max_retries=0).models.list().data
        except openai.OpenAIError as error:
            raise UserError(f"no vLLM server answers at {self.url}: {_line(error)}") from error
        ours = [entry for entry in served if _is(entry.id, model) or _is(getattr(entry, "root", None), model)]
        if not ours:
            names = ", ".join(entry.id for entry in served)
            raise UserError(f"the server at {self.url} serves {names}, not {model}: start it with `vllm serve {model}`")
        self.model = ours[0].id
        self.context: int | None = getattr(ours[0], "max_model_len", None)

    def sample(
        self, prompts: list[list[int]], sampling: Sampling, *, seed: int, stops: tuple[str, ...]
    ) -> list[Completion]:
        """As `Engine.sample`.

        Raises:
            UserError: the server refuses a request, or has gone away.
        """

        def draw(number: int) -> Completion:
            answer = self.client.completions.create(
                model=self.model,
                prompt=prompts[number],
                max_tokens=sampling.max_completion_length,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=seed + number,
                stop=list(stops) or None,
                # what is left out would be the server's own default
                extra_body={
                    "top_k": sampling.top_k or -1,  # 0 is refused by older servers
                    "min_p": sampling.min_p or 0.0,
                    "repetition_penalty": sampling.repetition_penalty,
                },
            )
            choice, usage = answer.choices[0], answer.usage
            if usage is None:
                raise UserError(f"the server at {self.url} doesn't count tokens (usage): it isn't vLLM's")
            return Completion(choice.text, usage.completion_tokens, choice.finish_reason != "length")

        try:
            with ThreadPoolExecutor(min(CONCURRENT, len(prompts))) as threads:
                return list(threads.map(draw, range(len(prompts))))
        except openai.OpenAIError as error:
            raise UserError(
                f"the server at {self.url} failed: {_line(error)}. What was drawn is kept: the same command goes on"
            ) from error


@contextlib.contextmanager
def serve(model: str, log: Path) -> Iterator[str]:
    """Start `vllm serve` on a free port and yield its address when it is ready; end it afterwards.

    A LoRA checkpoint is served as a whole model, written beside the log as long as the server runs.

    Raises:
        UserError: vLLM isn't installed, or doesn't start.
    """
    program = shutil.which("vllm")
    if program is None:
        raise UserError("no vllm program here: pip install vllm, or name a server that runs by --server URL")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    print(f"Starting vLLM (log: {log}) …", file=sys.stderr)
    with TemporaryDirectory(dir=log.parent, prefix=".merged-") as folder, open(log, "a") as output:
        command = [program, "serve", merge_adapter(model, folder), "--served-model-name", model]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        with subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as server:
            try:
                _wait_until_ready(url, server, log)
                yield url
            finally:
                server.terminate()
                try:
                    server.wait(SECONDS_TO_END)
                except subprocess.TimeoutExpired:
                    server.kill()


def _wait_until_ready(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=_key(), max_retries=0, timeout=5)
    while server.poll() is None:
        try:
            client.models.list()
            return
        except openai.APIConnectionError:
            time.sleep(0.5)  # loading a model takes as long as it takes; the process ends if it fails
        except openai.APIStatusError:
            return  # it answers: what it says is for the engine to tell
    said = log.read_text()
    with NamedTemporaryFile(
        "w", prefix="vllm-", suffix=".log", delete=False
    ) as kept:  # the evaluation leaves no folder
        kept.write(said)
    last = said.strip().rsplit("\n", 1)[-1]
    raise UserError(f"vllm serve ended with exit code {server.returncode}: {last} (all of it: {kept.name})")


def _key() -> str:
    return os.environ.get("VLLM_API_KEY", "none")  # the variable that vLLM reads, too


def _is(served: str | None, model: str) -> bool:
    return served is not None and (
        served == model or (Path(model).is_dir() and Path(served).resolve() == Path(model).resolve())
    )


def _line(error: Exception) -> str:
    cause = error.__cause__ or error
    return " ".join((str(error) if cause is error else f"{error} {cause}").split())
