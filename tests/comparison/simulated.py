"""Studies whose answer is known: simulated runs instead of trained ones."""

import math

from lambda_grpo.comparison import results as results_module
from lambda_grpo.comparison.study import Study

HALVES = ("choosing", "reported")
SPREAD = {"accuracy": (0.9, 0.01), "completion_length_mean": (20.0, 1.0), "entropy": (0.3, 0.03)}


def simulated_study(arms, seeds, endpoint="accuracy", tasks=("arithmetic",), rates=(3e-4,)):
    return Study(
        arms={arm: {"objective": arm} for arm in arms},
        against=next(iter(arms)),
        tasks=tuple(tasks),
        seeds=tuple(range(1, seeds + 1)),
        learning_rates=tuple(rates),
        more_rates=0,
        keys={"max_steps": 20, "model_name_or_path": "builtin"},
        endpoint=endpoint,
        target_accuracy=0.9,
        keep_checkpoints=False,
        keep_runs=True,
    )


def results(study, runs, failures=(), same_methods=None):
    problems = dict.fromkeys(study.tasks, "digest")
    return results_module.results(study, runs, failures, problems=problems, same_methods=same_methods or {})


def simulated_run(draw, arm, task, seed, figures, rate=3e-4):
    steps = list(range(1, 21))
    has_lambda = arm.startswith("lambda")
    return {
        "objective": arm,
        "task": task,
        "seed": seed,
        "learning_rate": rate,
        "accuracy_area": None,
        "score_mean": figures["accuracy"],
        "graded": False,
        "choosing": {"accuracy": figures["accuracy"], "accuracy_area": None},
        "reported": {"accuracy": figures["accuracy"], "accuracy_area": None},
        **figures,
        "lambda": 0.1 * draw.random() if has_lambda else None,
        "accuracy_before": 0.55,
        "completion_length_mean_before": 10.0,
        "num_tokens": 90_000 + draw.randrange(9000),
        "tokens_to_target": 40_000 + draw.randrange(9000) if draw.random() < 0.9 else None,
        "clip_fraction": 0.0,
        "grad_clip_fraction": draw.random(),
        "share_by_length_quartile": [0.1, 0.2, 0.3, 0.4],
        "share_right": 0.6,
        "curve": {
            "step": steps,
            "tokens": [4500 * step for step in steps],
            "reward": [1 - 0.5 * 0.9**step + draw.gauss(0, 0.02) for step in steps],
            "length": [10 + step / 2 + draw.gauss(0, 1) for step in steps],
            "entropy": [0.5 * 0.95**step + draw.gauss(0, 0.01) for step in steps],
            "lambda": [0.005 * step if has_lambda else None for step in steps],
            "weight_min": [0.98] * 20,
            "weight_max": [1.02] * 20,
            "accuracy": [1 - 0.5 * 0.9**step for step in steps],
        },
        "held_out": {"step": [0, 20], "accuracy": [0.55, figures["accuracy"]], "length": [10.0, 20.0]},
        "informative_groups": 0.5,
        "git_commit": "abc",
        "machine": "a processor, 1 thread",
        "limits": {"reward": [0.0, 1.0]},
        "chosen": False,
    }


def simulated_results(draw, effects, seeds, endpoint="accuracy", tasks=("arithmetic",)):
    """A study's results, in which each arm's endpoint is shifted by its effect.

    A seed shifts all arms alike, as the order of the prompts does; a run has as much of its own.
    """
    study = simulated_study(effects, seeds, endpoint, tasks)
    runs = []
    for task in tasks:
        for seed in study.seeds:
            shared = {name: draw.gauss(mean, spread) for name, (mean, spread) in SPREAD.items()}
            for arm, effect in effects.items():
                figures = {name: value + draw.gauss(0, SPREAD[name][1]) for name, value in shared.items()}
                figures[endpoint] += effect
                runs.append(simulated_run(draw, arm, task, seed, figures))
    return results(study, runs)


def swept_results(draw, effects, seeds, *, rates=(1e-4, 2e-4, 4e-4, 8e-4), best=2e-4, spread=0.01, problems=0.01):
    """Results of a study with several learning rates, whose accuracy is a parabola in the rate's logarithm.

    spread: standard deviation of a run on all problems; half of its variance is shared by all runs with a seed.
    problems: standard deviation that each half of the problems adds.
    """
    study = simulated_study(effects, seeds, rates=rates)
    runs = []
    for seed in study.seeds:
        shared = draw.gauss(0, spread / 2**0.5)
        for arm, effect in effects.items():
            for rate in rates:
                mean = 0.7 + effect - 0.005 * math.log2(rate / best) ** 2 + shared + draw.gauss(0, spread / 2**0.5)
                halves = {name: {"accuracy": mean + draw.gauss(0, problems), "accuracy_area": None} for name in HALVES}
                figures = {"accuracy": mean, "completion_length_mean": 20.0, "entropy": 0.3, **halves}
                runs.append(simulated_run(draw, arm, "arithmetic", seed, figures, rate))
    return results(study, runs)
