"""The recipes for real models: their layered settings, parsed as by the program."""

import itertools
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from lambda_grpo import PRESETS
from lambda_grpo.training.recipe import Recipe, read_recipes

ROOT = Path(__file__).parents[2] / "recipes"
ARMS = ["grpo", "dapo", "dapo_full", "dr_grpo", "lambda_grpo"]
MODELS = {
    "qwen2.5-1.5b": "Qwen/Qwen2.5-1.5B", "qwen2.5-1.5b-instruct": "Qwen/Qwen2.5-1.5B-Instruct",
    "qwen2.5-3b": "Qwen/Qwen2.5-3B", "qwen2.5-3b-instruct": "Qwen/Qwen2.5-3B-Instruct",
    "qwen2.5-7b": "Qwen/Qwen2.5-7B", "qwen2.5-7b-instruct": "Qwen/Qwen2.5-7B-Instruct",
    "llama-3.2-3b-instruct": "meta-llama/Llama-3.2-3B-Instruct", "qwen3-1.7b-base": "Qwen/Qwen3-1.7B-Base",
}  # fmt: skip
PROCESSES = {"one_gpu": 1, "one_node": 8, "one_node_server": 4}


def test_there_is_a_file_for_each_model():
    found = {path.stem for path in ROOT.glob("models/*.yaml")}
    assert found == {*MODELS, "maths"}
    assert {path.stem for path in ROOT.glob("hardware/*.yaml")} == {*PROCESSES, "lora"}


@pytest.mark.parametrize("name", MODELS)
def test_a_models_file_says_what_is_the_models_alone(name):
    own = yaml.safe_load((ROOT / f"models/{name}.yaml").read_text())
    assert own["base"] == "maths.yaml"
    assert own["model_name_or_path"] == MODELS[name]
    assert set(own) - {"chat_template_kwargs"} == {"base", "model_name_or_path", "template"}


@pytest.mark.parametrize(("hardware", "lora"), list(itertools.product(PROCESSES, [False, True])))
def test_every_combination_is_a_configuration_of_the_same_batch(hardware, lora):
    for model, arm in itertools.product(MODELS, ARMS):
        files = [ROOT / f"models/{model}.yaml", ROOT / f"hardware/{hardware}.yaml"]
        files += [ROOT / "hardware/lora.yaml"] if lora else []
        keys = read_recipes([*files, ROOT / f"{arm}.yaml"])
        # without a GPU, transformers refuses bf16
        recipe = Recipe.parse({**keys, "output_dir": "run", "bf16": False, "use_cpu": True})
        training = recipe.training
        assert training.objective == arm
        assert recipe.model.model_name_or_path == MODELS[model]
        assert recipe.task.task == "math"
        completions = PROCESSES[hardware] * training.per_device_train_batch_size * training.gradient_accumulation_steps
        assert completions == 1024
        assert recipe.model.use_peft == lora
        assert recipe.model.lora_dropout == (0.0 if lora else 0.05)  # a ratio of 1 at the first step
        assert training.learning_rate == (1e-5 if lora else 1e-6)
        assert training.use_vllm
        if arm == "dapo_full":
            objective = training.resolve_objective()
            assert objective.rollouts.dynamic_sampling
            assert objective.surrogate.epsilon_high == 0.28
            assert objective.rollouts.overlong_buffer == pytest.approx(0.2)


def test_arms_differ_in_their_objective_alone():
    files = [ROOT / "models/qwen2.5-1.5b.yaml", ROOT / "hardware/one_gpu.yaml"]
    settings = {arm: read_recipes([*files, ROOT / f"{arm}.yaml"]) for arm in ARMS}
    assert {arm: keys.pop("objective") for arm, keys in settings.items()} == dict(zip(ARMS, ARMS, strict=True))
    assert all(keys == settings["grpo"] for keys in settings.values())
    assert set(ARMS) <= set(PRESETS)


def test_of_several_recipes_each_lies_over_those_before_it_and_the_demonstration_below_none(tmp_path):
    (tmp_path / "mine.yaml").write_text("task: chain_sum\nmax_steps: 7\n")
    (tmp_path / "built.yaml").write_text("base: mine.yaml\nmax_steps: 8\n")
    mine, built, grpo = tmp_path / "mine.yaml", tmp_path / "built.yaml", ROOT / "grpo.yaml"
    assert read_recipes([mine, grpo]) == {"task": "chain_sum", "max_steps": 7, "objective": "grpo"}
    assert read_recipes([grpo, built]) == {"task": "chain_sum", "max_steps": 8, "objective": "grpo"}
    assert read_recipes([grpo])["per_device_train_batch_size"] == 128  # the demonstration's
    assert read_recipes(["demo", mine])["per_device_train_batch_size"] == 128
    assert read_recipes([])["task"] == read_recipes(["demo"])["task"] == "arithmetic"


@pytest.mark.parametrize(("name", "kind"), [("fsdp2", "FSDP"), ("zero2", "DEEPSPEED"), ("zero3", "DEEPSPEED")])
def test_accelerate_reads_the_configurations(name, kind):
    config = load_config_from_file(str(ROOT / f"accelerate/{name}.yaml"))
    assert (config.num_processes, config.mixed_precision, config.distributed_type) == (8, "bf16", kind)


def test_accelerate_would_launch_the_command_of_the_recipes():
    """Of FSDP2's: for DeepSpeed's it asks whether that is installed."""
    options = ["--config_file", str(ROOT / "accelerate/fsdp2.yaml"), "--num_processes", "4"]
    command = launch_command_parser().parse_args([*options, "--module", "lambda_grpo.cli", "train", "recipe.yaml"])
    launched, *_ = _validate_launch_command(command)
    assert (launched.num_processes, launched.use_fsdp, launched.fsdp_version) == (4, True, 2)
    assert (launched.training_script, launched.training_script_args) == ("lambda_grpo.cli", ["train", "recipe.yaml"])
