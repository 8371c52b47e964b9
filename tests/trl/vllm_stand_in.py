"""vLLM's server as TRL's client sees it, in this process: an engine whose numbers are off by a known amount.

It takes the place of `trl.generation.vllm_client.VLLMClient`. What lies between client and trainer is TRL's own: which
prompts are sent, how weights are streamed, how samples and log-probabilities come back.
"""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, LogitsProcessor
from trl.generation import vllm_generation

from lambda_grpo.models import BUILTIN, resolve_model


def offsets(vocabulary, size=0.7):
    """(V,) what the engine's logits have more than the policy's, wherever the token stands."""
    return size * torch.randn(vocabulary, generator=torch.Generator().manual_seed(1))


class Off(LogitsProcessor):
    def __call__(self, input_ids, scores):
        return scores + offsets(scores.size(-1))


class StandIn:
    """Samples from what was last sent to it. Its random numbers are its own: two trainers get the same samples."""

    def __init__(self, base_url, group_port, connection_timeout):
        self.engine = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(resolve_model(BUILTIN)))
        self.engine.tie_weights()
        self.received, self.calls = [], 0

    def init_communicator(self, device):
        pass

    def get_server_info(self):
        return {"model_config": {"logprobs_mode": "processed_logprobs"}}

    def reset_prefix_cache(self):
        pass

    def update_named_params(self, metadata, named_parameters):
        sent = {name: value.clone() for name, value in named_parameters}
        assert [(name, list(value.shape)) for name, value in sent.items()] == [(row[0], row[2]) for row in metadata]
        self.engine.load_state_dict(sent, strict=False)  # the head is the embedding
        self.received.append(sent)

    def generate(self, prompts, n, max_tokens, temperature, logprobs, **_):
        assert (temperature, logprobs) == (1.0, 0)
        self.calls += 1
        pad, eos = self.engine.config.pad_token_id, self.engine.config.eos_token_id
        rows = [prompt for prompt in prompts for _ in range(n)]
        width = max(map(len, rows))
        padded = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
        with torch.random.fork_rng():
            torch.manual_seed(self.calls)
            output = self.engine.generate(
                padded, attention_mask=(padded != pad).long(), do_sample=True, top_k=0, max_new_tokens=max_tokens,
                logits_processor=[Off()], return_dict_in_generate=True, output_scores=True,
            )  # fmt: skip
        sampled = output.sequences[:, width:].tolist()
        own = torch.stack(output.scores, 1).log_softmax(-1)
        completions = [row[: row.index(eos) + 1] if eos in row else row for row in sampled]
        return {
            "prompt_ids": prompts,
            "completion_ids": completions,
            "logprobs": [
                [[own[i, t, token].item()] for t, token in enumerate(row)] for i, row in enumerate(completions)
            ],
        }


def install(monkeypatch):
    """vLLM seems to be there, and its server to answer."""
    monkeypatch.setattr(vllm_generation, "is_vllm_available", lambda: True)
    monkeypatch.setattr(vllm_generation, "VLLMClient", StandIn)
