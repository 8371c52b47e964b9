import pytest
from reasoning_gym.factory import DATASETS

from lambda_grpo.errors import UserError
from lambda_grpo.tasks import TASKS, Example, Task, grade_all, load_task
from lambda_grpo.tasks.gym import gym_names

NEEDS_OPTIONS = {"composite"}  # a mixture of other data sets, which it must be told


def test_the_bridge_reaches_all_of_reasoning_gym():
    assert set(gym_names()) == set(DATASETS)
    assert len(DATASETS) > 100


@pytest.mark.parametrize("name", sorted(set(DATASETS) - NEEDS_OPTIONS))
def test_each_data_set_is_a_task_graded_by_its_own_scorer(name):
    task = load_task(name, size=2)
    assert isinstance(task, Task)
    assert len(task) == 2
    example = task[0]
    assert example == task[0]
    assert 0.0 <= task.grade("", example) < 1.0
    if example.answer is not None:
        assert task.grade(f" {example.answer}\n", example) == 1.0


def test_splits_of_a_data_set_differ():
    train, test = load_task("chain_sum", "train", size=50), load_task("chain_sum", "test", size=50)
    assert {train[i].prompt for i in range(50)} != {test[i].prompt for i in range(50)}


def test_a_failing_grader_is_an_error_not_a_zero():
    task = load_task("prime_factorization", size=1)  # its scorer expects numbers
    with pytest.raises(ValueError, match="invalid literal") as caught:
        grade_all(task, ["seven"], [task[0]])
    assert "The grader of task 'prime_factorization' failed on prompt" in caught.value.__notes__[0]
    assert "completion 'seven'" in caught.value.__notes__[0]


class Broken:
    name = "broken"

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return Example("1+1=", "2")

    def grade(self, completion, example):
        return 1.0 if int(completion) == 2 else 0.0


def test_an_error_in_a_users_grader_names_the_place():
    task = Broken()
    with pytest.raises(UserError) as caught:
        grade_all(task, ["two"], [task[0]])
    message = str(caught.value)
    assert message.startswith("the grader of task 'broken' failed on prompt '1+1=', completion 'two': ValueError: ")
    assert "test_tasks.py, line " in message
    assert message.endswith(", in grade: `return 1.0 if int(completion) == 2 else 0.0`)")
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("arithmetics", "unknown task 'arithmetics' .did you mean \"arithmetic\""),
        ("chain_sums", 'did you mean "chain_sum"'),
        ("gsm9k", 'did you mean "gsm8k"'),
        ("composite", "reasoning-gym can't make 'composite'"),
        ("no_such_module_here:Task", "no module 'no_such_module_here'"),
        ("json:Task", "module 'json' has no 'Task'"),
        ("json:decoder", "task 'json:decoder': 'decoder' isn't callable"),
        ("json:loads", "called with split, size and seed, which it doesn't take"),
        (":Task", "task ':Task': need a module as `import` takes it"),
        ("no_such_package_here.module:Task", "no module 'no_such_package_here'"),
    ],
)
def test_unknown_tasks_are_named(name, message):
    with pytest.raises(UserError, match=message):
        load_task(name, size=1)
    assert "\n" not in message


class Own:
    """A valid task; tests replace parts of it."""

    name, answer, metadata, score = "own", "4", {}, 0.0

    def __init__(self, split, size, seed):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return Example("2+2=", self.answer, self.metadata)

    def grade(self, completion, example):
        return self.score


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": None}, "no checkable answer"),
        ({"answer": ""}, "no checkable answer"),
        ({"score": 2.0}, "must return a number from 0 to 1, got 2.0"),
        ({"score": None}, "must return a number from 0 to 1, got None"),
        ({"grade": None}, "must have a name, __len__, __getitem__ and grade"),
        ({"name": 5}, "must have a name, __len__, __getitem__ and grade"),
        ({"__len__": lambda self: 0}, "has no examples: its length is 0"),
        ({"__getitem__": lambda self, index: ("2+2=", "4")}, "must return a lambda_grpo.tasks.Example"),
    ],
)
def test_a_task_that_cannot_be_checked_is_refused(changes, message, monkeypatch):
    monkeypatch.setitem(TASKS, "own", type("Changed", (Own,), changes))
    with pytest.raises(UserError, match=message):
        load_task("own", size=1)


def test_an_answer_in_the_metadata_is_enough(monkeypatch):
    monkeypatch.setitem(TASKS, "own", type("Changed", (Own,), {"answer": None, "metadata": {"target": 4}}))
    load_task("own", size=1)


def test_an_error_inside_a_users_module_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "broken_task.py").write_text("import no_such_package_at_all\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package_at_all"):
        load_task("broken_task:Task", size=1)
