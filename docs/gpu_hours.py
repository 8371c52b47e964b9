"""The estimates of docs/reproduce.md, as its two tables: python docs/gpu_hours.py. Nothing here has been measured.

GPU hours: the published time of a step, scaled by parameters and tokens. NVIDIA's NeMo RL 0.4 (its performance summary)
trains Llama 3.1 8B by GRPO, on policy and with vLLM, on 16 H100: 2,048 samples of 1,060 tokens in 97.7 s per step. Both
generation and training take time in proportion to parameters, to a first approximation.

Memory: 16 bytes per parameter in full training (weights, gradients and Adam's two moments in float32, TRL's default), 4
for a frozen model under LoRA.
"""

# billions of parameters, as the models' own cards have them
MODELS = {
    "Qwen2.5-1.5B": 1.54, "Qwen2.5-3B": 3.09, "Qwen2.5-7B": 7.61, "Llama-3.2-3B": 3.21, "Qwen3-1.7B": 1.7,
}  # fmt: skip
RATE, RATE_OF = 2048 * 1060 / 97.7 / 16, 8.03  # tokens per second on one H100, for a model of 8.03 billion parameters
STEPS, COMPLETIONS, LONGEST = 150, 1024, 2048  # of recipes/models/maths.yaml
LIKELY = 600  # tokens of a completion, assumed
PROBLEMS = 1319 + 500 + 272 + 385 + 675 + 2818 + 30 + 40  # of the eight benchmarks


def hours(billions: float, completions: int, length: int) -> float:
    """GPU hours to generate and train on completions of `length` tokens, for a model of so many billion parameters."""
    return completions * length / (RATE * RATE_OF / billions) / 3600


def main() -> None:
    """Print both tables."""
    print(f"| model | {LIKELY} tokens a completion | all {LONGEST:,} tokens | the eight benchmarks |")
    print("|---|---|---|---|")
    for name, billions in MODELS.items():
        likely, longest = (hours(billions, STEPS * COMPLETIONS, length) for length in (LIKELY, LONGEST))
        print(f"| {name} | {likely:.1f} | {longest:.1f} | {hours(billions, PROBLEMS, LIKELY):.1f} |")
    print("\n| model | full training, one GPU | each of 8 GPUs (FSDP2, ZeRO-3) | LoRA, one GPU |\n|---|---|---|---|")
    for name, billions in MODELS.items():
        print(f"| {name} | {16 * billions:.0f} GB | {2 * billions:.0f} GB | {4 * billions:.0f} GB |")


if __name__ == "__main__":
    main()
