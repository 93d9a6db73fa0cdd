"""Models with random weights, made on the spot, and the folder that every peer loads.

Every id has a text of ASCII characters that shows, and text becomes the same ids again. Knows no peer.
"""

from __future__ import annotations

import json
import string
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# What is drawn where a request asks for a temperature; nothing ends a reply but its length.
GENERATION: dict[str, Any] = {
    "do_sample": True,
    "temperature": 0.8,
    "top_p": 0.9,
    "top_k": 0,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
ROLES = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
SINGLE = [chr(code) for code in range(ord(" "), 127)] + ["\n"]
# A word begins with a space, as in real vocabularies, so that streamers which hold back half words show it. The
# pieces have no character in common: whatever stands beside a word, it is read as itself again.
BEGIN = [("Ġ", letter) for letter in "ABCDEFGHIJKLM"]
PAIR = list(product("NOPQRSTUVWXYZ", string.ascii_lowercase))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A Llama: `feed` is the width between the layers, `heads` those of queries and of keys."""

    vocabulary: int
    hidden: int
    feed: int
    layers: int
    heads: tuple[int, int]
    positions: int = 8192
    theta: float = 10_000.0


SHAPES = {
    "125m": Shape(vocabulary=26_000, hidden=768, feed=2048, layers=12, heads=(12, 12)),
    "8b": Shape(vocabulary=128_256, hidden=4096, feed=14_336, layers=32, heads=(32, 8), theta=500_000.0),
    "tiny": Shape(vocabulary=1_024, hidden=64, feed=128, layers=2, heads=(4, 2), positions=2048),
}


def merges() -> Iterator[tuple[str, str]]:
    """Two pieces that become a word, in byte-level BPE's letters, the first merged first."""
    begins, pairs = ["".join(one) for one in BEGIN], ["".join(one) for one in PAIR]
    yield from chain(BEGIN, PAIR, product(begins, pairs))
    yield from ((begin + pair, last) for begin, pair, last in product(begins, pairs, pairs))


def vocabulary(size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """So many words with their ids, as byte-level BPE writes them, and the merges that make them."""
    made = list(islice(merges(), size - len(SINGLE)))
    words = [{" ": "Ġ", "\n": "Ċ"}.get(one, one) for one in SINGLE] + [first + second for first, second in made]
    return {word: at for at, word in enumerate(words)}, made


def make_tokenizer(size: int) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words, made = vocabulary(size)
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=made))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)
    wrapped.chat_template = ROLES
    return wrapped


def make_model(folder: Path, shape: Shape, *, device: str) -> None:
    """Write a model: fp32 on the CPU, bf16 where it is made on a GPU."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig

    make_tokenizer(shape.vocabulary).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.feed,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads[0],
        num_key_value_heads=shape.heads[1],
        max_position_embeddings=shape.positions,
        rope_parameters={"rope_type": "default", "rope_theta": shape.theta},
        bos_token_id=None,
        eos_token_id=None,
        # Tied and random, a model repeats its last word for ever.
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    with torch.device(device):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.generation_config = GenerationConfig(**GENERATION)
    model.save_pretrained(folder)


def endless(source: Path, folder: Path) -> None:
    """The same model in another folder, by links, but for what would end a reply by itself."""
    for path in source.iterdir():
        (folder / path.name).symlink_to(path.resolve())
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config["eos_token_id"] = None
    if isinstance(config.get("text_config"), dict):
        config["text_config"]["eos_token_id"] = None
    for name, content in (("config.json", config), ("generation_config.json", GENERATION)):
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


def read_bytes(folder: Path) -> int:
    """Bytes of weights that one token's forward reads: all but a table of embeddings, of which it is one row."""
    total = 0
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tied = config.get("tie_word_embeddings", True)
    for path in folder.glob("*.safetensors"):
        for name, tensor in _header(path).items():
            if name != "__metadata__" and (tied or "embed" not in name):
                begin, end = tensor["data_offsets"]
                total += end - begin
    return total


def _header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return header


def main() -> None:
    """`python -m colab_llm_chat.cli.bench.models FOLDER SHAPE DEVICE`: a process of its own frees what it took."""
    folder, name, device = sys.argv[1:]
    make_model(Path(folder), SHAPES[name], device=device)


if __name__ == "__main__":
    main()
