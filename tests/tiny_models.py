"""Tiny real models of each family with random weights, and folders that hold one with its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

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
GROUPED = {"num_key_value_heads": 2, "head_dim": 16}
# What each family adds to or takes from SHAPE; None takes a field away.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    # Tied embeddings, scaled, repeat the last token for ever; Gemma 2 keeps the tied case.
    "gpt2": {"intermediate_size": None, "n_inner": 128, "tie_word_embeddings": False},
    "gpt_neox": {},
    "gemma2": {
        **GROUPED,
        "num_hidden_layers": 4,
        "sliding_window": 8,
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    "qwen3": GROUPED,
    "phi": {"num_key_value_heads": 2},
}


def tiny_model(architecture: str, *, scale: float = 1.0, seed: int = 0, **config_overrides: Any) -> PreTrainedModel:
    """A model of this `model_type` in fp32, ready to generate.

    `scale` multiplies matrices and embeddings, not norms: at 6 to 8 greedy replies vary instead of repeating a token.
    """
    fields = {**SHAPE, **FAMILIES.get(architecture, {}), **config_overrides}
    config = AutoConfig.for_model(architecture, **{name: v for name, v in fields.items() if v is not None})
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
    return model


def save_tiny_model(folder: str | Path, architecture: str = "llama", **options: Any) -> Path:
    """Write `tiny_model` and a byte-level tokenizer, as a repository on the Hub has them."""
    tiny_model(architecture, **options).save_pretrained(folder)
    byte_level().save_pretrained(folder)
    return Path(folder)
