"""The named reward functions, directly and in a real TRL run."""

import pytest

from lambda_grpo.cli import main
from lambda_grpo.errors import UserError
from lambda_grpo.runs.directory import Run
from lambda_grpo.tasks.maths.rewards import boxed_format, math_accuracy
from tests.evaluation.tiny_models import save_model, write_jsonl


def test_accuracy_reads_either_column_and_conversations():
    texts = [r"\boxed{\frac{2}{4}}", "The answer is 7.", "#### 8"]
    assert math_accuracy(texts, answer=["0.5", 7, "8"]) == [1.0, 1.0, 1.0]
    assert math_accuracy(texts, solution=["So\n#### 1", r"We get $\boxed{7}$", "9"], prompts=["?"] * 3) == [
        0.0,
        1.0,
        0.0,
    ]
    conversations = [[{"role": "assistant", "content": text}] for text in texts]
    assert math_accuracy(conversations, answer=["0.5", "6", "8"]) == [1.0, 0.0, 1.0]
    assert math_accuracy([r"\boxed{1, 2}"], answer=[["$2$", "$1$"]]) == [1.0]
    with pytest.raises(UserError, match="math_accuracy needs a column 'answer' or 'solution'"):
        math_accuracy(texts)
    for missing in (None, float("nan"), "", []):
        with pytest.raises(UserError, match="answer 1 is ''"):
            math_accuracy(texts[:2], answer=["5", missing])


def test_timeouts_are_logged():
    logged = {}
    rewards = math_accuracy(
        [r"\boxed{\prod_{k=1}^{10^9} k}", r"\boxed{5}"], answer=["5", "5"], log_metric=logged.__setitem__
    )
    assert rewards == [0.0, 1.0]
    assert logged == {"math_accuracy/timed_out": 0.5}


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        (r"so \boxed{5}.", 1.0), (r"\boxed{\frac{1}{2}}", 1.0), (r"\boxed{5", 0.0), (r"\boxed{}", 0.0), ("5", 0.0),
        ("", 0.0), (r"\boxed{1} and then \boxed{2", 0.0), (r"\boxed 5", 0.0),
    ],
)  # fmt: skip
def test_the_format_is_a_closed_box_with_any_content(completion, reward):
    assert boxed_format([completion]) == [reward]
    assert boxed_format([[{"role": "assistant", "content": completion}]]) == [reward]


def test_in_a_trl_run_each_reward_is_logged_under_its_own_name(tmp_path):
    model = save_model(tmp_path / "model")
    rows = [{"prompt": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(16)]
    write_jsonl(tmp_path / "data" / "train.jsonl", rows)
    command = [
        "train", "--model_name_or_path", model, "--dataset_name", str(tmp_path / "data"), "--output_dir",
        str(tmp_path / "run"), "--reward_funcs", "math_accuracy", "boxed_format", "--reward_weights", "1.0", "0.1",
        "--max_steps", "2", "--per_device_train_batch_size", "8", "--num_generations", "4",
        "--max_completion_length", "8",
        "--overlong_buffer_length", "4", "--use_cpu", "true", "--logging_steps", "1", "--objective", "lambda_grpo",
    ]  # fmt: skip
    (tmp_path / "recipe.yaml").write_text("report_to: none\n")
    assert main([command[0], str(tmp_path / "recipe.yaml"), *command[1:]]) == 0
    logged = Run(tmp_path / "run").metrics()[-1]
    rewards = {"math_accuracy", "boxed_format", "soft_overlong_punishment_reward"}
    assert {f"rewards/{name}/mean" for name in rewards} | {"math_accuracy/timed_out"} <= set(logged)
