"""A model made here as a GGUF file, for peers that read no other. Knows Llama's layout only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# Names of a Llama's tensors in its folder, and in the file.
TENSORS = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(folder: Path, path: Path) -> None:
    """The weights and the vocabulary of a folder that `make_model` wrote."""
    import gguf

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(path, "llama", use_temp_file=False)
    _add_shape(writer, config)
    _add_vocabulary(writer, folder)
    _add_tensors(writer, folder, config)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_shape(writer: Any, config: dict[str, Any]) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_vocab_size(config["vocab_size"])


def _add_vocabulary(writer: Any, folder: Path) -> None:
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    words = sorted(model["vocab"], key=model["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words)
    writer.add_token_types([1] * len(words))
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]])
    writer.add_add_bos_token(False)
    # The format knows no vocabulary without one, so the last word ends a reply here.
    writer.add_eos_token_id(len(words) - 1)
    writer.add_chat_template((folder / "chat_template.jinja").read_text(encoding="utf-8"))


def _add_tensors(writer: Any, folder: Path, config: dict[str, Any]) -> None:
    import torch
    from safetensors import safe_open

    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dict
                tensor = file.get_tensor(name)
                if (kind := name.split(".")[-2]) in heads:
                    tensor = _interleaved(tensor, heads[kind])
                wide = tensor.dim() == 1 or tensor.dtype == torch.float32
                # numpy has no bfloat16; 16 bits are kept as fp16, which random weights fit.
                writer.add_tensor(_renamed(name), (tensor.float() if wide else tensor.half()).contiguous().numpy())


def _interleaved(weight: Any, heads: int) -> Any:
    """Rows of each head in the order of llama.cpp's rotary embedding: pairs side by side, not halves."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _renamed(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem in TENSORS:
        return f"{TENSORS[stem]}.weight"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{TENSORS[part]}.weight"
