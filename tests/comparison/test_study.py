"""What a study file or a command line may say."""

import pytest
import yaml

from lambda_grpo.comparison import read_study
from lambda_grpo.errors import UserError


def from_file(tmp_path, content, options=None, overrides=()):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    return read_study(str(path), options or {}, overrides)


def test_a_study_without_a_file():
    study = read_study(
        None, {"objectives": ["grpo", "dapo"], "seeds": 3, "tasks": ["arithmetic"]}, ["--max_steps", "7"]
    )
    assert study.arms == {"grpo": {"objective": "grpo"}, "dapo": {"objective": "dapo"}}
    assert (study.against, study.tasks, study.seeds) == ("grpo", ("arithmetic",), (1, 2, 3))
    assert study.learning_rates == (1e-4, 3e-4, 9e-4)  # around the demonstration's
    assert study.more_rates == 2
    keys = study.recipe_keys("dapo", "arithmetic", 1e-3, 2)
    assert keys["max_steps"] == 7
    assert (keys["objective"], keys["learning_rate"], keys["seed"]) == ("dapo", 1e-3, 2)
    assert study.describe() == (
        "2 objectives on arithmetic: 18 runs (3 learning rates, 3 seeds each), and at up to 2 rates more where the "
        "best one is at an end. Primary endpoint: accuracy, against grpo."
    )


def test_a_study_file_is_a_recipe_with_a_few_keys_more(tmp_path):
    study = from_file(
        tmp_path,
        {
            "base": "demo",
            "objectives": {"a": {"objective": "dapo"}, "b": {"objective": "dapo"}, "lambda_grpo": None},
            "against": "b",
            "tasks": ["arithmetic", "neutral"],
            "seeds": [4, 5],
            "learning_rates": ["1e-4", 4e-4, 3e-4, 2e-4],
            "endpoint": "completion_length_mean",
            "max_steps": 5,
        },
        {"seeds": 2},  # the command line goes before the file
    )
    assert study.arms["a"] == study.arms["b"] == {"objective": "dapo"}
    assert study.arms["lambda_grpo"] == {"objective": "lambda_grpo"}
    assert (study.against, study.seeds) == ("b", (1, 2))
    assert study.learning_rates == (1e-4, 2e-4, 3e-4, 4e-4)
    assert study.keys["max_steps"] == 5
    assert study.keys["task"] == "arithmetic"  # the demonstration's, which each run's own replaces
    assert "output_dir" not in study.keys


REFUSED = {
    "two objectives or more": {"objectives": ["dapo"]},
    "objectives names one of them twice": {"objectives": ["dapo", "dapo"]},
    "against names 'gspo'": {"against": "gspo"},
    "endpoint is 'reward'.*: use 'accuracy'": {"endpoint": "reward"},
    "learning_rates must be different ones, .* 0.001, 0.001": {"learning_rates": [1e-4, 3e-4, 1e-3, "0.001"]},
    "learning_rates must be a list": {"learning_rates": []},
    "more_rates must be at least 0": {"more_rates": -1},
    "more_rates must be a whole number": {"more_rates": 1.5},
    "keep_runs must be true or false": {"keep_runs": "no"},
    "set keep_runs to true": {"keep_runs": False, "keep_checkpoints": True},
    "endpoint accuracy_area .* set eval_every above 0": {"endpoint": "accuracy_area"},
    "learning_rates: 0 isn't a number": {"learning_rates": [0, 1e-4, 3e-4]},
    "learning_rates: \\[1\\] isn't a number": {"learning_rates": [[1], [2], [3]]},
    "would share a folder": {"objectives": {"a b": {"objective": "dapo"}, "A_b": {"objective": "grpo"}}},
    "can't be the name of a folder": {"objectives": {"..": {"objective": "dapo"}, "grpo": None}},
    "sets max_steps, which must be the same for all": {"objectives": {"a": {"max_steps": 600}, "dapo": None}},
    "sets packing, which must be the same for all": {"objectives": {"a": {"packing": False}, "dapo": None}},
    "'slow' must hold `key: value` lines": {"objectives": {"slow": "dapo", "dapo": None}},
    "objectives must be a list of names": {"objectives": [{"dapo": {}}, "grpo"]},
    "against names \\['grpo'\\]": {"against": ["grpo"]},
    "endpoint is \\['accuracy'\\]": {"endpoint": ["accuracy"]},
    "keep_checkpoints must be true or false": {"keep_checkpoints": "no"},
    "below 2\\^32": {"seeds": [1, 99999999999]},
    "give --output_dir on the command line": {"output_dir": "here"},
    "'fast' isn't a number": {"learning_rates": [1e-4, 3e-4, "fast"]},
    "seeds must be a number of at least 1": {"seeds": 0},
    "seeds must be a number of at least 1, or a list of different": {"seeds": [1, 1]},
    "sets learning_rate, which must be the same for all": {"objectives": {"a": {"learning_rate": 1.0}, "dapo": None}},
    "eval_size above 0": {"eval_size": 0},
    "tasks must be a list of names": {"tasks": "arithmetic"},
    "target_accuracy: 90 isn't a number from 0 to 1": {"target_accuracy": 90},
    "unknown key 'sedes' \\(did you mean \"seeds\"": {"sedes": 3},
    "'a' has an unknown key 'lambda_lrr' \\(did you mean \"lambda_lr\"": {
        "objectives": {"a": {"objective": "lambda_grpo", "lambda_lrr": 1.0}, "dapo": None}
    },
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_does_not_make_a_study_is_refused_in_a_line(message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        from_file(tmp_path, {"base": "demo", **REFUSED[message]})
    assert "\n" not in str(error.value)
