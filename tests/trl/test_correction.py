"""Guided error correction in the trainer, on completions determined by their prompt."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset

from lambda_grpo import group_advantages
from lambda_grpo.models import BUILTIN, resolve_model
from lambda_grpo.objective.rollout_spec import ErrorCorrection
from lambda_grpo.training.data import task_dataset
from lambda_grpo.trl import LambdaGRPOTrainer, correction
from lambda_grpo.trl.correction import KINDS, Corrector
from lambda_grpo.trl.samples import Sample
from tests.invariant.scripted_run import TOKENIZER, G, Scripted, of, one_third, rare, scripted
from tests.trl.setup import TASK, config, logged, make_trainer, parameters

EDGE = {"objective": "edge_grpo", "reflection_prompt": ",", "answer_template": "#{answer}"}


def test_corrections_are_written_as_they_should(tmp_path):
    trainer = scripted(tmp_path, one_third, **EDGE, max_completion_length=14, per_device_train_batch_size=128)
    inputs, output, after, _ = trainer.batches[0]
    own = [row for prompt in after[::G] for row in of(prompt)]
    final = [
        row[mask.bool()].tolist() for row, mask in zip(output["completion_ids"], output["completion_mask"], strict=True)
    ]
    wrong = [i for i, reward in enumerate(one_third(own)) if reward < 1]
    assert [i for i, (a, b) in enumerate(zip(own, final, strict=True)) if a != b and i not in wrong] == []
    comma, (hash_sign,) = TOKENIZER(",")["input_ids"][0], TOKENIZER("#")["input_ids"]
    kinds = Counter()
    for i in wrong:
        body, answer = own[i][:-1], TOKENIZER(f"#{inputs[i]['answer']}")["input_ids"]
        solution = [*TOKENIZER(inputs[i]["solution"])["input_ids"], 1]
        if final[i] == [*body, *answer, 1]:
            kinds["answer"] += 1
        elif final[i] == solution:
            kinds["solution"] += 1
        elif final[i][: len(body) + 1] == [*body, comma]:
            kinds["reflect"] += 1
            assert final[i] != own[i]
        else:  # the answer or the solution didn't fit
            assert final[i] == own[i]
            assert len(body) + 3 > 14 or len(solution) > 14
            kinds["none"] += 1
    assert hash_sign != comma
    assert len(wrong) > 120
    assert kinds["reflect"] / len(wrong) == pytest.approx(0.5, abs=0.13)  # three standard deviations
    assert (kinds["answer"] + kinds["solution"] + kinds["none"]) / len(wrong) == pytest.approx(0.5, abs=0.13)
    counts = [logged(trainer, f"error_correction/{name}") for name in ("reflected", "answered", "replaced")]
    assert counts == [[kinds["reflect"]], [kinds["answer"]], [kinds["solution"]]]
    assert max(map(len, final)) <= 14
    # graded again; what is logged as the policy's reward is the policy's
    rewards = torch.tensor(one_third(final))
    torch.testing.assert_close(output["advantages"], group_advantages(rewards, torch.arange(len(own)) // G))
    assert logged(trainer, "reward") == pytest.approx([sum(one_third(own)) / len(own)])


def test_tokens_that_were_not_sampled_start_at_a_ratio_of_one(tmp_path):
    trainer = make_trainer(
        config(tmp_path, num_generations=G, num_iterations=2, max_steps=1, **EDGE), Scripted, one_third
    )
    start = parameters(trainer)
    trainer.train()
    _, output, _, _ = trainer.batches[0]
    trainer.model.load_state_dict(start, strict=False)
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], 1)
    attention = torch.cat([output["prompt_mask"], output["completion_mask"]], 1)
    with torch.no_grad():
        logps = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, attention, output["completion_ids"].size(1)
        )[0]
    mask = output["completion_mask"].bool()
    torch.testing.assert_close(output["old_per_token_logps"][mask], logps[mask], rtol=1e-4, atol=1e-5)
    assert logged(trainer, "error_correction/replaced")[0] > 0


def test_only_what_has_changed_is_graded_again_and_all_that_is_read_is_counted(tmp_path):
    graded, metrics = [], []

    def reward(completion_ids, log_metric, log_extra, **_):
        graded.append(len(completion_ids))
        log_metric("calls", float(len(graded)))
        log_extra("call", [len(graded)] * len(completion_ids))
        metrics.append(1)
        return rare(None, completion_ids)

    trainer = scripted(tmp_path, reward, **EDGE, dynamic_sampling=True, max_resample_times=2)
    reflected, answered, replaced = (logged(trainer, f"error_correction/{kind}")[0] for kind in KINDS)
    draws = [prompts for size, prompts, _ in trainer.drawn if size == G]
    continued = [prompts for size, prompts, _ in trainer.drawn if size == 1]
    assert len(draws) > 1  # corrections of all draws are counted
    assert sum(map(len, continued)) >= reflected > 0
    assert reflected + answered + replaced == sum(graded) - sum(map(len, draws))
    assert logged(trainer, "calls") == [1.0]  # what the policy drew for the batch's own prompts
    assert logged(trainer, "num_tokens") == [
        sum(len(p) + len(c) for _, *columns in trainer.drawn for p, c in zip(*columns, strict=True))
    ]
    assert logged(trainer, "generated_tokens") == [sum(len(c) for *_, rows in trainer.drawn for c in rows)]


def test_what_is_logged_of_a_sample_is_of_the_grading_that_counts(tmp_path):
    """Of the first where it stays as it was, of the second where it is corrected."""
    graded = []

    def reward(completion_ids, log_extra, **_):
        graded.append(len(completion_ids))
        log_extra("call", [len(graded)] * len(completion_ids))
        return one_third(completion_ids)

    trainer = scripted(tmp_path, reward, **EDGE)
    inputs, _, _, completions = trainer.batches[0]
    own = [row for example in inputs[::G] for row in of(example["prompt"])]
    changed = [
        TOKENIZER.decode(row, skip_special_tokens=True) != text for row, text in zip(own, completions, strict=True)
    ]
    assert list(trainer._logs["extra"]["call"]) == [2 if change else 1 for change in changed]
    assert graded == [32, sum(changed)]


def test_a_completion_ends_as_the_sample_did():
    """Of several tokens that end one, not the first in some list."""
    sample = Sample({}, [5], [6, 7, 9], "", None, {})
    tokenizer = SimpleNamespace(eos_token_id=4)
    corrector = Corrector(ErrorCorrection(), None, None, tokenizer, [4, 9], generate=None, state=None)
    assert corrector._end(sample) == 9
    assert corrector._body(sample) == [6, 7]
    cut = Sample({}, [5], [6, 7], "", None, {})
    assert corrector._end(cut) == 4
    assert corrector._body(cut) == [6, 7]


def test_a_solution_may_be_a_message():
    message = [{"role": "assistant", "content": "#4"}]
    assert correction._column({"solution": message}, "solution") == "#4"
    assert correction._column({"solution": 4}, "solution") == "4"
    with pytest.raises(ValueError, match=r"none that is text \(its columns: solution\)"):
        correction._column({"solution": message * 2}, "solution")


def test_a_column_that_is_missing_is_named(tmp_path):
    def trainer(rows, **settings):
        return LambdaGRPOTrainer(
            model=resolve_model(BUILTIN), reward_funcs=one_third, processing_class=TOKENIZER, train_dataset=rows,
            args=config(tmp_path, max_steps=1, **{**EDGE, **settings}),
        )  # fmt: skip

    whole = task_dataset(TASK)
    without = whole.remove_columns("solution")
    with pytest.raises(ValueError, match="add a column 'solution', or set error_correction"):
        trainer(without)
    trainer(without, error_correction=[0.5, 0.5, 0.0])
    gap = Dataset.from_list([whole[0]] + [{**row, "solution": None} for row in whole.select(range(1, 64))])
    with pytest.raises(ValueError, match="add a column 'solution', or set error_correction"):
        trainer(gap, error_correction=[0.0, 0.0, 1.0]).train()
