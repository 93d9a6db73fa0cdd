"""Twins of the models that people named: tiny and random, but built, stored and configured as theirs are on the Hub.

`config` is in the words of the model's own config.json, quirks included; sizes are ours. Templates are written here
after the ones that the models ship: they render the same for the conversations of the tests. Where a card or a template
was read in a copy only, `at_second_hand` says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from colab_llm_chat.text.transcript import JAPANESE
from tests.tokenizers_made_here import CORPUS, byte_fallback

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 512}
WIDE = {**TINY, "intermediate_size": 64}
SHARED = {**WIDE, "num_key_value_heads": 2}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "n_ctx": 512, "n_inner": 72}
# Each letter run with the space before it, digits by threes (Llama 3, GPT-4) or one by one (Qwen).
THREES = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SINGLES = THREES.replace("{1,3}", "")
WORDS = r"'s|'t| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
THINK = ("<think>", "</think>")


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """A model's prompts for one message, for three, and for one under a system prompt."""

    one: str
    three: str
    system: str


def chat(before: str, after: str, *, start: str = "", model: str = "assistant", system: str | None = None) -> Prompts:
    """Prompts of a form with a header and an end for each turn; without a place for it the system prompt is said."""

    def turn(role: str, text: str) -> str:
        return before.replace("ROLE", role) + text + after

    reply = before.replace("ROLE", model)
    said = f"{turn('system', '猫です。')}{turn('user', 'やあ')}" if system is None else turn("user", system)
    return Prompts(
        one=f"{start}{turn('user', 'やあ')}{reply}",
        three=f"{start}{turn('user', 'やあ')}{turn(model, 'どうも')}{turn('user', '元気？')}{reply}",
        system=f"{start}{said}{reply}",
    )


TRANSCRIPT = Prompts(
    one=f"{JAPANESE.system}\n\nユーザー: やあ\nアシスタント:",
    three=f"{JAPANESE.system}\n\nユーザー: やあ\nアシスタント: どうも\nユーザー: 元気？\nアシスタント:",
    system="猫です。\n\nユーザー: やあ\nアシスタント:",
)
TURNS = chat("<|im_start|>ROLE\n", "<|im_end|>\n")
GEMMA = chat("<start_of_turn>ROLE\n", "<end_of_turn>\n", start="<bos>", model="model", system="猫です。\n\nやあ")
ALTERNATE = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('user and assistant take turns') }}{% endif %}{% endfor %}"
)
CHATML_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN3_TEMPLATE = CHATML_TEMPLATE.replace(
    "{% endfor %}",
    "{% for c in m.tool_calls or [] %}<tool_call>\n{{ c.function | tojson }}\n</tool_call>{% endfor %}{% endfor %}",
).replace(
    "assistant\n' }}",
    "assistant\n' }}{% if enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}",
)
GEMMA_TURNS = (
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
    "{{ (said if loop.first else '') + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    f"{ALTERNATE}{{% set said = '' %}}{GEMMA_TURNS}"
)
SAID_FIRST = (
    "{% set said = '' %}{% if messages[0].role == 'system' %}{% set said = messages[0].content + '\n\n' %}"
    "{% set messages = messages[1:] %}{% endif %}"
)
GEMMA3_TEMPLATE = f"{{{{ bos_token }}}}{SAID_FIRST}{ALTERNATE}{GEMMA_TURNS}"
LLAMA3_TEMPLATE = (
    "{% for m in messages %}{{ (bos_token if loop.first else '') + '<|start_header_id|>' + m.role }}"
    "{{ '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
PHI4_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}"
)
MISTRAL_TEMPLATE = (
    f"{SAID_FIRST}{ALTERNATE}"
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + (said if loop.last else '') + m.content + '[/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
HARMONY_SYSTEM = (
    "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
    "Knowledge cutoff: 2024-06\nCurrent date: DATE\n\nReasoning: medium\n\n"
    "# Valid channels: analysis, commentary, final. Channel must be included for every message.<|end|>"
)
HARMONY_TEMPLATE = (
    "{{ '" + HARMONY_SYSTEM.replace("\n", "\\n").replace("DATE", "' + strftime_now('%Y-%m-%d') + '") + "' }}"
    "{% for m in messages %}{% if m.role == 'system' %}"
    "{{ '<|start|>developer<|message|># Instructions\n\n' + m.content + '\n\n<|end|>' }}"
    "{% elif m.role == 'user' %}{{ '<|start|>user<|message|>' + m.content + '<|end|>' }}"
    "{% else %}{{ '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
HARMONY = Prompts(
    one=f"{HARMONY_SYSTEM}<|start|>user<|message|>やあ<|end|><|start|>assistant",
    three=f"{HARMONY_SYSTEM}<|start|>user<|message|>やあ<|end|><|start|>assistant<|channel|>final<|message|>どうも<|end|>"
    "<|start|>user<|message|>元気？<|end|><|start|>assistant",
    system=f"{HARMONY_SYSTEM}<|start|>developer<|message|># Instructions\n\n猫です。\n\n<|end|>"
    "<|start|>user<|message|>やあ<|end|><|start|>assistant",
)


def byte_pairs(
    folder: Path, *, split: str = WORDS, specials: tuple[str, ...], front: bool = False, opening: str = "", **names: Any
) -> None:
    """Byte-level pairs: the special tokens in front of the vocabulary or behind it, `names` for transformers."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=split == THREES))
    tokenizer.normalizer = normalizers.NFC() if split == SINGLES else None
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    first = list(specials) if front else []
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=first, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in specials])
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in names.pop("added", ())])
    if opening:
        start = tokenizer.token_to_id(opening)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{opening} $A", special_tokens=[(opening, start)]
        )
    store(folder, PreTrainedTokenizerFast(tokenizer_object=tokenizer), **names)


def gemma_pairs(folder: Path) -> None:
    """SentencePiece pairs as Gemma's: no space before a text, pieces for newlines, its own order of special tokens."""
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    letters = sorted({letter for text in CORPUS for letter in text if letter not in " \n"})
    pieces = [*names, "\n", "▁", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, "▁t", "▁th", "です"]
    tokenizer = Tokenizer(
        models.BPE(
            {piece: at for at, piece in enumerate(pieces)},
            [("▁", "t"), ("▁t", "h"), ("で", "す")],
            unk_token="<unk>", fuse_unk=True, byte_fallback=True,
        )
    )  # fmt: skip
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
    store(folder, PreTrainedTokenizerFast(tokenizer_object=tokenizer), tokenizer_class="GemmaTokenizer", **special)


def llama_pairs(folder: Path, *, controls: tuple[str, ...] = (), **names: Any) -> None:
    """SentencePiece pairs as Llama 2's and, with tokens for the turns, Mistral's."""
    tokenizer = byte_fallback()
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in controls])
    store(folder, tokenizer, tokenizer_class="LlamaTokenizer", legacy=True, add_bos_token=True, **names)


def store(folder: Path, tokenizer: PreTrainedTokenizerFast, **names: Any) -> None:
    """tokenizer.json, and a tokenizer_config.json that names the class and the special tokens."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **names}))


def sentence_pieces(folder: Path, *, lower: bool, **training: Any) -> None:
    """A repository of rinna's: a SentencePiece file, and T5's slow class named for it."""
    names = ("<unk>", "<s>", "</s>", "[PAD]")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_prefix=str(folder / "spiece"), vocab_size=420, hard_vocab_limit=False,
        unk_id=0, bos_id=1, eos_id=2, pad_id=3, pad_piece="[PAD]", minloglevel=2, **training,
    )  # fmt: skip
    (folder / "spiece.vocab").unlink()
    keys = ("unk_token", "bos_token", "eos_token", "pad_token")
    options = {
        "tokenizer_class": "T5Tokenizer",
        "extra_ids": 0,
        "additional_special_tokens": [],
        "do_lower_case": lower,
    }
    special = dict(zip(keys, names, strict=True))
    (folder / "tokenizer_config.json").write_text(json.dumps({**options, "sp_model_kwargs": {}, **special}))


RINNAS = partial(
    sentence_pieces, lower=True, user_defined_symbols=["[CLS]", "[SEP]", "[MASK]"], normalization_rule_name="nmt_nfkc"
)
RINNAS_NEOX = partial(
    sentence_pieces, lower=False, byte_fallback=True, user_defined_symbols=["<NL>"],
    normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False,
)  # fmt: skip
OPEN_CALM = partial(
    byte_pairs, specials=("<|endoftext|>", "<|padding|>"), front=True, tokenizer_class="GPTNeoXTokenizer",
    bos_token="<|endoftext|>", eos_token="<|endoftext|>", pad_token="<|padding|>", unk_token="<|endoftext|>",
)  # fmt: skip
HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
LLAMA3 = partial(
    byte_pairs, split=THREES, specials=("<|begin_of_text|>", "<|end_of_text|>", *HEADERS), opening="<|begin_of_text|>",
    tokenizer_class="PreTrainedTokenizerFast", clean_up_tokenization_spaces=True, bos_token="<|begin_of_text|>",
)  # fmt: skip
PHI2 = partial(
    byte_pairs, specials=("<|endoftext|>",), added=("  ", "    ", "\t\t"), tokenizer_class="CodeGenTokenizer",
    bos_token="<|endoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>", add_prefix_space=False,
)  # fmt: skip
PHI4 = partial(
    byte_pairs, split=THREES, specials=("<|endoftext|>", "<|im_start|>", "<|im_sep|>", "<|im_end|>", "<|dummy_85|>"),
    tokenizer_class="GPT2Tokenizer", bos_token="<|endoftext|>", eos_token="<|im_end|>", pad_token="<|dummy_85|>",
)  # fmt: skip
QWEN3 = partial(
    byte_pairs, split=SINGLES, specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>"), added=THINK,
    tokenizer_class="Qwen2Tokenizer", eos_token="<|im_end|>", pad_token="<|endoftext|>", add_bos_token=False,
)  # fmt: skip
CHANNELS = ("<|return|>", "<|constrain|>", "<|channel|>", "<|start|>", "<|end|>", "<|message|>", "<|call|>")
GPT_OSS = partial(
    byte_pairs, split=THREES, specials=("<|startoftext|>", "<|endoftext|>", *CHANNELS), bos_token="<|startoftext|>",
    eos_token="<|return|>", pad_token="<|endoftext|>", tokenizer_class="PreTrainedTokenizerFast",
)  # fmt: skip
LFM2 = partial(
    byte_pairs, split=THREES, specials=("<|pad|>", "<|startoftext|>", "<|im_start|>", "<|im_end|>"), front=True,
    opening="<|startoftext|>", bos_token="<|startoftext|>", eos_token="<|im_end|>", pad_token="<|pad|>",
    tokenizer_class="PreTrainedTokenizerFast",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Twin:
    """A model's stand-in, and what must come of it.

    `prompts` None: those of tests/test_family_templates.py, where the card is named, too. `starts` is the token that
    begins its prompts, `ends` those that end a reply by the model's own files: config.json, and, where `generates`
    has any, generation_config.json. `reply` is one in the model's own marks, `told` the reasoning and answer of it.
    """

    model_id: str
    config: Mapping[str, Any]
    tokenizer: Callable[[Path], None]
    form: str
    card: str = ""
    at_second_hand: bool = False
    prompts: Prompts | None = None
    template: str | None = None
    starts: str | None = None
    ends: tuple[str, ...]
    generates: tuple[str, ...] = ()
    batched: bool = True
    pickled: bool = False
    reply: str = "はい。"
    told: tuple[str, str] = ("", "はい。")

    @property
    def name(self) -> str:
        return self.model_id.rpartition("/")[2]


OWN, BASE = "its own chat template", "a transcript"
# fmt: off
TWINS = (
    Twin(
        model_id="cyberagent/open-calm-7b",
        config={
            **WIDE, "model_type": "gpt_neox", "rotary_pct": 1.0, "use_parallel_residual": False, "hidden_act": "gelu",
        },
        tokenizer=OPEN_CALM,
        form=BASE,
        card="huggingface.co/cyberagent/open-calm-7b, Usage: no form, the text goes on",
        prompts=TRANSCRIPT,
        ends=("<|endoftext|>",),
        pickled=True,
    ),
    Twin(
        model_id="elyza/ELYZA-japanese-Llama-2-7b-instruct",
        config={**WIDE, "model_type": "llama", "num_key_value_heads": 4, "pretraining_tp": 1, "rope_scaling": None},
        tokenizer=llama_pairs,
        form="the form of the Llama 2 family",
        starts="<s>",
        ends=("</s>",),
        pickled=True,
    ),
    Twin(
        model_id="google/gemma-2-2b-jpn-it",
        config={
            **SHARED, "model_type": "gemma2", "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8,
            "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "cache_implementation": "hybrid",
            "hidden_activation": "gelu_pytorch_tanh", "pad_token_id": 0,
        },
        tokenizer=gemma_pairs,
        form=OWN,
        card="huggingface.co/google/gemma-2-2b-jpn-it, Chat Template; ai.google.dev/gemma/docs/formatting",
        at_second_hand=True,
        prompts=GEMMA,
        template=GEMMA_TEMPLATE,
        starts="<bos>",
        ends=("<eos>", "<end_of_turn>"),
    ),
    Twin(
        model_id="google/gemma-7b-it",
        config={**SHARED, "model_type": "gemma", "num_key_value_heads": 4, "head_dim": 16, "hidden_act": "gelu"},
        tokenizer=gemma_pairs,
        form=OWN,
        card="huggingface.co/google/gemma-7b-it, Chat Template",
        at_second_hand=True,
        prompts=GEMMA,
        template=GEMMA_TEMPLATE,
        starts="<bos>",
        ends=("<eos>",),
    ),
    Twin(
        model_id="google/gemma-3-1b-it",
        config={
            **SHARED, "model_type": "gemma3_text", "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8,
            "sliding_window_pattern": 2, "rope_theta": 1e6, "rope_local_base_freq": 10_000.0, "rope_scaling": None,
            "cache_implementation": "hybrid",
        },
        tokenizer=gemma_pairs,
        form=OWN,
        card="ai.google.dev/gemma/docs/core/prompt-structure, which huggingface.co/google/gemma-3-1b-it follows",
        at_second_hand=True,
        prompts=GEMMA,
        template=GEMMA3_TEMPLATE,
        starts="<bos>",
        ends=("<eos>", "<end_of_turn>"),
    ),
    Twin(
        model_id="google/gemma-3-4b-it",
        config={
            "model_type": "gemma3", "mm_tokens_per_image": 4, "image_token_index": 0, "boi_token_index": 0,
            "eoi_token_index": 0,
            "text_config": {
                **SHARED, "model_type": "gemma3_text", "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8,
                "sliding_window_pattern": 2, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            },
            "vision_config": {
                "model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 16, "image_size": 32,
                "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 16, "vision_use_head": False,
            },
        },
        tokenizer=gemma_pairs,
        form=OWN,
        card="ai.google.dev/gemma/docs/core/prompt-structure, which huggingface.co/google/gemma-3-4b-it follows",
        at_second_hand=True,
        prompts=GEMMA,
        template=GEMMA3_TEMPLATE,
        starts="<bos>",
        ends=("<eos>", "<end_of_turn>"),
    ),
    Twin(
        model_id="meta-llama/Meta-Llama-3-8B-Instruct",
        config={**SHARED, "model_type": "llama", "rope_theta": 500_000.0, "rope_scaling": None, "pretraining_tp": 1},
        tokenizer=partial(LLAMA3, eos_token="<|end_of_text|>"),
        form=OWN,
        card="llama.com/docs/model-cards-and-prompt-formats/meta-llama-3, named by the model's card",
        at_second_hand=True,
        prompts=chat("<|start_header_id|>ROLE<|end_header_id|>\n\n", "<|eot_id|>", start="<|begin_of_text|>"),
        template=LLAMA3_TEMPLATE,
        starts="<|begin_of_text|>",
        ends=("<|end_of_text|>",),
        generates=("<|end_of_text|>", "<|eot_id|>"),
    ),
    Twin(
        model_id="meta-llama/Llama-3.2-1B-Instruct",
        config={
            **SHARED, "model_type": "llama", "head_dim": 8, "rope_theta": 500_000.0, "tie_word_embeddings": True,
            "rope_scaling": {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64, "rope_type": "llama3"},
        },
        tokenizer=partial(LLAMA3, eos_token="<|eot_id|>"),
        form=OWN,
        card="llama.com/docs/model-cards-and-prompt-formats/llama3_1: the form is Llama 3's",
        at_second_hand=True,
        prompts=chat("<|start_header_id|>ROLE<|end_header_id|>\n\n", "<|eot_id|>", start="<|begin_of_text|>"),
        template=LLAMA3_TEMPLATE,
        starts="<|begin_of_text|>",
        ends=("<|end_of_text|>", "<|eot_id|>"),
    ),
    Twin(
        model_id="rinna/llama-3-youko-8b",
        config={**SHARED, "model_type": "llama", "rope_theta": 500_000.0, "rope_scaling": None},
        tokenizer=partial(LLAMA3, eos_token="<|end_of_text|>"),
        form=BASE,
        card="huggingface.co/rinna/llama-3-youko-8b, How to use the model: no form, the text goes on",
        at_second_hand=True,
        prompts=TRANSCRIPT,
        starts="<|begin_of_text|>",
        ends=("<|end_of_text|>",),
    ),
    Twin(
        model_id="microsoft/phi-2",
        config={
            **WIDE, "hidden_size": 40, "model_type": "phi", "num_key_value_heads": 4, "partial_rotary_factor": 0.4,
            "rope_theta": 10_000.0, "rope_scaling": None, "qk_layernorm": False, "hidden_act": "gelu_new",
        },
        tokenizer=PHI2,
        form="the form of the phi-2 family",
        ends=("<|endoftext|>",),
    ),
    Twin(
        model_id="microsoft/phi-4",
        config={
            **SHARED, "model_type": "phi3", "rope_theta": 250_000, "rope_scaling": None, "sliding_window": None,
            "partial_rotary_factor": 1.0, "original_max_position_embeddings": 512, "pad_token_id": 1,
        },
        tokenizer=PHI4,
        form=OWN,
        card="huggingface.co/microsoft/phi-4, Input Formats; its tokenizer_config.json has no line breaks there",
        prompts=chat("<|im_start|>ROLE<|im_sep|>", "<|im_end|>"),
        template=PHI4_TEMPLATE,
        ends=("<|im_end|>",),
    ),
    Twin(
        model_id="rinna/youri-7b-chat",
        config={**WIDE, "model_type": "llama", "num_key_value_heads": 4, "pretraining_tp": 1, "rope_scaling": None},
        tokenizer=llama_pairs,
        form="the form of the youri-chat family",
        ends=("</s>",),
    ),
    Twin(
        model_id="rinna/japanese-gpt2-xsmall",
        config={**GPT2, "model_type": "gpt2", "activation_function": "gelu_new", "scale_attn_weights": True},
        tokenizer=RINNAS,
        form=BASE,
        card="huggingface.co/rinna/japanese-gpt2-xsmall, How to use the model: `do_lower_case = True`; no form",
        at_second_hand=True,
        prompts=TRANSCRIPT,
        ends=("</s>",),
        pickled=True,
    ),
    Twin(
        model_id="rinna/japanese-gpt2-small",
        config={**GPT2, "model_type": "gpt2", "n_inner": None, "gradient_checkpointing": False},
        tokenizer=RINNAS,
        form=BASE,
        card="huggingface.co/rinna/japanese-gpt2-small, How to use the model: `do_lower_case = True`; no form",
        prompts=TRANSCRIPT,
        ends=("</s>",),
        pickled=True,
    ),
    Twin(
        model_id="rinna/japanese-gpt-neox-3.6b",
        config={**WIDE, "model_type": "gpt_neox", "rotary_pct": 1.0, "use_parallel_residual": False},
        tokenizer=RINNAS_NEOX,
        form=BASE,
        card="huggingface.co/rinna/japanese-gpt-neox-3.6b, How to use the model: no form, the text goes on",
        at_second_hand=True,
        prompts=TRANSCRIPT,
        ends=("</s>",),
        pickled=True,
    ),
    Twin(
        model_id="rinna/japanese-gpt-neox-3.6b-instruction-ppo",
        config={**WIDE, "model_type": "gpt_neox", "rotary_pct": 1.0, "use_parallel_residual": False},
        tokenizer=RINNAS_NEOX,
        form="the form of the rinna GPT-NeoX family",
        ends=("</s>",),
        pickled=True,
        reply="はい。<NL>いいえ。",
        told=("", "はい。\nいいえ。"),
    ),
    Twin(
        model_id="Qwen/Qwen3-8B",
        config={
            **SHARED, "model_type": "qwen3", "head_dim": 16, "attention_bias": False, "rope_theta": 1_000_000,
            "max_window_layers": 2, "sliding_window": None, "use_sliding_window": False,
        },
        tokenizer=QWEN3,
        form=OWN,
        card="huggingface.co/Qwen/Qwen3-8B, Quickstart; qwen.readthedocs.io, Key Concepts: ChatML, thinking in <think>",
        at_second_hand=True,
        prompts=TURNS,
        template=QWEN3_TEMPLATE,
        ends=("<|im_end|>",),
        generates=("<|im_end|>", "<|endoftext|>"),
        reply="<think>\n猫。\n</think>\n\nはい。",
        told=("猫。", "はい。"),
    ),
    Twin(
        model_id="openai/gpt-oss-20b",
        config={
            **SHARED, "model_type": "gpt_oss", "intermediate_size": 32, "head_dim": 16, "num_local_experts": 4,
            "num_experts_per_tok": 2, "experts_per_token": 2, "attention_bias": True, "sliding_window": 8,
            "swiglu_limit": 7.0, "initial_context_length": 64, "layer_types": ["sliding_attention", "full_attention"],
            "rope_theta": 150_000, "rope_scaling": {"rope_type": "yarn", "factor": 8.0, "beta_fast": 32.0, "beta_slow":
            1.0, "truncate": False, "original_max_position_embeddings": 64},
        },
        tokenizer=GPT_OSS,
        form=OWN,
        card="github.com/openai/harmony, docs/format.md, which huggingface.co/openai/gpt-oss-20b names",
        at_second_hand=True,
        prompts=HARMONY,
        template=HARMONY_TEMPLATE,
        ends=("<|return|>",),
        generates=("<|return|>", "<|endoftext|>", "<|call|>"),
        reply="<|channel|>analysis<|message|>猫。<|end|><|start|>assistant<|channel|>final<|message|>はい。",
        told=("猫。", "はい。"),
    ),
    Twin(
        model_id="LiquidAI/LFM2-1.2B",
        config={
            **SHARED, "model_type": "lfm2", "num_hidden_layers": 3, "full_attn_idxs": [1], "conv_L_cache": 3,
            "conv_bias": False, "block_auto_adjust_ff_dim": True, "block_dim": 32, "block_ff_dim": 96,
            "block_ffn_dim_multiplier": 1.0, "block_multiple_of": 16, "rope_theta": 1_000_000.0, "tie_embedding": True,
        },
        tokenizer=LFM2,
        form=OWN,
        card="huggingface.co/LiquidAI/LFM2-1.2B, Chat template",
        at_second_hand=True,
        prompts=chat("<|im_start|>ROLE\n", "<|im_end|>\n", start="<|startoftext|>"),
        template="{{ bos_token }}" + CHATML_TEMPLATE,
        starts="<|startoftext|>",
        ends=("<|im_end|>",),
        batched=False,
    ),
    Twin(
        model_id="mistralai/Mistral-7B-Instruct-v0.3",
        config={**SHARED, "model_type": "mistral", "sliding_window": None, "rope_theta": 1_000_000.0},
        tokenizer=partial(llama_pairs, controls=("[INST]", "[/INST]")),
        form=OWN,
        card="docs.mistral.ai, cookbook/concept-deep-dive-tokenization-chat_templates, Tokenizer V3",
        prompts=Prompts(
            one="<s>[INST] やあ[/INST]",
            three="<s>[INST] やあ[/INST] どうも</s>[INST] 元気？[/INST]",
            system="<s>[INST] 猫です。\n\nやあ[/INST]",
        ),
        template=MISTRAL_TEMPLATE,
        starts="<s>",
        ends=("</s>",),
    ),
)
# fmt: on


def build(twin: Twin, folder: Path) -> Path:
    """The twin's files, as in a repository on the Hub; returns the folder, which has the model's name."""
    folder = folder / twin.name
    folder.mkdir(parents=True)
    twin.tokenizer(folder)
    if twin.template is not None:
        (folder / "chat_template.jinja").write_text(twin.template, encoding="utf-8")
    ids = _ids(folder)
    words = {"vocab_size": -(-len(ids) // 64) * 64}
    config = {**twin.config, "torch_dtype": "float32", **words}
    if "text_config" in config:
        config["text_config"] = {**config["text_config"], **words}
    ends = [ids[name] for name in twin.ends]
    config |= {"eos_token_id": ends if len(ends) > 1 else ends[0], "bos_token_id": ids.get(twin.starts or "", 0)}
    (folder / "config.json").write_text(json.dumps(config))
    _save_weights(twin, folder)
    # Saving has put the config into the words of this release of transformers.
    architecture = json.loads((folder / "config.json").read_text())["architectures"]
    (folder / "config.json").write_text(json.dumps({**config, "architectures": architecture}))
    (folder / "generation_config.json").unlink(missing_ok=True)
    if twin.generates:
        generation = {"eos_token_id": [ids[name] for name in twin.generates], "do_sample": True}
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def _ids(folder: Path) -> dict[str, int]:
    if (folder / "spiece.model").exists():
        own = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
        return {own.id_to_piece(at): at for at in range(own.piece_size())}
    return dict(Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab(with_added_tokens=True))


def _save_weights(twin: Twin, folder: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    model.save_pretrained(folder)
    if twin.pickled:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
