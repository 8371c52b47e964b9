"""The inputs of the workers' losses in a run, reassembled by response, in plain loops."""

import math
from pathlib import Path

import torch

LOW, HIGH, DUAL = 0.8, 1.2, 3.0  # verl's default clip range, and its second one for A < 0


class Step:
    """One step of a run: its responses in some order, and the micro-batches of all its updates."""

    def __init__(self, number, records):
        self.number, self.records = number, records
        rows = {}
        for record in records:
            for i, uid in enumerate(record["uid"]):
                length = int(record["loss_mask"][i].sum())
                key = (uid, *record["responses"][i, :length].tolist())
                rows.setdefault(key, (record, i))
        self.responses = list(rows)
        self.uids = [key[0] for key in self.responses]
        self.lengths = [len(key) - 1 for key in self.responses]
        self.rewards = [record["rm_scores"][i].sum().item() for record, i in rows.values()]
        self.folded = [record["advantages"][i, 0].item() for record, i in rows.values()]
        self.prompts = [record["prompts"][i].tolist() for record, i in rows.values()]
        self.advantages = [self._advantage(i) for i in range(len(self.uids))]
        # each update has its share of the tokens of its mini-batch, so the shares sum to the number of updates
        shares = sum(int(record["loss_mask"].sum()) / record["batch_num_tokens"] for record in records)
        self.updates = round(shares)
        assert math.isclose(shares, self.updates, rel_tol=1e-9)
        self.clipped = 0
        self.surrogates = [[] for _ in self.responses]  # one for each time that a token was trained on
        self._shares = [[] for _ in self.responses]  # the same over its mini-batch's tokens
        for record in records:
            for i, uid in enumerate(record["uid"]):
                self._add(record, i, uid)

    def _advantage(self, i):
        """verl's: over the sample standard deviation + 1e-6."""
        own = [r for r, uid in zip(self.rewards, self.uids, strict=True) if uid == self.uids[i]]
        mean = sum(own) / len(own)
        deviation = math.sqrt(sum((r - mean) ** 2 for r in own) / (len(own) - 1))
        return (self.rewards[i] - mean) / (deviation + 1e-6)

    def _add(self, record, i, uid):
        length = int(record["loss_mask"][i].sum())
        row = self.responses.index((uid, *record["responses"][i, :length].tolist()))
        A = self.advantages[row]
        for t in range(length):
            ratio = math.exp(record["log_probs"][i, t].item() - record["old_log_probs"][i, t].item())
            self.clipped += not LOW <= ratio <= HIGH
            s = min(ratio * A, min(max(ratio, LOW), HIGH) * A)
            s = max(s, DUAL * A) if A < 0 else s
            self.surrogates[row].append(s)
            self._shares[row].append(s / record["batch_num_tokens"] / self.updates)

    def losses(self, folded_in=False):
        """− of each response's surrogates over the tokens of their mini-batches, without f: the mean over updates."""
        found = [-sum(shares) for shares in self._shares]
        if not folded_in:
            return found
        return [x * f / A if A else 0.0 for x, f, A in zip(found, self.folded, self.advantages, strict=True)]


def steps(out: Path) -> list[Step]:
    """All steps of a run."""
    records = [torch.load(path) for path in sorted((out / "record").glob("*.pt"))]
    numbers = sorted({record["step"] for record in records})
    return [Step(number, [record for record in records if record["step"] == number]) for number in numbers]
