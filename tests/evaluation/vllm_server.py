"""A small stand-in for `vllm serve`: vLLM's OpenAI protocol on loopback, with a tiny model behind it.

    python vllm_server.py serve MODEL --served-model-name NAME --host 127.0.0.1 --port PORT

Fields and error bodies are those of vLLM's entrypoints/openai: completions of token ids, seeds, stop strings, usage,
{"error": {"message", "type", "param", "code"}}.
"""

import argparse
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

MAX_MODEL_LEN = 512
KNOWN = {
    "model", "prompt", "max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "stop",
}  # fmt: skip


class StandIn(ThreadingHTTPServer):
    """Tests set and read `failures`, how many more requests get status 503, and `requests`, all request bodies."""

    daemon_threads = True

    def __init__(self, model, port=0, *, name=None):
        super().__init__(("127.0.0.1", port), Handler)
        self.model, self.tokenizer = (
            AutoModelForCausalLM.from_pretrained(model).eval(),
            AutoTokenizer.from_pretrained(model),
        )
        self.root, self.served = model, name or model
        self.lock, self.requests, self.failures = Lock(), [], 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    @torch.no_grad()
    def complete(self, body):
        unknown = set(body) - KNOWN
        assert not unknown, f"fields that vLLM would ignore: {unknown}"
        ids = body["prompt"]
        assert isinstance(ids, list)
        assert all(isinstance(token, int) for token in ids)
        drawn = {}
        if body["temperature"] > 0:
            drawn = {"temperature": body["temperature"], "top_p": body["top_p"], "top_k": max(0, body["top_k"])}
        with self.lock:
            torch.manual_seed(body["seed"])
            config = GenerationConfig(
                max_new_tokens=body["max_tokens"], do_sample=bool(drawn), eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=self.tokenizer.pad_token_id, **drawn,
            )  # fmt: skip
            inputs = torch.tensor([ids])
            output = self.model.generate(inputs, attention_mask=torch.ones_like(inputs), generation_config=config)
        new = output[0, len(ids) :].tolist()
        ended = new[-1] == self.tokenizer.eos_token_id
        text = self.tokenizer.decode(new, skip_special_tokens=True)
        for stop in body["stop"] or []:
            if stop in text:
                text, ended = text.split(stop, 1)[0], True
        return {
            "id": "cmpl-1", "object": "text_completion", "created": 1, "model": self.served,
            "choices": [{
                "index": 0, "text": text, "logprobs": None, "finish_reason": "stop" if ended else "length",
                "stop_reason": None,
            }],
            "usage": {"prompt_tokens": len(ids), "completion_tokens": len(new), "total_tokens": len(ids) + len(new)},
        }  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def reply(self, status, body):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def error(self, status, kind, message, param=None):
        self.reply(status, {"error": {"message": message, "type": kind, "param": param, "code": status}})

    def do_GET(self):
        entry = {
            "id": self.server.served, "object": "model", "created": 1, "owned_by": "vllm", "root": self.server.root,
            "parent": None, "max_model_len": MAX_MODEL_LEN, "permission": [],
        }  # fmt: skip
        if self.path == "/v1/models":
            self.reply(200, {"object": "list", "data": [entry]})
        else:
            self.error(404, "Not Found", "Not Found")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body)
        if self.server.failures > 0:
            self.server.failures -= 1
            self.error(503, "Service Unavailable", "overloaded")
        elif body.get("model") != self.server.served:
            self.error(404, "NotFoundError", f"The model `{body.get('model')}` does not exist.", "model")
        elif len(body["prompt"]) + body["max_tokens"] > MAX_MODEL_LEN:
            self.error(400, "BadRequestError", f"maximum context length is {MAX_MODEL_LEN} tokens", "input_tokens")
        else:
            self.reply(200, self.server.complete(body))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--served-model-name")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    options = parser.parse_args()
    server = StandIn(options.model, options.port, name=options.served_model_name)
    print("started", file=sys.stderr, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
