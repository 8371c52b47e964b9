"""The fast sampler and the packed pass compute the model's own function or refuse: adapters, hooks, changed modules."""

import contextlib
import warnings

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, PeftMixedModel, get_peft_model
from torch import nn
from transformers import AttentionInterface, GenerationConfig, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.llama.modeling_llama import LlamaMLP
from trl.trainer.utils import add_fused_lm_head

from lambda_grpo.fast import packing
from lambda_grpo.fast.sampler import FastSampler, UnsupportedError, sampler
from lambda_grpo.fast.sampler.torch_step import TorchStep
from tests.fast.test_packing import batch, packed_pass, padded_pass
from tests.peft_adapters import KINDS, NEED_MORE, PLACES, adapted, randomize, tiny_llama

PROMPTS = [[5, 6, 7], [9, 3], [5, 6, 7], [9, 3], [4]]
EVERYWHERE_EXACT = {"LORA", "LN_TUNING"}  # what the sampler has to support, in each place
PACKED = {"LORA", "LN_TUNING", "LOHA", "LOKR", "VERA", "OFT", "BOFT", "HRA", "FOURIERFT", "MISS", "IA3"}


def sampling_error(model, **settings):
    """Greatest difference between the sampler's log-probabilities and those of the model's own forward."""
    torch.manual_seed(0)
    config = GenerationConfig(**{"do_sample": True, "max_new_tokens": 8, "eos_token_id": 1, **settings})
    sampled, worst = FastSampler(config)(model, PROMPTS), 0.0
    for prompt, ids, logps in zip(PROMPTS, sampled.ids, sampled.logprobs, strict=True):
        row = torch.tensor([prompt + ids])
        with torch.no_grad():
            logits = model(input_ids=row, attention_mask=torch.ones_like(row)).logits[0, -len(ids) - 1 : -1].float()
        own = logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0]
        worst = max(worst, (own - torch.tensor(logps)).abs().max().item())
    return worst


def packing_errors(model):
    """Errors of log-probabilities against the model's own forward, relative errors of gradients against TRL's pass."""
    packing.check_packable(model)
    padded = batch(1)
    ids, mask = torch.cat([padded[0], padded[2]], 1), torch.cat([padded[1], padded[3]], 1)
    C = padded[2].size(1)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits[:, -C - 1 : -1].log_softmax(-1)
    own = logits.gather(2, padded[2][..., None])[..., 0] * padded[3]
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    add_fused_lm_head(base, outputs=("log_probs", "entropy"))
    grads = []
    for run in (padded_pass, packed_pass):
        if run is packed_pass:
            packing.prepare(model)
        model.zero_grad()
        logps, _ = run(model, *padded)
        (logps * padded[3]).sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    return (logps * padded[3] - own).abs().max().item(), ((grads[1] - grads[0]).norm() / grads[0].norm()).item()


def is_refused(function, model):
    """Whether the model is refused; otherwise the result has to be exact."""
    try:
        assert max(torch.tensor(function(model)).flatten().tolist()) < 1e-4
    except UnsupportedError:
        return True
    return False


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_each_adapter_of_peft_in_each_place_is_exact_or_refused(kind):
    if kind in NEED_MORE:
        pytest.skip(f"needs {NEED_MORE[kind]}")
    found = {place: model for place in PLACES if (model := adapted(kind, place)) is not None}
    assert found
    for place, model in found.items():
        assert is_refused(sampling_error, model) == (kind not in EVERYWHERE_EXACT), place
        has_head = place == "lm_head" and kind != "TRAINABLE_TOKENS"  # TRL's loss doesn't see an adapter on the head
        assert is_refused(packing_errors, model) == (kind not in PACKED or has_head), place


# -- LoRA in all its forms -------------------------------------------------------------------------------------------


def lora(model=None, *, name="default", **settings):
    settings = {"r": 4, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM", **settings}
    model = tiny_llama() if model is None else model
    if hasattr(model, "peft_config"):
        model.add_adapter(name, LoraConfig(**settings))
    else:
        model = get_peft_model(model, LoraConfig(**settings))
    randomize(model)
    return model.eval()


def several():
    model = lora(lora(), name="second", r=2, target_modules=["q_proj", "up_proj", "embed_tokens"])
    model.base_model.set_adapter(["default", "second"])
    for name, value in model.named_parameters():
        if "lora_" in name:
            value.data.normal_(0, 0.3)
    return model


def merged():
    model = lora()
    model.merge_adapter()
    return model.requires_grad_(True)


def disabled():
    model = lora(target_modules=["q_proj", "embed_tokens", "lm_head"], modules_to_save=["norm"])
    model.base_model.disable_adapter_layers()
    return model


def injected():
    model = tiny_llama()
    model.add_adapter(LoraConfig(r=4, target_modules=["q_proj", "embed_tokens"]))
    randomize(model)
    return model.eval()


def in_bfloat16(**settings):
    return get_peft_model(
        tiny_llama().bfloat16(), LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"), **settings
    )


def tied(**settings):
    return lora(tiny_llama(tie_word_embeddings=True), **settings)


LORAS = {  # and whether the sampler has to support them
    "no task type": (lambda: lora(task_type=None), True),
    "attention, MLP, embeddings and head": (
        lambda: lora(target_modules=["k_proj", "o_proj", "gate_proj", "embed_tokens", "lm_head"]), True,
    ),
    "tied, on the embedding": (lambda: tied(target_modules=["embed_tokens"]), True),
    "tied, on the head": (lambda: tied(target_modules=["lm_head"]), True),
    "tied, on both": (lambda: tied(target_modules=["embed_tokens", "lm_head"], ensure_weight_tying=True), True),
    "saved head and embedding": (lambda: lora(modules_to_save=["lm_head", "embed_tokens"]), True),
    "saved norms": (lambda: lora(modules_to_save=["norm", "input_layernorm"]), True),
    "a saved MLP": (lambda: lora(target_modules=["q_proj"], modules_to_save=["mlp"]), True),
    "tied and saved": (lambda: tied(modules_to_save=["embed_tokens"]), True),
    "rsLoRA": (lambda: lora(use_rslora=True, lora_alpha=3), True),
    "ranks by place": (lambda: lora(rank_pattern={"down_proj": 2}, alpha_pattern={"q_proj": 7}), True),
    "PiSSA": (lambda: lora(init_lora_weights="pissa"), True),
    "several adapters": (several, True),
    "merged": (merged, True),
    "disabled": (disabled, True),
    "in transformers": (injected, True),
    "layers twice": (lambda: lora(layer_replication=[(0, 2), (1, 2)]), True),
    "dropout in evaluation": (lambda: lora(lora_dropout=0.5), True),
    "dropout while training": (lambda: lora(lora_dropout=0.5).train(), False),
    "dropout on the embedding": (lambda: lora(lora_dropout=0.5, target_modules=["embed_tokens"]).train(), False),
    "DoRA": (lambda: lora(use_dora=True), False),
    "DoRA on the embedding": (lambda: lora(use_dora=True, target_modules=["embed_tokens"]), False),
    "biases": (lambda: lora(tiny_llama(attention_bias=True), lora_bias=True, target_modules=["q_proj"]), False),
    "tokens": (lambda: lora(trainable_token_indices={"embed_tokens": [5, 6]}), False),
    "parameters": (lambda: lora(target_modules=[], target_parameters=["q_proj.weight"]), False),
    "activated by a token": (lambda: lora(alora_invocation_tokens=[7]), False),
    "on a bfloat16 model": (in_bfloat16, False),
    "all in bfloat16": (lambda: in_bfloat16(autocast_adapter_dtype=False), False),
    "mixed": (lambda: PeftMixedModel(tiny_llama(), LoraConfig(target_modules=["q_proj"])), False),
}  # fmt: skip


@pytest.mark.parametrize("case", LORAS)
@pytest.mark.filterwarnings("ignore")
def test_lora_is_exact_or_refused(case):
    make, is_supported = LORAS[case]
    assert is_refused(sampling_error, make()) != is_supported
    model = make()
    if not (model.training or "bfloat16" in case):  # with dropout nothing is the same twice
        is_refused(packing_errors, model)


# -- modules that somebody changed -----------------------------------------------------------------------------------


class OwnForward(LlamaForCausalLM):
    """Twice the logits."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * 2
        return output


class Twice(nn.Linear):
    """Twice the linear layer."""

    def forward(self, x):
        return super().forward(x) * 2


def subclass():
    model = tiny_llama()
    model.__class__ = OwnForward
    return model


def changed(change, **settings):
    def make():
        model = tiny_llama(**settings)
        change(model)
        return model

    return make


def own_forward(module):
    original = module.forward
    module.forward = lambda *args, **kwargs: original(*args, **kwargs)


def hook(module):
    module.register_forward_hook(lambda module, args, output: None)


def as_twice(model):
    model.model.layers[0].mlp.up_proj.__class__ = Twice


def set_(where, **values):
    return lambda model: [setattr(model.get_submodule(where), name, value) for name, value in values.items()]


def parametrized(model):
    nn.utils.parametrize.register_parametrization(model.model.layers[0].mlp.up_proj, "weight", nn.Softplus())


def with_own_attention(model):
    AttentionInterface.register("mine", sdpa_attention_forward)
    model.config._attn_implementation = "mine"


CHANGED = {
    "a subclass": subclass,
    "a layer's subclass": changed(as_twice),
    "a hook on the model": changed(hook),
    "a hook on a layer": changed(lambda model: hook(model.model.layers[1])),
    "a hook on an activation": changed(lambda model: hook(model.model.layers[1].mlp.act_fn)),
    "a hook on the head": changed(lambda model: hook(model.lm_head)),
    "a hook before": changed(lambda model: model.model.norm.register_forward_pre_hook(lambda module, args: None)),
    "the model's forward": changed(own_forward),
    "the decoder's forward": changed(lambda model: own_forward(model.model)),
    "an attention's forward": changed(lambda model: own_forward(model.model.layers[0].self_attn)),
    "an MLP's forward": changed(lambda model: own_forward(model.model.layers[0].mlp)),
    "a projection's forward": changed(lambda model: own_forward(model.model.layers[0].self_attn.q_proj)),
    "a forward below TRL's": changed(lambda model: (own_forward(model), add_fused_lm_head(model))),
    "a parametrization": changed(parametrized),
    "weight norm": changed(lambda model: nn.utils.parametrizations.weight_norm(model.lm_head)),
    "another activation": changed(lambda model: setattr(model.model.layers[0].mlp, "act_fn", nn.GELU())),
    "no norm": changed(lambda model: setattr(model.model, "norm", nn.Identity())),
    "no MLP": changed(lambda model: setattr(model.model.layers[1], "mlp", nn.Identity())),
    "no rotation": changed(lambda model: setattr(model.model, "rotary_emb", nn.Identity())),
    "no projection": changed(lambda model: setattr(model.model.layers[1].self_attn, "o_proj", nn.Identity())),
    "narrower": changed(
        lambda model: [setattr(model.model.layers[1].mlp, name, nn.Linear(*sizes, bias=False)) for name, sizes in
                       {"gate_proj": (32, 9), "up_proj": (32, 9), "down_proj": (9, 32)}.items()]
    ),
    "a head with a bias": changed(lambda model: setattr(model, "lm_head", nn.Linear(32, 64))),
    "a longest embedding": changed(set_("model.embed_tokens", max_norm=0.1)),
    "another scale": changed(set_("model.layers.1.self_attn", scaling=1.0)),
    "another ε": changed(set_("model.layers.1.input_layernorm", variance_epsilon=0.1)),
    "attention to both sides": changed(set_("model.layers.1.self_attn", is_causal=False)),
    "another generate": changed(set_("", generate=lambda **_: None)),
    "an attention of one's own": changed(with_own_attention),
    "dropout while training": changed(lambda model: model.train(), attention_dropout=0.2),
    "softcapping": changed(lambda model: setattr(model.config, "final_logit_softcapping", 1.0)),
}  # fmt: skip
OWN_MODULES = {
    "no norm",
    "no MLP",
    "no projection",
    "narrower",
    "a head with a bias",
    "a longest embedding",
    "another ε",
}  # which the packed pass calls as they are


@pytest.mark.parametrize("case", CHANGED)
def test_a_changed_model_is_refused(case):
    assert is_refused(sampling_error, CHANGED[case]())
    is_refused_too = is_refused(packing_errors, CHANGED[case]())
    assert is_refused_too or case in OWN_MODULES


def test_a_changed_class_or_a_hook_on_all_modules_is_refused(monkeypatch):
    model, original = tiny_llama(), LlamaMLP.forward
    with monkeypatch.context() as patch:
        patch.setattr(LlamaMLP, "forward", lambda self, x: 2 * original(self, x))
        assert is_refused(sampling_error, model)
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert is_refused(sampling_error, model)
    handle.remove()
    assert not is_refused(sampling_error, model)


def test_an_activation_with_a_hook_is_called_after_preparation_too():
    model, seen = tiny_llama(), []
    packing.prepare(model)
    model.model.layers[0].mlp.act_fn.register_forward_hook(lambda *args: seen.append(1))
    model(input_ids=torch.tensor([[3, 4]]))
    assert seen == [1]


HARMLESS = {
    "gradients of inputs": lambda model: model.enable_input_require_grads(),
    "captured outputs": lambda model: model(input_ids=torch.tensor([[3]]), output_hidden_states=True),
    "TRL's head, twice": lambda model: (add_fused_lm_head(model), add_fused_lm_head(model)),
    "packing": lambda model: (add_fused_lm_head(model), packing.prepare(model)),
    "eager attention": lambda model: model.set_attn_implementation("eager"),
    "accelerate": lambda model: Accelerator(cpu=True).prepare_model(model),
    "mixed precision": lambda model: (
        add_fused_lm_head(model), Accelerator(cpu=True, mixed_precision="bf16").prepare_model(model),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HARMLESS)
def test_what_leaves_a_model_as_it_was_is_no_reason_to_refuse(case):
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    model = tiny_llama()
    HARMLESS[case](model)
    if case == "eager attention":  # only the sampler supports it
        with pytest.raises(UnsupportedError, match="eager"):
            packing.check_packable(model)
    else:
        packing.check_packable(model)
    if case == "mixed precision":  # sampled in the weights' own precision, which the loss hasn't
        FastSampler(GenerationConfig(max_new_tokens=2))(model, PROMPTS)
    else:
        assert sampling_error(model) < 1e-4
    AcceleratorState._reset_state()


@pytest.mark.parametrize("tie", [True, False])
def test_gradient_checkpointing(tie):
    model = tied(target_modules=["embed_tokens", "v_proj"]) if tie else lora(target_modules=["embed_tokens", "lm_head"])
    model.train()
    model.enable_input_require_grads()
    with warnings.catch_warnings(), contextlib.suppress(FutureWarning):
        warnings.simplefilter("ignore")
        model.gradient_checkpointing_enable()
    assert sampling_error(model) < 1e-4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler, "_step_class", lambda decoder: TorchStep)
        assert is_refused(sampling_error, model)  # its caches stay empty
        model.eval()
        assert not is_refused(sampling_error, model)


# -- settings of generation ------------------------------------------------------------------------------------------

SETTINGS = {
    "suppress_tokens": [3], "begin_suppress_tokens": [3], "no_repeat_ngram_size": 2, "min_new_tokens": 3,
    "min_length": 9, "num_beams": 2, "num_return_sequences": 2, "bad_words_ids": [[4, 5]], "forced_bos_token_id": 3,
    "forced_eos_token_id": 1, "sequence_bias": [[[4], -5.0]], "repetition_penalty": 1.2, "length_penalty": 2.0,
    "encoder_repetition_penalty": 1.3, "encoder_no_repeat_ngram_size": 2, "typical_p": 0.9, "epsilon_cutoff": 1e-3,
    "eta_cutoff": 1e-3, "top_h": 0.5, "guidance_scale": 1.5, "watermarking_config": {"bias": 2.0},
    "exponential_decay_length_penalty": (2, 1.5), "remove_invalid_values": True, "renormalize_logits": True,
    "prompt_lookup_num_tokens": 2, "assistant_early_exit": 1, "token_healing": True, "max_time": 1.0,
    "penalty_alpha": 0.6, "dola_layers": "low", "constraints": [3], "force_words_ids": [[3]], "num_beam_groups": 2,
    "diversity_penalty": 0.5, "early_stopping": True, "low_memory": True, "cache_implementation": "quantized",
    "use_mtp": True, "something_new": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_an_unsupported_setting_is_named(name):
    config = GenerationConfig(do_sample=True, max_new_tokens=4)
    setattr(config, name, SETTINGS[name])
    with pytest.raises(UnsupportedError, match=name):
        FastSampler(config)


def test_transformers_defaults_are_neutral():
    config = GenerationConfig(do_sample=True, max_new_tokens=4)
    config.update(**config._get_default_generation_params(), defaults_only=True)
    assert FastSampler(config).warpers[0].top_k == 50  # which transformers takes where nobody says otherwise
