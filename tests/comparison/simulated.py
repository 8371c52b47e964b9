"""Studies whose answer is known: simulated runs instead of trained ones."""

from lambda_grpo.comparison.results import results
from lambda_grpo.comparison.study import Study

SPREAD = {"accuracy": (0.9, 0.01), "completion_length_mean": (20.0, 1.0), "entropy": (0.3, 0.03)}


def simulated_study(arms, seeds, endpoint="accuracy", tasks=("arithmetic",)):
    return Study(
        arms={arm: {"objective": arm} for arm in arms},
        against=next(iter(arms)),
        tasks=tuple(tasks),
        seeds=tuple(range(1, seeds + 1)),
        tuning_seeds=(1001, 1002),
        learning_rates=(1e-4, 3e-4, 1e-3),
        keys={"max_steps": 20, "model_name_or_path": "builtin"},
        endpoint=endpoint,
        target_accuracy=0.9,
        keep_checkpoints=False,
    )


def simulated_run(draw, arm, task, seed, figures):
    steps = list(range(1, 21))
    has_lambda = arm.startswith("lambda")
    return {
        "objective": arm,
        "task": task,
        "seed": seed,
        "learning_rate": 3e-4,
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
        },
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
    return results(study, runs, [], [])
