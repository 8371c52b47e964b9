"""What the fast sampler and the packed pass don't support is left to TRL, with one warning; positions under padding."""

import tempfile
import warnings

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)
from trl import GRPOConfig, GRPOTrainer

from lambda_grpo.errors import UserError
from lambda_grpo.models import BUILTIN, resolve_model
from lambda_grpo.trl import LambdaGRPOConfig, LambdaGRPOTrainer
from tests.peft_adapters import KINDS, NEED_MORE, PLACES, adapted, tiny_llama

TOKENIZER = AutoTokenizer.from_pretrained(resolve_model(BUILTIN))
SIZE = {"vocab_size": len(TOKENIZER)}
DATA = Dataset.from_dict({"prompt": ["1+2=", "123+456+7+8="] * 8})


def reward(completions, **_):
    return [float(i % 3) for i in range(len(completions))]


def make(model, trainer=LambdaGRPOTrainer, config=LambdaGRPOConfig, peft_config=None, **settings):
    args = {
        "output_dir": tempfile.gettempdir(), "use_cpu": True, "bf16": False, "max_steps": 1, "report_to": "none",
        "per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 6, "save_strategy": "no",
        "disable_tqdm": True, "gradient_checkpointing": False, "logging_steps": 1, **settings,
    }  # fmt: skip
    return trainer(
        model=model, args=config(**args), train_dataset=DATA, reward_funcs=reward, processing_class=TOKENIZER,
        peft_config=peft_config,
    )  # fmt: skip


def trained(*args, **settings):
    """The trainer after its steps, and what it said of generation and of the training pass."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = make(*args, **settings)
        trainer.train()
    said = [str(warning.message) for warning in caught]
    return trainer, *([text for text in said if f"the {part} doesn't know" in text] for part in PARTS)


PARTS = ("fast sampler", "packed training pass")
KNOWN = {"LORA", "LN_TUNING"}


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(NEED_MORE)))
def test_a_step_with_each_adapter_of_peft(kind):
    def model():
        return next(
            found for place in PLACES if (found := adapted(kind, place, tiny_llama(**SIZE))) is not None
        ).train()

    try:
        trainer, of_generation, of_pass = trained(model(), max_steps=2)
    except Exception as error:
        with pytest.raises(type(error)):  # in stock TRL, too
            make(model(), GRPOTrainer, GRPOConfig).train()
        return
    assert len(of_generation) == (kind not in KNOWN)
    assert len(of_pass) == (not trainer.packer.is_on)
    assert trainer.fast_generation.is_on == (kind in KNOWN)
    assert all("peft's" in text for text in of_generation + of_pass)


def with_settings(**settings):
    model = tiny_llama(**SIZE)
    model.generation_config.update(**settings)
    return model


def with_hook():
    model = tiny_llama(**SIZE)
    model.model.layers[0].register_forward_hook(lambda module, args, output: output * 1.5)
    return model


LORA = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
DROPOUT = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", lora_dropout=0.1)
CASES = {  # model, settings, the warning about generation, the warning about the training pass
    "known": (with_settings, {}, None, None),
    "suppressed tokens": (lambda: with_settings(suppress_tokens=[4]), {}, r"suppress_tokens = \[4\]", None),
    "n-grams": (lambda: with_settings(no_repeat_ngram_size=2), {}, "no_repeat_ngram_size = 2", None),
    "shortest": (lambda: with_settings(min_new_tokens=3), {}, "min_new_tokens = 3", None),
    "own ends": (with_settings, {"generation_kwargs": {"eos_token_id": [7]}}, "eos_token_id", None),
    "a hook": (with_hook, {}, "forward hooks", "forward hooks"),
    "noise": (with_settings, {"neftune_noise_alpha": 5.0}, "forward hooks", "forward hooks"),
    "adapter's dropout": (with_settings, {"peft_config": DROPOUT}, "dropout while training", None),
    "no dropout": (with_settings, {"peft_config": DROPOUT, "disable_dropout": True}, None, None),
    "attention's dropout": (
        lambda: tiny_llama(**SIZE, attention_dropout=0.1), {}, "attention_dropout = 0.1", "attention_dropout = 0.1",
    ),
    "LoRA on bfloat16": (lambda: with_settings().bfloat16(), {"peft_config": LORA}, "LoRA in bfloat16", None),
    "head in float32": (
        lambda: with_settings().bfloat16(), {"cast_lm_head_to_fp32": True}, "cast_lm_head_to_fp32",
        "cast_lm_head_to_fp32",
    ),
    "checkpointing": (with_settings, {"gradient_checkpointing": True, "peft_config": LORA}, None, None),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_left_to_trl_is_said_once(case):
    model, settings, *expected = CASES[case]
    trainer, *said = trained(model(), max_steps=2, **settings)
    for texts, pattern in zip(said, expected, strict=True):
        assert len(texts) == (pattern is not None), texts
        if pattern is not None:
            with pytest.raises(AssertionError, match=pattern):
                raise AssertionError(texts[0])
    assert [trainer.fast_generation.is_on, trainer.packer.is_on] == [pattern is None for pattern in expected]


def test_a_suppressed_token_is_never_drawn():
    with pytest.warns(UserWarning, match="suppress_tokens"):
        trainer = make(with_settings(suppress_tokens=list(range(10, len(TOKENIZER)))), max_completion_length=12)
    output = trainer._generate_and_score_completions([DATA[i // 4] for i in range(8)])
    assert output["completion_ids"].max() < 10


def test_a_temperature_of_generation_alone_gives_no_old_log_probabilities():
    """TRL's loss has the configuration's temperature, whatever `generation_kwargs` draw by."""
    settings = {"gradient_accumulation_steps": 1, "steps_per_generation": 2, "generation_kwargs": {"temperature": 0.5}}
    trainer = make(tiny_llama(**SIZE), **settings)
    output = trainer._generate_and_score_completions([DATA[i // 4] for i in range(16)])
    assert trainer.fast_generation.is_on
    assert off_by(trainer.model, output) < 1e-4


def test_what_the_settings_leave_open_is_the_models_own():
    """As `generate` has it: a TRL configuration names no min_p."""
    trainer = make(with_settings(min_p=0.9, top_p=0.1))
    sampler = trainer.fast_generation.make_sampler(trainer.model)
    assert [type(warper).__name__ for warper in sampler.warpers] == ["MinPLogitsWarper"]
    assert not sampler.samples_full_distribution


def test_an_adapter_on_the_head_is_refused():
    model = tiny_llama(**SIZE)
    model.add_adapter(LoraConfig(r=2, target_modules=["lm_head"]))
    with pytest.raises(UserError, match="an adapter on lm_head wouldn't be trained"):
        make(model)


def test_checkpointing_goes_on_after_the_sampler_has_given_up():
    trainer, said, _ = trained(with_hook(), gradient_checkpointing=True)
    assert len(said) == 1
    assert trainer.accelerator.unwrap_model(trainer.model).is_gradient_checkpointing


# -- positions -------------------------------------------------------------------------------------------------------


def off_by(model, output, name="old_per_token_logps"):
    """Greatest difference between a batch's log-probabilities and the model's own, row by row without padding."""
    model.eval()
    worst = 0.0
    for i in range(len(output["prompt_ids"])):
        prompt = output["prompt_ids"][i][output["prompt_mask"][i].bool()]
        ids = output["completion_ids"][i][output["completion_mask"][i].bool()]
        row = torch.cat([prompt, ids])[None]
        with torch.no_grad():
            logits = model(input_ids=row, attention_mask=torch.ones_like(row)).logits[0, -len(ids) - 1 : -1]
        own = logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]
        worst = max(worst, (own - output[name][i][: len(ids)]).abs().max().item())
    return worst


def of_class(model_class, config_class, **settings):
    torch.manual_seed(0)
    model = model_class(config_class(**SIZE, pad_token_id=0, eos_token_id=1, bos_token_id=None, **settings))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() > 1 and "lm_head" not in name:
                value.normal_(0, 0.2)
    return model


GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
NEO = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "attention_types": [[["global"], 2]]}
BART = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 64}
OPT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 64, "word_embed_proj_dim": 32}
LEARNED = {
    "GPT-2": lambda: of_class(GPT2LMHeadModel, GPT2Config, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0, **GPT2),
    "GPT-Neo": lambda: of_class(GPTNeoForCausalLM, GPTNeoConfig, max_position_embeddings=64, **NEO),
    "OPT": lambda: of_class(OPTForCausalLM, OPTConfig, max_position_embeddings=64, dropout=0.0, **OPT),
    "learned prompt": lambda: adapted("PROMPT_TUNING", "q_proj", tiny_llama(**SIZE)),
    "learned keys": lambda: adapted("PREFIX_TUNING", "q_proj", tiny_llama(**SIZE)),
}


@pytest.mark.parametrize("case", LEARNED)
@pytest.mark.filterwarnings("ignore")
def test_learned_positions_are_counted_from_the_prompts_first_token(case, tmp_path):
    model = LEARNED[case]()
    if not hasattr(model, "peft_config"):  # the reference model is read again
        model.save_pretrained(tmp_path)
        model = type(model).from_pretrained(tmp_path)
    trainer = make(model, beta=0.04, gradient_accumulation_steps=1, steps_per_generation=2)
    output = trainer._generate_and_score_completions([DATA[i // 4] for i in range(16)])
    assert {4, 12} == set(output["prompt_mask"].sum(1).tolist())
    assert off_by(trainer.model, output) < 1e-4
    if trainer.ref_model is not None:
        assert off_by(trainer.ref_model, output, "ref_per_token_logps") < 1e-4
    trainer.train()


def test_a_model_that_padding_changes_is_refused():
    model = of_class(BartForCausalLM, BartConfig, max_position_embeddings=64, **BART)
    with pytest.raises(UserError, match="models of type 'bart' can't be used: prompts are padded on the left"):
        make(model)
