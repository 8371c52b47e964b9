"""Generation with a policy of 135 M parameters: the sampler of this package against llama.cpp's batched decoding.

    python -m lambda_grpo.bench.llamacpp ours       # prints one JSON object
    python -m lambda_grpo.bench.llamacpp float32    # the same by llama.cpp; q8_0 for its quantized weights

Both read the same prompts, once each, and evaluate the same tokens, which the sampler draws from a fixed seed. So
llama.cpp draws none, and decodes completions of the same lengths in the same batches. It is called as in its own
`batched-bench`: `llama_decode` with one token of each unfinished sequence. Both have torch's number of threads.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from lambda_grpo.bench.workloads import WORKLOADS, Workload, make_policy, make_prompts, make_tokenizer

PACKAGES = {"llama_cpp": "llama-cpp-python", "gguf": "gguf"}  # modules that it imports, and what to install
REPEATS = 3


def sample(model: Any, prompts: list[list[int]], workload: Workload) -> Any:
    """The sampler's completions of each prompt, from a fixed seed."""
    import torch
    from transformers import GenerationConfig

    from lambda_grpo.fast.sampler import FastSampler

    torch.manual_seed(1)
    config = GenerationConfig(
        do_sample=True,
        max_new_tokens=workload.max_completion_length,
        eos_token_id=model.generation_config.eos_token_id,
    )
    return FastSampler(config)(model, [ids for ids in prompts for _ in range(workload.num_generations)])


def write_gguf(model: Any, path: Path, *, quantized: bool) -> None:
    """Write a Llama as a GGUF file without vocabulary: its matrices in float32, or in llama.cpp's Q8_0."""
    import gguf

    config, kind = model.config, gguf.GGMLQuantizationType.Q8_0 if quantized else gguf.GGMLQuantizationType.F32
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_tokenizer_model("none")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.named_parameters():  # a tied head isn't written: llama.cpp takes the embedding
        values = weight.detach()
        if "q_proj" in name or "k_proj" in name:  # llama.cpp rotates neighbours, transformers a head's halves
            values = values.view(-1, 2, config.head_dim // 2, config.hidden_size).transpose(1, 2).flatten(0, 2)
        is_matrix = values.dim() == 2
        data = gguf.quants.quantize(values.numpy(), kind) if is_matrix else values.numpy()
        writer.add_tensor(names.get_name(name, (".weight",)) or name, data, raw_dtype=kind if is_matrix else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class LlamaCpp:
    """A model in llama.cpp with room for a batch of prompts and completions.

    is_exact: whether attention is in float32; otherwise in its default, float16.
    """

    def __init__(self, path: Path, workload: Workload, *, is_exact: bool):
        import llama_cpp
        import torch

        self.llama = llama_cpp
        llama_cpp.llama_backend_init()
        loading = llama_cpp.llama_model_default_params()
        loading.use_extra_bufts = is_exact  # with AMX, llama-cpp-python 0.3.36 crashes on Q8_0
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), loading)
        settings = llama_cpp.llama_context_default_params()
        length = workload.prompt_length + workload.max_completion_length
        settings.n_ctx = -(-workload.completions * length // 256) * 256
        settings.n_seq_max = workload.completions
        settings.kv_unified = True  # the sequences of a prompt share its keys and values
        settings.n_threads = settings.n_threads_batch = torch.get_num_threads()
        if is_exact:
            settings.type_k = settings.type_v = llama_cpp.GGML_TYPE_F32
            settings.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it rounds to float16
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        if not self.context:
            raise RuntimeError("llama.cpp can't make a context for this model")
        self.batch = llama_cpp.llama_batch_init(settings.n_batch, 0, 1)

    def decode(self, entries: list[tuple[int, int, int, bool]]) -> None:
        """Evaluate (token, position, sequence, whether its logits are needed)."""
        for i, (token, position, sequence, needs_logits) in enumerate(entries):
            self.batch.token[i], self.batch.pos[i], self.batch.logits[i] = token, position, needs_logits
            self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, sequence
        self.batch.n_tokens = len(entries)
        if self.llama.llama_decode(self.context, self.batch) != 0:
            raise RuntimeError("llama.cpp can't decode the batch")

    def generate(self, prompts: list[list[int]], completions: list[list[int]]) -> None:
        """Read each prompt once, then evaluate the completions, which belong to the prompts in order, side by side."""
        group = len(completions) // len(prompts)
        memory = self.llama.llama_get_memory(self.context)
        self.llama.llama_memory_clear(memory, True)
        for i, prompt in enumerate(prompts):
            self.decode([(token, at, i * group, at == len(prompt) - 1) for at, token in enumerate(prompt)])
            for j in range(i * group + 1, (i + 1) * group):
                self.llama.llama_memory_seq_cp(memory, i * group, j, -1, -1)
        for t in range(max(map(len, completions)) - 1):  # nothing follows a completion's last token
            live = [j for j, completion in enumerate(completions) if t < len(completion) - 1]
            self.decode([(completions[j][t], len(prompts[j // group]) + t, j, True) for j in live])

    def log_probabilities(self, count: int) -> Any:
        """(count, V) of the last tokens of the last batch whose logits were needed."""
        import numpy
        import torch

        vocabulary = self.llama.llama_vocab_n_tokens(self.llama.llama_model_get_vocab(self.model))
        rows = [self.llama.llama_get_logits_ith(self.context, i - count) for i in range(count)]
        logits = numpy.stack([numpy.ctypeslib.as_array(row, (vocabulary,)) for row in rows])
        return torch.from_numpy(logits).log_softmax(-1)


def run(side: str, workload: Workload) -> dict[str, float]:
    """Seconds of the fastest of some generations, and tokens of it per second.

    side: "ours", or "float32" or "q8_0" for llama.cpp.
    """
    model, tokenizer = make_policy(workload), make_tokenizer()
    prompts = tokenizer(make_prompts(workload, workload.prompts))["input_ids"]
    completions = sample(model, prompts, workload).ids
    with tempfile.TemporaryDirectory() as folder:
        if side == "ours":
            generate = lambda: sample(model, prompts, workload)  # noqa: E731
        else:
            path = Path(folder, "policy.gguf")
            write_gguf(model, path, quantized=side == "q8_0")
            llama = LlamaCpp(path, workload, is_exact=side == "float32")
            generate = lambda: llama.generate(prompts, completions)  # noqa: E731
            generate()  # the sampler has warmed up already
        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            generate()
            seconds.append(time.perf_counter() - start)
    return {"generate": min(seconds), "tokens_per_second": sum(map(len, completions)) / min(seconds)}


if __name__ == "__main__":
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
    warnings.filterwarnings("ignore")
    print(json.dumps(run(sys.argv[1], WORKLOADS["real"])))
