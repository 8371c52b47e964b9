"""What a policy reads and is graded on in training is what it is evaluated on."""

import json
from functools import partial

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from lambda_grpo.cli import main
from lambda_grpo.errors import UserError
from lambda_grpo.grading import grade as graders
from lambda_grpo.runs.directory import Run
from lambda_grpo.tasks.maths.problems import MathProblems
from lambda_grpo.tasks.maths.templates import TEMPLATES
from lambda_grpo.training import data as training_data
from lambda_grpo.training import held_out
from lambda_grpo.training import run as training
from lambda_grpo.training.data import task_reward
from lambda_grpo.training.recipe import Recipe
from tests.evaluation.tiny_models import CHATML, save_model, write_jsonl

SETTINGS = {
    "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "max_steps": 1,
    "per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 8,
}  # fmt: skip
ROWS = [{"question": f"What is ${i} + {i}$?", "answer": str(2 * i)} for i in range(6)]
# as Qwen3's: a switch, on unless it is set
THINKING = CHATML.replace(
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    return {
        "qwen2": save_model(path / "qwen2"),
        "llama": save_model(path / "llama", "llama"),
        "base": save_model(path / "base", "llama", chat=False),
    }


def trainer_of(path, model, **settings):
    keys = {**SETTINGS, "model_name_or_path": model, "output_dir": str(path / "run"), **settings}
    started = training._Training(Recipe.parse(keys), Run(path / "run"))
    return started, started._trainer()


@pytest.mark.parametrize(
    ("model", "template"),
    [(model, name) for model in ("qwen2", "llama") for name in TEMPLATES]
    + [("base", name) for name, template in TEMPLATES.items() if not template.chat],
)
def test_a_policy_reads_the_same_tokens_in_training_and_evaluation(model, template, models, tmp_path):
    file = write_jsonl(tmp_path / "sums.jsonl", ROWS)
    started, trainer = trainer_of(tmp_path, models[model], task=str(file), template=template)
    prompts = [row["prompt"] for row in trainer.train_dataset]
    read = trainer._tokenize_prompts(prompts)[0]
    main(["eval", "--model", models[model], "--task", str(file), "--template", template, "--output_dir",
          str(tmp_path / "eval"), "--max_completion_length", "1"])  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "eval/sums.samples.jsonl").read_text().splitlines()]
    tokenizer = trainer.processing_class
    has_special = TEMPLATES[template].chat  # a chat template has written them
    assert read == [tokenizer(row["prompt"], add_special_tokens=not has_special)["input_ids"] for row in rows]
    assert started.data.description["template"]["name"] == template


def test_a_chat_template_is_given_the_same_options(models, tmp_path, monkeypatch):
    """Qwen3 thinks or doesn't: in training, in the run's own evaluation, and in those of its checkpoints."""
    model = save_model(tmp_path / "thinking")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = THINKING
    tokenizer.save_pretrained(model)
    file = write_jsonl(tmp_path / "sums.jsonl", ROWS)
    recipe = tmp_path / "recipe.yaml"
    options = {"task": str(file), "eval_task": str(file), "chat_template_kwargs": {"enable_thinking": False}}
    recipe.write_text(json.dumps({**SETTINGS, "model_name_or_path": model, **options}))
    read = []
    monkeypatch.setattr(held_out, "evaluate", _recorded(held_out.evaluate, read))
    assert main(["train", str(recipe), "--output_dir", str(tmp_path / "run")]) == 0
    assert len(read) == 2
    assert all(text.endswith("</think>\n\n") for text in read)
    assert main(["eval", "--model", str(tmp_path / "run"), "--task", str(file), "--max_completion_length", "1"]) == 0
    result = json.loads((tmp_path / "run/eval/sums.json").read_text())
    assert result["example_prompt"].endswith("</think>\n\n")
    thinking = ["--chat_template_kwargs", '{"enable_thinking": true}', "--output_dir", str(tmp_path / "other")]
    command = ["eval", "--model", str(tmp_path / "run"), "--task", str(file), "--max_completion_length", "1"]
    assert main([*command, *thinking]) == 0
    assert json.loads((tmp_path / "other/sums.json").read_text())["example_prompt"].endswith("assistant\n")


def _recorded(evaluate, read):
    def wrapped(model, tokenizer, task, *rest, template, **settings):
        read.append(template.render(task[0].prompt, tokenizer))
        return evaluate(model, tokenizer, task, *rest, template=template, **settings)

    return wrapped


def test_a_chat_template_that_refuses_is_refused(models, tmp_path, capsys):
    model = save_model(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    tokenizer.save_pretrained(model)
    file = write_jsonl(tmp_path / "sums.jsonl", ROWS)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({**SETTINGS, "model_name_or_path": model, "task": str(file)}))
    assert main(["train", str(recipe), "--output_dir", str(tmp_path / "run")]) == 2
    assert "the model's chat template refuses template 'boxed_system' (System role" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_stands_behind_a_stop_is_not_graded():
    task = MathProblems("sums", ROWS, ("question", "answer"), {})
    reward = task_reward(task, template=TEMPLATES["question_answer"])
    completions = ["\\boxed{2}\n\nQuestion: What is next? \\boxed{7}", "\\boxed{7}"]
    chat = [[{"role": "assistant", "content": completion}] for completion in completions]
    for given in (completions, chat):
        assert reward(completions=given, index=[1, 1], split=["train"] * 2) == [1.0, 0.0]


@pytest.mark.parametrize(("given", "expected"), [(None, ["Question:"]), ({"stop": ["\n\n"]}, ["Question:", "\n\n"])])
def test_vllm_is_told_where_to_stop(given, expected, models, tmp_path):
    file = write_jsonl(tmp_path / "sums.jsonl", ROWS)
    keys = {
        **SETTINGS, "task": str(file), "model_name_or_path": models["base"], "output_dir": str(tmp_path / "run"),
        "use_vllm": True, "generation_kwargs": given,
    }  # fmt: skip
    training._Training(recipe := Recipe.parse(keys), Run(tmp_path / "run"))
    assert recipe.training.generation_kwargs["stop"] == expected


def test_reward_functions_may_take_the_place_of_the_grader(models, tmp_path):
    file = write_jsonl(tmp_path / "sums.jsonl", ROWS)
    recipe = tmp_path / "recipe.yaml"
    rewards = {"task": str(file), "reward_funcs": ["math_accuracy", "boxed_format"], "reward_weights": [1.0, 0.1]}
    recipe.write_text(json.dumps({**SETTINGS, "model_name_or_path": models["qwen2"], **rewards}))
    assert main(["train", str(recipe), "--output_dir", str(tmp_path / "run")]) == 0
    (metrics,) = Run(tmp_path / "run").metrics()
    assert {"rewards/math_accuracy/mean", "rewards/boxed_format/mean"} <= set(metrics)


def test_reward_functions_see_what_the_grader_sees(models, tmp_path):
    file = write_jsonl(tmp_path / "sums.jsonl", ROWS)
    started, _ = trainer_of(tmp_path, models["base"], task=str(file), reward_funcs=["math_accuracy", "boxed_format"])
    completions = ["\\boxed{2}\n\nQuestion: What is next? \\boxed{7}", "It is 2.\n\nQuestion: Next? \\boxed{2}"]
    accuracy, form = started.data.rewards
    assert accuracy(completions=completions, answer=["2", "2"]) == [1.0, 1.0]
    assert form(completions=completions) == [1.0, 0.0]
    assert (accuracy.__name__, form.__name__) == ("math_accuracy", "boxed_format")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward_funcs": ["accuracy_reward"]}, "reward function 'accuracy_reward' reads conversations: use a chat"),
        (
            {"reward_funcs": ["accuracy_reward"], "model_name_or_path": "qwen2"},
            "compares with a column solution, which sums doesn't have",
        ),
        ({"max_completion_length": 1000}, "so that with a completion it may take 10[0-9][0-9]; the model has 1024"),
        ({"chat_template_kwargs": {"tokenize": True}, "model_name_or_path": "qwen2"}, "chat template refuses template"),
        ({"eval_size": 0, "eval_task": "gsm8k"}, "eval_task is set, but eval_size is 0"),
    ],
    ids=str,
)
def test_what_would_go_wrong_later_is_refused_at_the_start(settings, message, models, tmp_path):
    file = write_jsonl(tmp_path / "sums.jsonl", ROWS)
    model = models[settings.get("model_name_or_path", "base")]
    with pytest.raises(UserError, match=message):
        trainer_of(tmp_path, model, **{"task": str(file), **settings, "model_name_or_path": model})


def test_without_its_grader_nothing_begins(models, tmp_path, monkeypatch, capsys):
    file = write_jsonl(tmp_path / "sums.jsonl", ROWS)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({**SETTINGS, "model_name_or_path": models["base"], "task": str(file)}))
    monkeypatch.setattr(graders, "find_spec", lambda name: None)
    run = ["--output_dir", str(tmp_path / "run")]
    for command in (["train", str(recipe), *run], ["eval", "--model", models["base"], "--task", str(file), *run]):
        assert main(command) == 2
        assert "grading maths needs math-verify: pip install 'lambda-grpo[eval]'" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


def test_an_adapter_is_no_model_to_train_on(models, tmp_path):
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    get_peft_model(AutoModelForCausalLM.from_pretrained(models["base"]), lora).save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match="is a LoRA adapter: merge it before training"):
        trainer_of(tmp_path, str(tmp_path / "adapter"), task="arithmetic")


def test_problems_are_looked_for_in_the_held_out_ones_too(models, tmp_path):
    """Whatever check_overlap names; its file may have the columns of the training problems, or the usual ones."""
    mine = write_jsonl(tmp_path / "mine.jsonl", [{"q": row["question"], "a": row["answer"]} for row in ROWS])
    usual = write_jsonl(tmp_path / "usual.jsonl", ROWS[:2])
    started, _ = trainer_of(
        tmp_path, models["base"], task=str(mine), question_column="q", answer_column="a", eval_task=str(usual),
        check_overlap=[str(mine)],
    )  # fmt: skip
    assert [(found.task, found.exact) for found in started.data.overlaps] == [("usual", 2), ("mine", 6)]


def length(completions, **_):
    return [float(len(completion)) for completion in completions]


class Constant:
    def __call__(self, completions, **_):
        return [1.0] * len(completions)


def test_a_reward_function_keeps_its_name_where_a_template_stops():
    template = next(template for template in TEMPLATES.values() if template.stops)
    for function, name in ((partial(length), "length"), (length, "length"), (Constant(), "Constant")):
        cut = training_data._truncate_at_stop(function, template)
        assert cut.__name__ == name
        assert cut(completions=[f"ab{template.stops[0]}cd"]) == ([1.0] if name == "Constant" else [2.0])


def test_weights_that_are_spread_over_processes_are_not_evaluated_here(models, tmp_path, monkeypatch):
    file = write_jsonl(tmp_path / "sums.jsonl", ROWS)
    started, trainer = trainer_of(tmp_path, models["base"], task=str(file), eval_task=str(file))
    monkeypatch.setattr(trainer, "is_fsdp_enabled", True)
    with pytest.warns(UserWarning, match="there is no evaluation before and after: use lambda-grpo eval"):
        started.held_out.evaluate(trainer, "before")
    assert not (tmp_path / "run").exists()


def test_a_hub_data_set_by_its_columns(models, hub):
    (hub / "mine" / "sums").mkdir(parents=True)
    for split, count in (("train", 6), ("test", 2)):
        write_jsonl(
            hub / f"mine/sums/{split}.jsonl", [{"q": row["question"], "a": row["answer"]} for row in ROWS[:count]]
        )
    columns = {"dataset_name": "mine/sums", "question_column": "q", "answer_column": "a", "template": "boxed"}
    _, trainer = trainer_of(hub, models["llama"], **columns)
    assert trainer.train_dataset[0]["prompt"][0]["content"].startswith("What is $0 + 0$?\nPlease reason")
    assert trainer.reward_func_names == ["sums"]


def test_problems_that_have_changed_are_not_gone_on_with(models, tmp_path, capsys):
    file = write_jsonl(tmp_path / "sums.jsonl", ROWS)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({**SETTINGS, "model_name_or_path": models["base"], "task": str(file)}))
    run = ["--output_dir", str(tmp_path / "run")]
    assert main(["train", str(recipe), *run, "--save_steps", "1"]) == 0
    assert main(["train", *run, "--resume", "--max_steps", "2"]) == 0
    write_jsonl(file, [{**row, "answer": "0"} for row in ROWS])
    capsys.readouterr()
    assert main(["train", *run, "--resume", "--max_steps", "3"]) == 2
    assert "was trained on other problems: the data set has changed" in capsys.readouterr().err
    write_jsonl(file, ROWS)
    assert (
        main(["train", *run, "--resume", "--max_steps", "3", "--chat_template_kwargs", '{"enable_thinking": true}'])
        == 2
    )
    assert "chat_template_kwargs can't change on resume" in capsys.readouterr().err
    assert len(Run(tmp_path / "run").metrics()) == 2
