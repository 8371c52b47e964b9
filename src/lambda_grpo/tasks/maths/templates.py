r"""Prompt templates.

A template changes a score by more than any objective does, so each is an established one with its source, and is
recorded in every result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lambda_grpo.errors import UserError
from lambda_grpo.suggestions import did_you_mean

_BOXED = r"Please reason step by step, and put your final answer within \boxed{}."


@dataclass(frozen=True)
class Template:
    """A prompt template.

    Attributes:
        source: the paper or repository that it is from.
        text: with `{question}` for the problem; for a chat, the user turn.
        chat: whether the model's chat template is applied.
        system: the system prompt of a chat; None for the chat template's default.
        stops: stop strings: where a base model would start another problem.
        options: keyword arguments of the model's chat template, such as Qwen3's `enable_thinking`.
        name: its key in TEMPLATES.
    """

    source: str
    text: str
    chat: bool = False
    system: str | None = None
    stops: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    def render(self, question: str, tokenizer: Any, shots: Sequence[tuple[str, str]] = ()) -> str:
        """The prompt as text.

        Args:
            shots: problems with their solutions for a few-shot prompt: as text, or as earlier turns of a chat.

        Raises:
            UserError: the model's chat template raises an error.
        """
        if not self.chat:
            gap = "" if self.text[-1].isspace() else " "
            solved = [self.text.replace("{question}", one) + gap + solution for one, solution in shots]
            return "\n\n".join([*solved, self.text.replace("{question}", question)])
        messages = self.messages(question, shots)
        from jinja2 import TemplateError

        try:
            rendered: str = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **self.options
            )
        except (TemplateError, TypeError) as error:  # no system role, for example; TypeError: unknown options
            raise UserError(
                f"the model's chat template refuses template {self.name!r} ({error}): use another --template, or other "
                "--chat_template_kwargs"
            ) from error
        return rendered

    def messages(self, question: str, shots: Sequence[tuple[str, str]] = ()) -> list[dict[str, str]]:
        """The turns of a chat, up to the one that the model writes."""
        turns = [] if self.system is None else [{"role": "system", "content": self.system}]
        for one, solution in [*shots, (question, "")]:
            turns.append({"role": "user", "content": self.text.replace("{question}", one)})
            turns.append({"role": "assistant", "content": solution})
        return turns[:-1]

    def prompt(self, question: str) -> str | list[dict[str, str]]:
        """The prompt in TRL's format: text, or messages, to which TRL applies the chat template."""
        return self.messages(question) if self.chat else self.text.replace("{question}", question)

    def unwrap(self, prompt: str) -> str:
        """The question in a prompt made from this template's text; other texts unchanged."""
        before, _, after = self.text.partition("{question}")
        is_wrapped = prompt.startswith(before) and prompt.endswith(after) and len(prompt) > len(before) + len(after)
        return prompt[len(before) : len(prompt) - len(after)] if is_wrapped else prompt

    def tokenize(self, prompt: str, tokenizer: Any) -> list[int]:
        """The token ids of a prompt. Special tokens are only added without a chat template, which writes its own."""
        ids: list[int] = tokenizer(prompt, add_special_tokens=not self.chat)["input_ids"]
        return ids

    def cut(self, completion: str) -> str:
        """The completion up to its first stop string."""
        ends = [completion.find(stop) for stop in self.stops]
        return completion[: min((end for end in ends if end >= 0), default=len(completion))]


_TEMPLATES = {
    "plain": Template("the problem alone; Dr. GRPO's template \"no\" (arXiv 2503.20783)", "{question}"),
    "boxed_system": Template(
        "Qwen2.5-Math (arXiv 2409.12122), its README and evaluation, qwen25-math-cot; Dr. GRPO's qwen_math",
        "{question}",
        chat=True,
        system=_BOXED,
    ),
    "boxed": Template(
        "SimpleRL-Zoo (arXiv 2503.18892), qwen-boxed: the instruction in the user's turn",
        f"{{question}}\n{_BOXED}",
        chat=True,
    ),
    "question_answer": Template(
        'SimpleRL-Zoo (arXiv 2503.18892), abel, for base models; without its stop "Answer:", which cuts answers off',
        "Question:\n{question}\nAnswer:\nLet's think step by step.\n",
        stops=("Question:",),
    ),
    "problem_solution": Template(
        "Minerva (arXiv 2206.14858), as lm-evaluation-harness has it in minerva_math (there with 4 examples)",
        "Problem:\n{question}\n\nSolution:",
        stops=("Problem:",),
    ),
    "qa": Template(
        "lm-evaluation-harness, gsm8k (there with --shots 5)", "Question: {question}\nAnswer:", stops=("Question:",)
    ),
    "r1_zero": Template(
        "DeepSeek-R1-Zero (arXiv 2501.12948), table 1",
        "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The "
        "assistant first thinks about the reasoning process in the mind and then provides the user with the answer. "
        "The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, "
        "respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>. User: {question}. "
        "Assistant:",
        stops=("</answer>", "User:"),
    ),
    "dapo": Template(
        "DAPO (arXiv 2503.14476), as its training data have it",
        "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
        "$Answer (without quotes) where $Answer is the answer to the problem.\n\n{question}\n\n"
        'Remember to put your answer on its own line after "Answer:".',
        chat=True,
    ),
}  # fmt: skip

TEMPLATES = {name: replace(template, name=name) for name, template in _TEMPLATES.items()}


def find_template(name: str | None, tokenizer: Any, options: Mapping[str, Any] | None = None) -> tuple[str, Template]:
    """The template of that name; without one, `boxed_system` for a model with a chat template, else `question_answer`.

    Args:
        options: keyword arguments of the model's chat template.

    Raises:
        UserError: there is no such template, or it needs a chat template and the model has none.
    """
    has_chat = getattr(tokenizer, "chat_template", None) is not None
    chosen = name or ("boxed_system" if has_chat else "question_answer")
    if chosen not in TEMPLATES:
        raise UserError(f"unknown template {chosen!r}: use {', '.join(TEMPLATES)}{did_you_mean(chosen, TEMPLATES)}")
    if TEMPLATES[chosen].chat and not has_chat:
        plain = [other for other, template in TEMPLATES.items() if not template.chat]
        raise UserError(
            f"template {chosen!r} is for chat models, and this one has no chat template: use {', '.join(plain)}"
        )
    return chosen, replace(TEMPLATES[chosen], options=dict(options or {}))
