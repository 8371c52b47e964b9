"""However a batch is split over processes and micro-batches, an optimiser step has the same gradients."""

import pytest
import torch

from lambda_grpo import PRESETS
from lambda_grpo.runs.directory import Run
from tests.invariant.ranks import fork_ranks

ROWS = 24  # three groups of eight: over four processes of six rows, groups straddle ranks
SPLITS = {"1 process": (1, 1), "1 process, 4 micro-batches": (1, 4), "2 processes": (2, 2), "4 processes": (4, 2)}
# On four processes one of each kind: of normaliser, of what is gathered, of surrogate. On two, groups straddle, too.
ON_FOUR = {
    "bnpo", "daro", "dapo", "dapo_full", "dr_grpo", "edge_grpo", "gmpo", "grpo", "gspo", "lambda_grpo",
    "lambda_grpo_paper", "lambda_grpo_prm", "lite_ppo", "luspo",
}  # fmt: skip


@pytest.fixture(scope="module")
def gradients(tmp_path_factory):
    found = {}
    for split, (processes, micro_batches) in SPLITS.items():
        out = tmp_path_factory.mktemp("run")
        names = sorted(ON_FOUR if processes == 4 else PRESETS)
        fork_ranks(processes, "injected_run", out, ROWS // processes, micro_batches, *names)
        found[split] = torch.load(out / "gradients.pt")
    return found


def difference(ours, theirs, key):
    return ((ours[key] - theirs[key]).norm() / theirs[key].norm().clamp(min=1e-12)).item()


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "split"),
    [
        (name, split)
        for name in sorted(set(PRESETS) - {"bnpo"})
        for split in SPLITS
        if split != "1 process" and (name in ON_FOUR or split != "4 processes")
    ],
)
def test_gradients_are_the_same(name, split, gradients):
    steps, expected = gradients[split][name], gradients["1 process"][name]
    assert len(steps) == len(expected) == 2
    for ours, theirs in zip(steps, expected, strict=True):
        assert theirs["policy"].norm() > 0
        assert difference(ours, theirs, "policy") < 1e-4  # float32
        if PRESETS[name].preference.learnable:
            assert difference(ours, theirs, "lambda") < 1e-4


@pytest.mark.timeout(900)
def test_bnpo_varies_by_its_definition(gradients):
    """It divides by each micro-batch's own tokens."""
    whole = gradients["1 process"]["bnpo"][0]
    for split in ("1 process, 4 micro-batches", "2 processes", "4 processes"):
        assert difference(gradients[split]["bnpo"][0], whole, "policy") > 0.05


@pytest.mark.timeout(900)
def test_every_rank_draws_and_corrects_the_same(tmp_path):
    """Groups straddle ranks; on three of them a round draws more groups than are missing, so other ones follow."""
    found = {}
    for processes in (1, 3, 4):
        out = tmp_path / str(processes)
        out.mkdir()
        fork_ranks(processes, "scripted_run", out, ROWS // processes)
        found[processes] = torch.load(out / "found.pt")
    one = found.pop(1)
    assert sum(one["logged"]["dynamic_sampling/extra_groups"]) > 0
    assert sum(one["logged"]["error_correction/reflected"]) > 0
    many = found[4]
    assert many["samples"] == one["samples"]
    assert many["logged"] == one["logged"]
    assert torch.equal(many["is_kept"], one["is_kept"])
    for key in ("advantages", "entropies"):
        torch.testing.assert_close(many[key], one[key], rtol=1e-3, atol=1e-4)
    for ours, theirs in zip(many["gradients"], one["gradients"], strict=True):
        assert (ours - theirs).norm() < 1e-4 * theirs.norm()
    tokens, expected = (Run(tmp_path / str(n)).completions(tokens=True).to_pylist() for n in (4, 1))
    assert [row["tokens"] for row in tokens] == [row["tokens"] for row in expected]
    assert sum(row["tokens"] is not None for row in expected) > ROWS
    for ours, theirs in zip(tokens, expected, strict=True):
        assert ours["logprobs"] == (theirs["logprobs"] and pytest.approx(theirs["logprobs"], rel=1e-3, abs=1e-3))
    assert found[3]["logged"]["reward"] == one["logged"]["reward"]
    assert all(extra % 3 == 0 for extra in found[3]["logged"]["dynamic_sampling/extra_groups"])


@pytest.mark.timeout(900)
def test_every_rank_leaves_out_rows_that_teach_nothing(tmp_path):
    """Four processes of six rows, so that groups of eight straddle them: against all rows, without packing."""
    fork_ranks(4, "skipping_run", tmp_path)
    found = torch.load(tmp_path / "found.pt")
    assert found[False]["rows"] == 0  # not packed
    assert 0 < found[True]["rows"] < 3 * 2 * 4 * 6  # steps, micro-batches, processes, rows
    for ours, theirs in zip(found[True]["gradients"], found[False]["gradients"], strict=True):
        assert theirs.norm() > 0
        assert (ours - theirs).norm() < 1e-4 * theirs.norm()
    for ours, theirs in zip(found[True]["logged"], found[False]["logged"], strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3, abs=1e-5)
