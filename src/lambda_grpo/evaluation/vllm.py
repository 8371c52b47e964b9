"""Sampling from a vLLM server through its OpenAI-compatible API, and starting one (`vllm serve`)."""

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

MAX_CONCURRENT = 256  # requests; vLLM batches them
SHUTDOWN_SECONDS = 60  # after which a server that doesn't terminate is killed
RETRIES = 5  # per request, with growing pauses


class VLLMEngine:
    """Samples completions from a vLLM server.

    Args:
        url: of the server, e.g. http://127.0.0.1:8000. An API key is read from VLLM_API_KEY.
        model: the model that it has to serve, by name or path.
        tokenizer: the model's. Prompts are sent as token ids, so they are the same as for other engines.

    Raises:
        UserError: the server doesn't answer, or serves another model.
    """

    def __init__(self, url: str, model: str, tokenizer: Any):
        self.url, self.tokenizer = url.rstrip("/").removesuffix("/v1"), tokenizer
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=_key(), max_retries=RETRIES, timeout=None)
        try:
            served = self.client.with_options(max_retries=0).models.list().data
        except openai.OpenAIError as error:
            raise UserError(f"no vLLM server answers at {self.url}: {_line(error)}") from error
        matching = [
            entry for entry in served if _is_model(entry.id, model) or _is_model(getattr(entry, "root", None), model)
        ]
        if not matching:
            names = ", ".join(entry.id for entry in served)
            raise UserError(f"the server at {self.url} serves {names}, not {model}: start it with `vllm serve {model}`")
        self.model = matching[0].id
        self.context: int | None = getattr(matching[0], "max_model_len", None)

    def sample(
        self, prompts: list[list[int]], sampling: Sampling, *, seed: int, stops: tuple[str, ...]
    ) -> list[Completion]:
        """See `Engine.sample`.

        Raises:
            UserError: the server refuses a request, or doesn't answer any more.
        """

        def draw(index: int) -> Completion:
            answer = self.client.completions.create(
                model=self.model,
                prompt=prompts[index],
                max_tokens=sampling.max_completion_length,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=seed + index,
                stop=list(stops) or None,
                # sent explicitly, since the server may have other defaults
                extra_body={
                    "top_k": sampling.top_k or -1,  # older servers refuse 0
                    "min_p": sampling.min_p or 0.0,
                    "repetition_penalty": sampling.repetition_penalty,
                },
            )
            choice, usage = answer.choices[0], answer.usage
            if usage is None:
                raise UserError(f"the server at {self.url} doesn't report token counts (usage): it isn't vLLM")
            return Completion(choice.text, usage.completion_tokens, choice.finish_reason != "length")

        try:
            with ThreadPoolExecutor(min(MAX_CONCURRENT, len(prompts))) as threads:
                return list(threads.map(draw, range(len(prompts))))
        except openai.OpenAIError as error:
            raise UserError(
                f"the server at {self.url} failed: {_line(error)}. Finished samples are kept: the same command resumes"
            ) from error


@contextlib.contextmanager
def serve(model: str, log: Path) -> Iterator[str]:
    """Start `vllm serve` on a free port, yield its URL when it is ready, and terminate it afterwards.

    A LoRA checkpoint is merged into its base model, which is saved beside the log while the server runs.

    Raises:
        UserError: vLLM isn't installed, or doesn't start.
    """
    program = shutil.which("vllm")
    if program is None:
        raise UserError("no vllm program found: pip install vllm, or name a running server by --server URL")
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
                    server.wait(SHUTDOWN_SECONDS)
                except subprocess.TimeoutExpired:
                    server.kill()


def _wait_until_ready(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=_key(), max_retries=0, timeout=5)
    while server.poll() is None:
        try:
            client.models.list()
            return
        except openai.APIConnectionError:
            time.sleep(0.5)  # no time limit, as loading a large model takes long; the process exits if it fails
        except openai.APIStatusError:
            return  # it answers; VLLMEngine reports the error
    output = log.read_text()
    # copied, since the output directory of a failed evaluation is removed
    with NamedTemporaryFile("w", prefix="vllm-", suffix=".log", delete=False) as copy:
        copy.write(output)
    last_line = output.strip().rsplit("\n", 1)[-1]
    raise UserError(f"vllm serve ended with exit code {server.returncode}: {last_line} (its whole log: {copy.name})")


def _key() -> str:
    return os.environ.get("VLLM_API_KEY", "none")  # vLLM reads the same variable


def _is_model(served: str | None, model: str) -> bool:
    return served is not None and (
        served == model or (Path(model).is_dir() and Path(served).resolve() == Path(model).resolve())
    )


def _line(error: Exception) -> str:
    """An error and its cause on one line."""
    cause = error.__cause__ or error
    return " ".join((str(error) if cause is error else f"{error} {cause}").split())
