"""What a run needs: against the published size of a model, and against what a real run leaves on the disk."""

import json

import pytest

from lambda_grpo.cli import main
from lambda_grpo.models.size import model_size
from lambda_grpo.runs.directory import Run
from lambda_grpo.training.footprint import footprint
from lambda_grpo.training.recipe import Recipe, read_recipe

# config.json of HuggingFaceTB/SmolLM2-135M, which has 134,515,008 parameters
SMOL = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 0,
    "eos_token_id": 0, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041666666666666664,
    "intermediate_size": 1536, "max_position_embeddings": 8192, "model_type": "llama", "num_attention_heads": 9,
    "num_hidden_layers": 30, "num_key_value_heads": 3, "rms_norm_eps": 1e-05, "rope_theta": 100000,
    "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 49152,
}  # fmt: skip
PARAMETERS = 134_515_008


@pytest.fixture
def smol(tmp_path):
    (tmp_path / "smol").mkdir()
    (tmp_path / "smol" / "config.json").write_text(json.dumps(SMOL))
    return str(tmp_path / "smol")


def needed(model, **keys):
    recipe = {**read_recipe(None), "model_name_or_path": model, "output_dir": "unused", **keys}
    return footprint(Recipe.parse(recipe))


def test_the_size_of_a_model_without_its_weights(smol, tmp_path):
    size = model_size(smol)
    assert (size.parameters, size.trained) == (PARAMETERS, PARAMETERS)
    assert (size.layers, size.hidden, size.intermediate, size.key_values, size.vocabulary) == (
        30,
        576,
        1536,
        192,
        49152,
    )
    (tmp_path / "config.json").write_text('{"model_type": "none that transformers knows"}')
    assert model_size(str(tmp_path)) is None


def test_memory_by_hand(smol):
    small = {"per_device_train_batch_size": 32, "max_completion_length": 64, "per_device_eval_batch_size": 32}
    weights = 5 * 4 * PARAMETERS  # weights, the sampler's copy, gradients, two moments
    packed = 32 * 64 * 30 * (6 * 576 + 2 * 1536) * 4
    assert needed(smol, **small).memory == 400_000_000 + weights + packed
    own = 32 * 64 * (30 * (12 * 576 + 4 * 1536) + 2 * 49152) * 4
    assert needed(smol, **small, packing=False).memory == 400_000_000 + weights + own
    one_layer = 32 * 64 * (30 * 576 + 6 * 576 + 2 * 1536) * 4
    assert needed(smol, **small, gradient_checkpointing=True).memory == 400_000_000 + weights + one_layer
    cache = 256 * 64 * 30 * 2 * 192 * 4
    many = {**small, "per_device_train_batch_size": 8, "per_device_eval_batch_size": 256}
    assert needed(smol, **many).memory == 400_000_000 + weights + cache
    assert needed(smol, **small, beta=0.1).memory == 400_000_000 + weights + 4 * PARAMETERS + packed
    assert needed(smol, **small, max_prompt_length=64).memory == 400_000_000 + weights + 2 * packed
    half = needed(smol, **small, dtype="bfloat16").memory
    assert half == 400_000_000 + (weights + packed) // 2


def test_lora_trains_and_saves_its_adapter_alone(smol):
    lora = {"use_peft": True, "lora_r": 8, "lora_target_modules": ["q_proj", "v_proj"]}
    adapter = 30 * 8 * ((576 + 576) + (576 + 192))
    found = needed(smol, **lora)
    assert (found.checkpoint, found.model) == (12 * adapter, 4 * adapter)
    assert needed(smol).memory - found.memory == 4 * (5 * PARAMETERS - 2 * (PARAMETERS + adapter) - 3 * adapter)


@pytest.mark.parametrize(
    ("keys", "kept", "most"),
    [
        ({}, 2, 3),  # the demonstration saves after 20, 40 and 60 steps, and keeps 2
        ({"save_total_limit": 1}, 1, 2),
        ({"save_total_limit": None, "save_steps": 25}, 3, 3),  # the last step is saved, too
        ({"save_total_limit": 5}, 3, 3),
        ({"save_steps": 0.5, "save_total_limit": None}, 2, 2),
        ({"save_strategy": "no"}, 0, 0),
        ({"max_steps": -1}, 1, 1),  # depends on the data
        (
            {"save_total_limit": 1, "load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 20,
             "metric_for_best_model": "reward"}, 2, 2,
        ),
    ],
)  # fmt: skip
def test_the_number_of_checkpoints(keys, kept, most):
    found = needed("builtin", **keys)
    assert (found.kept, found.most if "load_best_model_at_end" not in keys else 2) == (kept, most)


def test_the_disk_space_is_that_of_a_real_run(tmp_path):
    settings = {"max_steps": 3, "save_steps": 1, "per_device_train_batch_size": 16, "max_completion_length": 8,
                "eval_size": 8, "task_size": 64}  # fmt: skip
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    assert main(["train", "--output_dir", str(tmp_path / "run"), *words]) == 0
    found, real = needed("builtin", **settings), Run(tmp_path / "run").weights_bytes()
    assert found.disk_at_end <= real <= 1.02 * found.disk_at_end
    assert found.disk == found.most * found.checkpoint == 3 * found.checkpoint
