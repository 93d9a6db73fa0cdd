"""Tiny real models of each family with random weights, and folders that hold one with its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.tokenizers_made_here import byte_level

SHAPE = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
# fmt: off
GROUPED = {"num_key_value_heads": 2, "head_dim": 16}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
ROUTED = {
    **EXPERTS, "n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
}
# Smaller than most prompts and their chunks.
WINDOW = {**GROUPED, "sliding_window": 8}
LATENT = {
    "num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 32,
    "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 16,
}
MAMBA2 = {"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_expand": 2, "mamba_d_state": 16}
SLIDING, FULL = "sliding_attention", "full_attention"
GPT_J = {"n_layer": 3, "n_head": 4, "n_embd": 64, "n_positions": 256, "n_ctx": 256, "rotary_dim": 8, "n_inner": 128}


def long_rope(pairs: int, **more: object) -> dict[str, Any]:
    """Rotary factors that change for texts of more than 64 ids."""
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 64}
    factors = {"short_factor": [1.0] * pairs, "long_factor": [4.0] * pairs}
    return {"original_max_position_embeddings": 64, "rope_parameters": {**rope, **factors, **more}}


# What each family adds to or takes from SHAPE; None takes a field away. `model_type` is the family's own name unless
# said otherwise.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "mistral": WINDOW,
    "qwen2": GROUPED,
    "qwen2_windows": {"model_type": "qwen2", **WINDOW, "use_sliding_window": True, "max_window_layers": 1},
    "qwen3": GROUPED,
    "gemma": GROUPED,
    "gemma2": {
        **WINDOW, "num_hidden_layers": 4, "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 1.0, "final_logit_softcapping": 30.0,
    },
    "gemma3_text": {
        **WINDOW, "num_hidden_layers": 6, "query_pre_attn_scalar": 16,
        "rope_parameters": {
            SLIDING: {"rope_type": "default", "rope_theta": 10_000.0},
            FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        },
    },
    "phi": {"num_key_value_heads": 2},
    "phi3": WINDOW,
    "phi3_long": {"model_type": "phi3", **GROUPED, "sliding_window": None, **long_rope(8)},
    "phi4": {"model_type": "phi3", **GROUPED, "sliding_window": None, "rope_parameters": {"rope_theta": 250_000.0}},
    "phi4_mini": {
        "model_type": "phi3", **GROUPED, "sliding_window": 200, "partial_rotary_factor": 0.75,
        **long_rope(6, partial_rotary_factor=0.75),
    },
    # Tied embeddings, scaled, repeat the last token for ever.
    "gpt2": {"intermediate_size": None, "n_inner": 128, "tie_word_embeddings": False},
    "gpt_neox": {},
    "gpt_oss": {
        **WINDOW, **EXPERTS, "intermediate_size": 32,
        "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 150_000.0, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
            "truncate": False, "original_max_position_embeddings": 64,
        },
    },
    "opt": {"intermediate_size": None, "ffn_dim": 128, "word_embed_proj_dim": 32},
    "mixtral": {**WINDOW, **EXPERTS},
    "qwen3_moe": {**GROUPED, **EXPERTS},
    "apertus": GROUPED,
    "bloom": {"n_layer": 3},
    "codegen": GPT_J,
    "cohere": GROUPED,
    "cohere2": {**WINDOW, "num_hidden_layers": 4},
    "deepseek_v2": {**ROUTED, **LATENT, "q_lora_rank": None, "head_dim": 16},
    "deepseek_v3": {**ROUTED, **LATENT, "v_head_dim": 24},
    "doge": GROUPED,
    "ernie4_5": GROUPED,
    "exaone4": {**WINDOW, "num_hidden_layers": 4},
    "falcon": {"new_decoder_architecture": False},
    "falcon_alibi": {"model_type": "falcon", "alibi": True, "new_decoder_architecture": False},
    "gemma3": {
        "text_config": {}, "mm_tokens_per_image": 4,
        "image_token_index": 511, "boi_token_index": 510, "eoi_token_index": 509,
        "vision_config": {
            "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 32, "patch_size": 16,
        },
    },
    "gemma3n_text": {
        **WINDOW, "num_hidden_layers": 6, "layer_types": [SLIDING, SLIDING, FULL] * 2, "num_kv_shared_layers": 2,
        "vocab_size_per_layer_input": 512, "hidden_size_per_layer_input": 16, "laurel_rank": 8,
        "altup_num_inputs": 2, "activation_sparsity_pattern": [0.0] * 6,
    },
    "gemma4_text": {
        **WINDOW, "num_hidden_layers": 6, "layer_types": [SLIDING, SLIDING, FULL] * 2, "num_kv_shared_layers": 2,
        "vocab_size_per_layer_input": 512, "hidden_size_per_layer_input": 16, "global_head_dim": 32,
        "num_global_key_value_heads": 1,
    },
    "glm4": GROUPED,
    "glm4_moe": {**GROUPED, **ROUTED},
    "gpt_bigcode": {"intermediate_size": None, "n_inner": 128},
    "gpt_neo": {
        "num_layers": 4, "num_heads": 4, "attention_types": [[["global", "local"], 2]], "window_size": 8,
        "num_hidden_layers": None,
    },
    "gptj": GPT_J,
    "granite": GROUPED,
    "hunyuan_v1_dense": GROUPED,
    "internlm3": GROUPED,
    "llama4_text": {
        **GROUPED, **EXPERTS, "attention_chunk_size": 16, "floor_scale": 16, "intermediate_size_mlp": 128,
    },
    "minicpm3": LATENT,
    # Queries grow with their position, from the 32nd on.
    "ministral3": {
        **GROUPED, "sliding_window": None,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 10_000.0, "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": 32,
        },
    },
    "ministral": {**WINDOW, "layer_types": [SLIDING, FULL, SLIDING]},
    "mpt": {
        "d_model": 64, "n_heads": 4, "n_layers": 3, "max_seq_len": 256,
        "hidden_size": None, "num_hidden_layers": None, "num_attention_heads": None,
    },
    "nemotron": GROUPED,
    "olmo": GROUPED,
    "olmo2": GROUPED,
    "olmo3": {**WINDOW, "num_hidden_layers": 4},
    "olmoe": {**GROUPED, **EXPERTS},
    "phimoe": {**EXPERTS, "num_key_value_heads": 2, "sliding_window": 16},
    "qwen2_moe": {
        **EXPERTS, "num_key_value_heads": 2, "sliding_window": 16, "use_sliding_window": True, "max_window_layers": 1,
        "shared_expert_intermediate_size": 32,
    },
    "smollm3": {**GROUPED, "num_hidden_layers": 4, "no_rope_layer_interval": 4},
    "stablelm": {"num_key_value_heads": 2},
    "starcoder2": WINDOW,
    "xglm": {
        "num_layers": 3, "d_model": 64, "attention_heads": 4, "ffn_dim": 128,
        "hidden_size": None, "num_hidden_layers": None, "num_attention_heads": None,
    },
    # State-space and hybrid models.
    "bamba": {**GROUPED, **MAMBA2, "attn_layer_indices": [1]},
    "falcon_h1": {**GROUPED, **MAMBA2, "mamba_d_ssm": 128, "mamba_n_groups": 1},
    "falcon_mamba": {},
    "granitemoehybrid": {
        **GROUPED, **EXPERTS, **MAMBA2, "layer_types": ["mamba", "attention", "mamba"], "shared_intermediate_size": 64,
    },
    "jamba": {
        **EXPERTS, "num_key_value_heads": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2,
        "expert_layer_offset": 1, "mamba_d_state": 16, "use_mamba_kernels": False,
    },
    "lfm2": {**GROUPED, "layer_types": ["conv", FULL, "conv"], "block_ff_dim": 128},
    "mamba": {},
    "mamba2": {"num_heads": 4, "head_dim": 32, "expand": 2, "state_size": 16, "n_groups": 1},
    "nemotron_h": {
        **GROUPED, "mamba_num_heads": 4, "mamba_head_dim": 32, "ssm_state_size": 16, "n_groups": 1,
        "layers_block_type": ["mamba", "attention", "mlp"],
    },
    "qwen3_next": {
        **GROUPED, **EXPERTS, "num_hidden_layers": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "linear_key_head_dim": 16, "linear_value_head_dim": 16, "shared_expert_intermediate_size": 32,
    },
    "recurrent_gemma": {**GROUPED, "lru_width": 64, "attention_window_size": 16},
    "rwkv": {"context_length": 256, "attention_hidden_size": 64, "max_position_embeddings": None},
    "zamba2": {
        "num_key_value_heads": 4, "mamba_d_state": 16, "n_mamba_heads": 4, "mamba_expand": 2, "mamba_headdim": 32,
        "mamba_ngroups": 1, "layers_block_type": ["mamba", "hybrid", "mamba"], "num_mem_blocks": 1, "adapter_rank": 8,
        "use_mamba_kernels": False,
    },
}
# Encoder-decoder models; SHAPE's names for widths are not theirs. `generation` goes into the generation config.
OTHER_NAMES = dict.fromkeys(("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"))
T5 = {
    **OTHER_NAMES, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4,
    "eos_token_id": 1, "decoder_start_token_id": 0, "max_position_embeddings": None,
}
BART = {
    **OTHER_NAMES, "d_model": 64, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "pad_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 2, "tie_word_embeddings": False,
}
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
ENCODER_DECODERS: dict[str, dict[str, Any]] = {
    "t5": {**T5, "n_positions": 512},
    "flan_t5": {"model_type": "t5", **T5, **GATED, "n_positions": 512},
    "mt5": {**T5, **GATED},
    "bart": {**BART, "generation": {"forced_bos_token_id": 3, "forced_eos_token_id": 2, "no_repeat_ngram_size": 3}},
    "mbart": {**BART, "scale_embedding": True, "generation": {"forced_eos_token_id": 2}},
    "m2m_100": {**BART, "scale_embedding": True},
    "marian": {
        **BART, "pad_token_id": 511, "eos_token_id": 0, "decoder_start_token_id": 511, "scale_embedding": True,
        "generation": {"bad_words_ids": [[511]], "forced_eos_token_id": 0},
    },
    "pegasus": {
        **BART, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "scale_embedding": True,
        "generation": {"forced_eos_token_id": 1, "min_length": 8},
    },
    # Rotary positions, and windows smaller than most replies.
    "t5gemma": {
        "tie_word_embeddings": False,
        "encoder": {**SHAPE, **WINDOW, "query_pre_attn_scalar": 16},
        "decoder": {**SHAPE, **WINDOW, "query_pre_attn_scalar": 16, "is_decoder": True},
        "generation": {"decoder_start_token_id": 2, "eos_token_id": 1},
    },
}
# fmt: on
FAMILIES["gemma3"]["text_config"] = {**SHAPE, **FAMILIES["gemma3_text"]}


def known_families() -> list[str]:
    """Those that this release of transformers has."""
    return [name for name, fields in FAMILIES.items() if fields.get("model_type", name) in CONFIG_MAPPING]


def tiny_model(architecture: str, *, scale: float = 1.0, seed: int = 0, **config_overrides: Any) -> PreTrainedModel:
    """A model of this family in fp32, ready to generate.

    `scale` multiplies matrices and embeddings, not norms: at 6 to 8 greedy replies vary instead of repeating a token.
    """
    known = FAMILIES.get(architecture) or ENCODER_DECODERS.get(architecture, {})
    fields = {**SHAPE, **known, **config_overrides}
    model_type, generation = fields.pop("model_type", architecture), fields.pop("generation", {})
    config = AutoConfig.for_model(model_type, **{name: v for name, v in fields.items() if v is not None})
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model = kind.from_config(config, dtype=torch.float32).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
    model.generation_config.update(**generation)
    return model


def generated(model: PreTrainedModel, prompt: list[int], new: int, **options: Any) -> list[int]:
    """What the model says greedily to one prompt by itself; its attention must be eager."""
    inputs = torch.tensor([prompt])
    rope = getattr(model.config, "rope_parameters", None) or {}
    # Where a text grows beyond the switch of longrope, some releases forget all but its last id.
    cached = rope.get("rope_type") != "longrope"
    ids = model.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        do_sample=False,
        max_new_tokens=new,
        eos_token_id=None,
        pad_token_id=0,
        use_cache=cached,
        **options,
    )
    return [int(one) for one in ids[0, len(prompt) :]]


def save_tiny_model(folder: str | Path, architecture: str = "llama", **options: Any) -> Path:
    """Write `tiny_model` and a byte-level tokenizer, as a repository on the Hub has them."""
    tiny_model(architecture, **options).save_pretrained(folder)
    byte_level().save_pretrained(folder)
    return Path(folder)


def translated(model: PreTrainedModel, source: list[int], new: int, *, start: list[int], **options: Any) -> list[int]:
    """What an encoder-decoder model says greedily to one source by itself, after the first ids of the reply."""
    inputs = torch.tensor([source])
    ids = model.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        decoder_input_ids=torch.tensor([start]),
        do_sample=False,
        num_beams=1,
        max_new_tokens=new,
        **options,
    )
    return [int(one) for one in ids[0, len(start) :]]
