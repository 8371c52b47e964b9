"""For tests only: a rollout for verl 0.9.1 that samples from the Hugging Face model, on the CPU.

Samples follow from the step, the prompt and how often it was asked for: a run that is resumed draws the same ones.
"""

import asyncio
import os
import random
import zlib
from collections import Counter

import ray
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica, TokenOutput

SHORTEST, LONGEST = 3, 16  # tokens


@ray.remote(num_cpus=0)
class Server:
    def __init__(self, path):
        torch.set_num_threads(1)
        self.eos = AutoTokenizer.from_pretrained(path).eos_token_id
        self.model = AutoModelForCausalLM.from_pretrained(path).float().eval()
        self.step, self.asked, self.lock = 0, Counter(), asyncio.Lock()

    async def generate(self, request_id, prompt_ids, sampling_params, **kwargs):
        async with self.lock:
            key = (self.step, *prompt_ids)
            self.asked[key] += 1
            seed = zlib.crc32(repr((key, self.asked[key])).encode())
            tokens, logprobs = self.sample(list(prompt_ids), random.Random(seed))
        return TokenOutput(
            token_ids=tokens, log_probs=logprobs, stop_reason="completed", extra_fields={"global_steps": self.step}
        )

    @torch.no_grad()
    def sample(self, prompt, draw):
        length, tokens, logprobs = draw.randint(SHORTEST, LONGEST), [], []
        for position in range(length):
            logits = self.model(torch.tensor([prompt + tokens])).logits[0, -1]
            distribution = torch.log_softmax(logits, -1)
            is_last = position == length - 1
            token = self.eos if is_last else draw.choices(range(len(logits)), distribution.exp().tolist())[0]
            tokens.append(token)
            logprobs.append(distribution[token].item())
        return tokens, logprobs

    async def load_weights(self, named, step):
        self.model.load_state_dict({name: value.float() for name, value in named}, strict=False)
        self.step = step or 0

    async def nothing(self, *args, **kwargs):
        return None

    wake_up = sleep = abort_all_requests = resume_generation = clear_kv_cache = nothing
    release_kv_cache = resume_kv_cache = start_profile = stop_profile = nothing


class CPUReplica(RolloutReplica):
    async def launch_servers(self):
        server = Server.options(name="cpu_rollout", max_concurrency=64).remote(self.model_config.path)
        await server.nothing.remote()
        self.servers, self._server_handle, self._server_address = [server], server, "cpu_rollout"


class WeightSender(BaseRollout):
    """In each worker: gives the trained weights to the server."""

    async def resume(self, tags):
        pass

    async def release(self):
        pass

    async def update_weights(self, weights, global_steps=None, **kwargs):
        named = [(name, value.detach().cpu().clone()) for name, value in weights]  # a collective of all ranks
        if os.environ["RANK"] == "0":
            await ray.get_actor("cpu_rollout").load_weights.remote(named, global_steps)
