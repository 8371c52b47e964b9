"""What a user can get wrong: one line that says what is wrong and how to fix it, exit code 2, nothing is written."""

import json
import sys
from pathlib import Path

import pytest
from datasets import disable_progress_bars
from transformers.utils.logging import disable_progress_bar

from lambda_grpo.cli import main

CPU = "use_cpu: true\nbf16: false\nreport_to: none\n"
ROUTE = CPU + "num_generations: 4\nper_device_train_batch_size: 8\nmax_steps: 1\n"  # TRL's: dataset_name, reward_funcs
TASK = (
    "from lambda_grpo.tasks import Example\n"
    "class Good:\n"
    "    name = 'good'\n"
    "    def __init__(self, split, size, seed): pass\n"
    "    def __len__(self): return 64\n"
    "    def __getitem__(self, i): return Example('1+1=', '2')\n"
    "    def grade(self, completion, example): return 0.0\n"
)
FILES = {
    "unknown_key.yaml": "base: demo\nobjectiv: grpo\n",
    "not_yaml.yaml": "objective: [\n",
    "a_list.yaml": "- objective\n",
    "lost_base.yaml": "base: lost.yaml\n",
    "no_task.yaml": CPU,
    "null_value.yaml": "base: demo\nnum_generations:\n",
    "no_data.yaml": CPU + "dataset_name: ./nothing_there\nreward_funcs: [think_format_reward]\n",
    "no_reward.yaml": CPU + "dataset_name: ./data\n",
    "bad_reward.yaml": CPU + "dataset_name: ./data\nreward_funcs: [nonesuch]\n",
    "rewards_for_a_task.yaml": "base: demo\nreward_funcs: [own.reward]\n",
    # recipes that are no recipes
    "loop.yaml": "base: back.yaml\n",
    "back.yaml": "base: ./loop.yaml\n",
    "number_base.yaml": "base: 5\n",
    "env.yaml": "base: demo\nenv: foo\n",
    "number_key.yaml": "base: demo\n5: grpo\n",
    "number_task.yaml": "base: demo\ntask: 5\n",
    "bounds.yaml": "base: demo\nlambda_bounds: 3\n",
    "text_bounds.yaml": "base: demo\nlambda_bounds: [-1e1, 10]\n",
    "yes_steps.yaml": "base: demo\nmax_steps: true\n",
    "text_rewards.yaml": ROUTE + "dataset_name: ./data\nreward_funcs: own.reward\n",
    "misspelt_schedule.yaml": "base: demo\nlr_scheduler_type: cosin\n",
    "schedule.yaml": "base: demo\nlr_scheduler_type: cosine\nlr_scheduler_kwargs: {nonesuch: 1}\n",
    # TRL's route
    "good.yaml": ROUTE + "dataset_name: ./data\nreward_funcs: [own.reward]\n",
    "mixture.yaml": ROUTE + "datasets: [{pth: ./data}]\nreward_funcs: [own.reward]\n",
    "lost_mixture.yaml": ROUTE + "datasets: [{path: ./nothing_there}]\nreward_funcs: [own.reward]\n",
    "data/train.jsonl": '{"prompt": "1+1="}\n' * 4,
    "few/train.jsonl": '{"prompt": "1+1="}\n',
    "questions/train.jsonl": '{"question": "1+1=", "answer": "2"}\n' * 4,
    "numbers/train.jsonl": '{"prompt": 5}\n' * 4,
    "chat/train.jsonl": '{"prompt": [{"role": "user", "content": "1+1="}]}\n' * 4,
    "sums.jsonl": '{"q": "1+1=", "a": "2"}\n' * 4,
    "torn/train.jsonl": '{"prompt": "1+1="}\n{"prompt\n',
    # tasks and rewards by their import path
    "own.py": TASK
    + "def reward(completions, **_): return [0.0] * len(completions)\n"
    + "number, ready = 5, Good('train', 1, 0)\n"
    + "class Unchecked(Good):\n    def __getitem__(self, i): return Example('1+1=', None)\n"
    + "class Empty(Good):\n    def __len__(self): return 0\n"
    + "class Pairs(Good):\n    def __getitem__(self, i): return ('1+1=', '2')\n"
    + "class NoText(Good):\n    def __getitem__(self, i): return Example(11, '2')\n"
    + "class Signature(Good):\n    def __init__(self, path): pass\n",
}

BAD_TRAIN = [
    (["--objective", "grop"], "unknown objective 'grop' (did you mean \"grpo\"?): use one of grpo, dapo"),
    (["--task", "arithmetik"], "unknown task 'arithmetik'"),
    (["misspelt_schedule.yaml"], "lr_scheduler_type is 'cosin' (did you mean \"cosine\"?): use linear, cosine, "),
    (["--resme"], "unknown argument '--resme' (did you mean \"--resume\"?)"),
    (["--objective", "lambda_gpro"], "unknown objective 'lambda_gpro' (did you mean \"lambda_grpo\"?)"),
    (["--sampler", "fsat"], "--sampler: invalid choice: 'fsat' (did you mean \"fast\"?), choose from fast, trl"),
    (["--weight_norm", "token"], "--weight-norm: invalid choice: 'token' (did you mean \"tokens\"?)"),
    (["--lambda_optimizer", "adm"], "--lambda-optimizer: invalid choice: 'adm' (did you mean \"adam\"?)"),
    (["--importance_sampling_level", "sequense"], "'sequense' (did you mean \"sequence\"?)"),
    (["--lr_scheduler_type", "cosin"], "invalid choice: 'cosin' (did you mean \"cosine\"?)"),
    (["--objectve", "grpo"], "unknown argument '--objectve' (did you mean \"--objective\"?)"),
    (["--objective", "lambda_grpo", "--loss_type", "grpo"], "objective is 'lambda_grpo' and loss_type is 'grpo'"),
    (["--model_name_or_path", "./missing"], "no model directory ./missing"),
    (["--model_name_or_path", "missing"], "no model 'missing'"),
    (["--model_name_or_path", "empty"], "empty is not a model directory: it has no config.json"),
    (["--num_generations", "1"], "num_generations is 1"),
    (["--per_device_train_batch_size", "12"], "12 completions are generated at a time, not a multiple"),
    (["--max_steps", "many"], "invalid int value: 'many'"),
    (["--lambda_init", "99"], "λ must start inside its bounds"),
    (["--objective", "lambda_grpo_paper", "--beta", "0.1"], "averages the KL term in another way"),
    (["--dataset_name", "x"], "names both a task and a dataset_name"),
    (["--datasets", "x"], "names both a task and datasets"),
    (["rewards_for_a_task.yaml"], "a task has its own grader: leave reward_funcs"),
    (["nowhere.yaml"], "can't read the recipe nowhere.yaml"),
    (["unknown_key.yaml"], "the recipe has an unknown key 'objectiv' (did you mean \"objective\"?)"),
    (["not_yaml.yaml"], "isn't valid YAML"),
    (["a_list.yaml"], "must hold `key: value` lines"),
    (["lost_base.yaml"], "can't read the recipe lost.yaml"),
    (["--scale_rewards", "std"], "scale_rewards is 'std'"),
    (["--resume_from_checkpoint", "x"], "use --output_dir DIR --resume instead"),
    (["null_value.yaml"], "num_generations must be a whole number, got nothing"),
    (["--eval_strategy", "steps", "--eval_size", "0"], "eval_strategy needs held-out examples: set eval_size above 0"),
    (["no_task.yaml"], "names no training data"),
    (["no_data.yaml"], "can't load dataset_name './nothing_there'"),
    (["no_reward.yaml"], "dataset_name needs reward_funcs"),
    (["bad_reward.yaml"], "unknown reward function 'nonesuch': use accuracy_reward"),
    # values that would only fail, or do nothing, in the middle of a run
    (["--learning_rate", "-1"], "learning_rate must be at least 0, got -1.0"),
    (["--learning_rate", "nan"], "learning_rate must be at least 0, got nan"),
    (["--temperature", "0"], "temperature must be above 0, got 0.0"),
    (["--temperature", "inf"], "temperature must be above 0, got inf"),
    (["--top_p", "0"], "top_p must be above 0 and at most 1, got 0.0"),
    (["--top_k", "-1"], "top_k must be at least 0 (0: no limit), got -1"),
    (["--min_p", "2"], "min_p must be from 0 to 1, got 2.0"),
    (["--repetition_penalty", "0"], "repetition_penalty must be above 0, got 0.0"),
    (["--max_completion_length", "0"], "max_completion_length must be at least 1, got 0"),
    (["--per_device_train_batch_size", "0"], "per_device_train_batch_size must be at least 1, got 0"),
    (["--per_device_eval_batch_size", "0"], "per_device_eval_batch_size must be at least 1, got 0"),
    (["--gradient_accumulation_steps", "0"], "gradient_accumulation_steps must be at least 1, got 0"),
    (["--num_iterations", "0"], "num_iterations must be at least 1, got 0"),
    (["--max_steps", "0"], "max_steps must be at least 1, or -1 to train for num_train_epochs, got 0"),
    (["--max_steps", "-7"], "max_steps must be at least 1, or -1"),
    (["--max_steps", "-1", "--num_train_epochs", "0"], "num_train_epochs must be above 0, got 0.0"),
    (["--num_train_epochs", "nan"], "num_train_epochs must be above 0, got nan"),
    (["--save_steps", "0"], "save_steps must be above 0, got 0.0"),
    (["--seed", "-1"], "seed must be from 0 to 4294967295, got -1"),
    (["--lambda_r", "0"], "lambda_r must be above 0, got 0.0"),
    (["--adam_beta1", "1"], "adam_beta1 must be at least 0 and below 1, got 1.0"),
    (["schedule.yaml"], "lr_scheduler_type or lr_scheduler_kwargs can't be used: "),
    (
        ["--report_to", "clearml"],
        "report_to names clearml, which isn't installed: install it, or set report_to to none",
    ),
    (
        ["--optim", "sgd", "--optim_args", "nonesuch"],
        "optim, optim_args, lr_scheduler_type or lr_scheduler_kwargs can't be used: ",
    ),
    (["--eval_size", "-1"], "eval_size must be at least 0, got -1"),
    (["--task_size", "0"], "task_size must be at least 1, got 0"),
    (["--task_size", "15"], "15 examples don't fill a batch of 16 prompts (8 completions each): use more (task_size)"),
    (["good.yaml", "--dataset_name", "./few"], "1 examples don't fill a batch of 2 prompts"),
    (["good.yaml", "--dataset_name", "./few", "--dataset_streaming"], "1 examples don't fill a batch of 2 prompts"),
    # recipes that are no recipes
    (["loop.yaml"], "is its own base: ./loop.yaml leads back to it"),
    (["number_base.yaml"], "base must be the path of a recipe, or demo, got 5"),
    (["latin.yaml"], "the recipe latin.yaml isn't UTF-8 text, see its byte 2"),
    (["env.yaml"], "env must be a mapping of environment variables (`NAME: value` lines), got 'foo'"),
    (["number_key.yaml"], "the recipe has an unknown key 5"),
    (["number_task.yaml"], "task must be text, got 5"),
    (["bounds.yaml"], "lambda_bounds must be a list whose items are each a number, got 3"),
    (["text_bounds.yaml"], "lambda_bounds must be a list whose items are each a number, got ['-1e1', 10]"),
    (["yes_steps.yaml"], "max_steps must be a whole number, got True"),
    (["text_rewards.yaml"], "reward_funcs must be a list whose items are each text, got 'own.reward'"),
    # TRL's route
    (
        ["good.yaml", "--dataset_train_split", "trian"],
        "dataset_train_split is 'trian', but dataset_name './data' has no",
    ),
    (["good.yaml", "--dataset_train_split", "trian"], "it has train\n"),
    (["good.yaml", "--eval_strategy", "steps"], "dataset_test_split is 'test', but dataset_name './data' has no"),
    (["good.yaml", "--dataset_name", "./questions"], "needs a column 'prompt', it has question, answer"),
    (["good.yaml", "--dataset_name", "./numbers"], "needs text or lists of messages (role, content) as prompts, got 5"),
    (["good.yaml", "--dataset_name", "./chat"], "has no chat template: use a chat model"),
    (["good.yaml", "--dataset_name", "./torn"], "can't load dataset_name './torn'"),
    (["mixture.yaml"], "datasets must be a list whose items are each a mapping with path, got [{'pth': './data'}]"),
    (["lost_mixture.yaml"], "can't load datasets"),
    (["good.yaml", "--datasets", "./data"], "names both a dataset_name and datasets"),
    (["good.yaml", "--reward_funcs", "own.number"], "reward function 'own.number': 'number' isn't callable: it is 5"),
    (["good.yaml", "--reward_funcs", "own.nonesuch"], "reward function 'own.nonesuch': module 'own' has no 'nonesuch'"),
    (["good.yaml", "--reward_funcs", "nowhere.f"], "reward function 'nowhere.f': no module 'nowhere'"),
    (["good.yaml", "--reward_funcs", "..f"], "reward function '..f': need a module as `import` takes it"),
    # problems of a data set
    (["--task", "sums.jsonl"], "sums.jsonl has no column question or problem or Question or Problem or prompt: name"),
    (["--task", "sums.jsonl", "--question_column", "q"], "has no column answer or final_answer or Answer: name"),
    (["--task", "sums.jsonl", "--question_column", "q", "--answer_column", "b"], "has no column b: name the one with"),
    (["--task", "missing.jsonl"], "no file missing.jsonl"),
    (["--task", "minerva"], "task 'minerva' is a benchmark, for lambda-grpo eval: to train on maths, take gsm8k, math"),
    (["--task", "gsm8k"], "can't load openai/gsm8k: "),
    (["--task", "questions"], "task 'questions' is no file of problems (.jsonl, .json, .parquet): for a folder set"),
    (["--eval_task", "math"], "task 'math' is for training: to evaluate, take math500"),
    (["good.yaml", "--dataset_name", "sums.jsonl", "--question_column", "q"], "is a file of problems: set task to it"),
    (
        ["good.yaml", "--dataset_name", "./questions", "--answer_column", "answer", "--dataset_streaming"],
        "are loaded as a whole",
    ),
    (["--task", "none"], "names no training data"),
    (["--max_steps", "1", "good.yaml"], "recipes must stand before all --keys: good.yaml doesn't"),
    (["--question_column", "q"], "question_column and answer_column are for a file of problems, or a dataset_name"),
    (["--template", "boxed"], "template 'boxed' is for chat models, and this one has no chat template"),
    (["--template", "nonesuch"], "unknown template 'nonesuch': use plain, "),
    (["good.yaml", "--template", "plain"], "template is for a task, or a dataset_name with question_column"),
    (["good.yaml", "--dataset_name", "./questions", "--answer_column", "b"], "questions has no column b: name the one"),
    (["--eval_task", "gsm9k"], "unknown task 'gsm9k'"),
    (
        ["--check_overlap", "gsm8k"],
        "check_overlap is for problems of a data set, but task 'arithmetic' generates its problems",
    ),
    (["--remove_overlap"], "remove_overlap needs test sets to search: set check_overlap or eval_task"),
    # tasks by their import path
    (["--task", "own:Unchecked"], "task 'own:Unchecked' has no checkable answer"),
    (["--task", "own:Empty"], "task 'own:Empty' has no examples: its length is 0"),
    (["--task", "own:Pairs"], "__getitem__ must return a lambda_grpo.tasks.Example with a prompt of text, got ('1+1="),
    (["--task", "own:NoText"], "must return a lambda_grpo.tasks.Example with a prompt of text, got Example(prompt=11"),
    (["--task", "own:Signature"], "called with split, size and seed, which it doesn't take: "),
    (["--task", "own:reward"], "called with split, size and seed, which it doesn't take: "),
    (["--task", "own:ready"], "task 'own:ready': 'ready' isn't callable: it is <own.Good object"),
    (["--task", "own:number"], "task 'own:number': 'number' isn't callable: it is 5"),
    (["--task", ":Good"], "task ':Good': need a module as `import` takes it (a file my_file.py is my_file)"),
    (["--task", "own:"], "task 'own:': need a module as `import` takes it"),
    (["--task", "./own.py:Good"], "task './own.py:Good': need a module as `import` takes it"),
    (["--task", "nowhere.at.all:Good"], "task 'nowhere.at.all:Good': no module 'nowhere'"),
]

EVAL = ["eval", "--model", "builtin", "--task"]
BAD_COMMANDS = [
    ([], "required: COMMAND"),
    (["trian"], "invalid choice: 'trian' (did you mean \"train\"?)"),
    (["eval", "--modle", "builtin", "--task", "arithmetic"], "unknown argument '--modle' (did you mean \"--model\"?)"),
    (["report", "--tabel", "x"], "unknown argument '--tabel' (did you mean \"--table\"?)"),
    (["report", "--table", "--format=latx", "x"], "invalid choice: 'latx' (did you mean \"latex\"?)"),
    (["bench", "step_lon"], "no benchmark 'step_lon' (did you mean \"step_long\"?)"),
    (["doctor", "--jsn"], "unknown argument '--jsn' (did you mean \"--json\"?)"),
    (["compare", "--sedes=3"], "unknown argument '--sedes=3' (did you mean \"--seeds\"?)"),
    (["compare", "--endpoint", "acuracy"], "endpoint is 'acuracy' (did you mean \"accuracy\"?)"),
    (["compare", "--against", "gpro"], "isn't one of the study's objectives (did you mean \"grpo\"?)"),
    (["eval"], "required: --model, --task"),
    (["eval", "--model", "./missing", "--task", "arithmetic"], "no model directory ./missing"),
    ([*EVAL, "nonesuch"], "unknown task 'nonesuch'"),
    ([*EVAL, "arithmetic", "--n", "0"], "--n must be at least 1, got 0"),
    ([*EVAL, "arithmetic", "--temperature", "-1"], "--temperature must be at least 0, got -1.0"),
    ([*EVAL, "arithmetic", "--temperature", "nan"], "--temperature must be finite and at least 0, got nan"),
    ([*EVAL, "arithmetic", "--temperature", "inf"], "--temperature must be finite and at least 0, got inf"),
    ([*EVAL, "arithmetic", "--nn", "1"], "unknown argument '--nn'"),
    ([*EVAL, "own:Empty"], "task 'own:Empty' has no examples: its length is 0"),
    (["report", "nowhere"], "nowhere is not a run directory"),
    (["train", "--resume"], "--resume needs --output_dir"),
    (["train", "--resume", "--output_dir", "nowhere"], "nowhere is not a run directory"),
]


@pytest.fixture
def _files(tmp_path, monkeypatch):
    """A working directory with all of `FILES`, and a recipe that isn't UTF-8."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    disable_progress_bars()  # as main does, where these libraries haven't been imported before it
    disable_progress_bar()
    Path("empty").mkdir()
    for name, content in FILES.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(content)
    Path("latin.yaml").write_bytes("# Größe\ntask_size: 5\n".encode("latin-1").replace(b"Gr", b""))


def refused(arguments, capsys):
    """The one line on stderr of a command that is refused."""
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("lambda-grpo: error: ")
    assert shown.err.count("\n") == 1
    return shown.err


@pytest.mark.usefixtures("_files")
@pytest.mark.parametrize(("arguments", "message"), BAD_TRAIN, ids=[" ".join(a) for a, _ in BAD_TRAIN])
def test_bad_training_leaves_nothing(arguments, message, capsys):
    before = sorted(Path().rglob("*"))
    assert message in refused(["train", *arguments, "--output_dir", "runs/new/run"], capsys)
    assert [path for path in sorted(Path().rglob("*")) if "__pycache__" not in path.parts] == before


@pytest.mark.usefixtures("_files")
@pytest.mark.parametrize(("arguments", "message"), BAD_COMMANDS, ids=[" ".join(a) for a, _ in BAD_COMMANDS])
def test_bad_commands(arguments, message, capsys):
    assert message in refused(arguments, capsys)


@pytest.mark.usefixtures("_files")
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--task", "broken:Task"], "no_such_package"),
        (["--task", "attribute:Task"], "has no attribute 'nonesuch'"),
        (["--task", "inside:Task"], "from inside"),
        (["good.yaml", "--reward_funcs", "broken.f"], "no_such_package"),
    ],
)
def test_what_breaks_in_a_users_own_code_says_so_itself(arguments, error):
    """It has a place in that code, which a line about the command would hide."""
    Path("broken.py").write_text("import no_such_package\n")
    Path("attribute.py").write_text("import json\njson.nonesuch\n")
    Path("inside.py").write_text("def Task(split, size, seed):\n    raise TypeError('from inside')\n")
    with pytest.raises((ModuleNotFoundError, AttributeError, TypeError), match=error):
        main(["train", *arguments, "--output_dir", "run"])
    assert not Path("run").exists()


@pytest.mark.usefixtures("_files")
@pytest.mark.parametrize("written", ["lora_target_modules: all-linear\nuse_peft: true\n", "scale_rewards: true\n"])
def test_kinds_that_trl_takes_beyond_its_hints(written):
    from lambda_grpo.training.recipe import Recipe, read_recipe

    Path("kinds.yaml").write_text(f"base: demo\noutput_dir: run\n{written}report_to: [none]\nlearning_rate: 1\n")
    assert Recipe.parse(read_recipe("kinds.yaml")).training.learning_rate == 1


@pytest.mark.usefixtures("_files")
def test_datasets_are_mixed_as_trl_mixes_them():
    """And resumed: what run.json holds of them can be read again."""
    from lambda_grpo.runs.directory import Run

    Path("mixed.yaml").write_text(
        ROUTE + "datasets:\n  - path: ./data\n  - path: ./few\n    columns: [prompt]\nreward_funcs: [own.reward]\n"
        "max_completion_length: 4\nlogging_steps: 1\nsave_steps: 1\nlog_completions: true\n"
    )
    assert main(["train", "mixed.yaml", "--output_dir", "run"]) == 0
    run = Run.open("run")
    assert [part["path"] for part in run.config()["resolved"]["data"]["datasets"]] == ["./data", "./few"]
    assert "<h1>dapo on ./data + ./few</h1>" in (run.path / "report.html").read_text()
    assert main(["train", "--output_dir", "run", "--resume", "--max_steps", "2"]) == 0
    assert [row["step"] for row in run.metrics()] == [1, 2]
    assert json.loads((run.path / "run.json").read_text())["recipe"]["datasets"][0] == {"path": "./data"}
