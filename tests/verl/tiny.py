"""A tiny policy with a tokenizer of bytes, and problems of the form that verl reads."""

import random
from pathlib import Path

import pandas as pd
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

SPECIAL = ["<pad>", "<eos>", "<unk>"]


def make(folder: Path):
    """Save model and tokenizer into `folder`, and train.parquet beside them."""
    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *SPECIAL]
    vocabulary = {token: i for i, token in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    fast.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    fast.save_pretrained(folder)

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=vocabulary["<eos>"], pad_token_id=vocabulary["<pad>"],
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)

    draw = random.Random(0)
    rows = [
        {
            "data_source": "sums",
            "prompt": [{"role": "user", "content": f"{i}+{draw.randint(0, 9)}="}],  # each another one
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "0"},
            "extra_info": {"index": i},
        }
        for i in range(32)
    ]
    pd.DataFrame(rows).to_parquet(folder / "train.parquet")


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    """A reward that differs within a group of random completions: verl's custom reward function."""
    return sum(map(ord, solution_str)) % 7 / 6


def right_or_wrong(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    """The same of 0 or 1: DARO counts right answers."""
    return float(sum(map(ord, solution_str)) % 2)
