"""The encoder-decoder models that people named, by tiny twins: loaded from a folder, given a text, run, and streamed.

What translation models refuse and say of languages is in test_translation.py; here each is as its card shows it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from benchmarks.models import BARE, LANGUAGES, MODELS, PREFIX
from colab_llm_chat.engine.loop import Engine
from colab_llm_chat.engine.runner import Runner
from colab_llm_chat.engine.sequence import Sequence
from colab_llm_chat.models.choose import choose_runner
from colab_llm_chat.models.load import load_model, load_tokenizer
from colab_llm_chat.models.runners.encoder_decoder import EncoderDecoderRunner
from colab_llm_chat.models.seq2seq import seq2seq_of
from colab_llm_chat.protocol.messages import ChatRequest, Message
from colab_llm_chat.settings import Settings
from colab_llm_chat.text.prompts import Prompt
from colab_llm_chat.text.sources import SourceEncoder
from colab_llm_chat.text.stream import TextStream
from tests import source_tokenizers
from tests.test_engine import greedy, run

NEW = 24
T5 = {
    "model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "n_positions": 512,
    "relative_attention_num_buckets": 32, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
    "task_specific_params": source_tokenizers.T5_TASKS, "output_past": True,
}  # fmt: skip
M2M = {
    "model_type": "m2m_100", "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_hidden_layers": 2,
    "scale_embedding": True, "max_position_embeddings": 1024, "max_length": 200, "tokenizer_class": "NllbTokenizer",
    "decoder_start_token_id": 2, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
TO_JAPANESE = {"source_language": "eng_Latn", "target_language": "jpn_Jpan"}
TO_GERMAN = {"source_language": "eng_Latn", "target_language": "deu_Latn"}


@dataclass(frozen=True, kw_only=True)
class Twin:
    """`config` in the words of the model's own. `source` is what a text becomes with these `codes`, `around` the
    pieces before and after it, `begins` those that the reply begins with.
    """

    model_id: str
    config: Mapping[str, Any]
    tokenizer: Callable[[Path], None]
    template: str
    card: str
    codes: Mapping[str, str]
    source: str
    around: tuple[list[str], list[str]]
    begins: list[str]
    pickled: bool = False


TWINS = (
    Twin(
        model_id="facebook/nllb-200-distilled-600M",
        config=M2M,
        tokenizer=source_tokenizers.nllb,
        template=LANGUAGES,
        card="huggingface.co/docs/transformers/model_doc/nllb, which the model's card names: language, text, </s>",
        codes=TO_JAPANESE,
        source="The quick fox.",
        around=(["eng_Latn"], ["</s>"]),
        begins=["</s>", "jpn_Jpan"],
        pickled=True,
    ),
    Twin(
        model_id="google-t5/t5-small",
        config=T5,
        tokenizer=source_tokenizers.t5,
        template=PREFIX,
        card="huggingface.co/docs/transformers/model_doc/t5, which the model's card names: translate English to …",
        codes=TO_GERMAN,
        source="translate English to German: The quick fox.",
        around=([], ["</s>"]),
        begins=["<pad>"],
    ),
    Twin(
        model_id="google/flan-t5-base",
        config={**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        tokenizer=source_tokenizers.t5,
        template=BARE,
        card="huggingface.co/google/flan-t5-base, Usage: translate English to German: How old are you?",
        codes=TO_GERMAN,
        source="translate English to German: The quick fox.",
        around=([], ["</s>"]),
        begins=["<pad>"],
    ),
)


def build(twin: Twin, root: Path) -> Path:
    """The twin's files, as in a repository on the Hub."""
    folder = root / twin.model_id.rpartition("/")[2]
    folder.mkdir(parents=True)
    twin.tokenizer(folder)
    size = len(load_tokenizer(folder))
    config = {**twin.config, "vocab_size": -(-size // 64) * 64, "is_encoder_decoder": True, "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSeq2SeqLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [type(model).__name__]}))
    if twin.pickled:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


@dataclass(frozen=True)
class Loaded:
    """A twin with what the product made of its folder."""

    twin: Twin
    runner: Runner
    tokenizer: Any
    encoder: SourceEncoder

    def prompt(self, text: str = "The quick fox.", **codes: str) -> Prompt:
        asked = ChatRequest(messages=(Message("user", text),), sampling=greedy(NEW), **codes)
        return self.encoder.encode(asked, context_length=512)


@pytest.fixture(scope="module", params=TWINS, ids=lambda twin: twin.model_id.rpartition("/")[2])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = build(request.param, tmp_path_factory.mktemp("twins"))
    loaded = load_model(folder, settings=Settings(model_id=str(folder)))
    form, facts = seq2seq_of(str(folder), folder), loaded.facts.to_dict()
    assert form is not None
    tokenizer = load_tokenizer(folder)
    encoder = SourceEncoder(tokenizer, form, facts=lambda: facts)
    return Loaded(request.param, choose_runner(loaded.model, context_length=512), tokenizer, encoder)


def test_its_source_is_that_of_its_card(model: Loaded) -> None:
    prompt = model.prompt(**model.twin.codes)
    before, after = model.twin.around
    pieces = model.tokenizer.convert_ids_to_tokens(list(prompt.source_ids))
    # The tokens around a text are shown where they tell its language.
    shown = "".join([*before, model.twin.source, *after]) if before else model.twin.source
    assert prompt.text == shown
    assert (pieces[: len(before)], pieces[len(pieces) - len(after) :]) == (before, after)
    assert list(prompt.source_ids[len(before) : -len(after)]) == model.tokenizer.encode(
        model.twin.source, add_special_tokens=False
    )
    assert model.tokenizer.convert_ids_to_tokens(list(prompt.prompt_ids)) == model.twin.begins


def test_its_reply_runs_beside_others_and_is_streamed_as_it_decodes(model: Loaded) -> None:
    assert isinstance(model.runner, EncoderDecoderRunner)
    prompt, other = model.prompt(**model.twin.codes), model.prompt("Hello, world!", **model.twin.codes)
    asked = [
        Sequence(at, list(one.prompt_ids), greedy(NEW), source_ids=list(one.source_ids))
        for at, one in enumerate((prompt, other))
    ]
    ids = run(Engine(model.runner, max_rows=2, context_length=512), asked)[0]
    assert isinstance(ids, list)
    stream = TextStream(model.tokenizer)
    pieces = [stream.feed([token_id]) for token_id in ids]
    assert "".join(pieces) + stream.flush() == model.tokenizer.decode(ids, skip_special_tokens=True)
    assert len(ids) == NEW


def test_a_written_reply_is_shown_word_by_word(model: Loaded) -> None:
    ids = model.tokenizer.encode("The quick fox.", add_special_tokens=False)
    stream = TextStream(model.tokenizer, strip_leading=True)
    pieces = [stream.feed([token_id]) for token_id in ids]
    assert ("".join(pieces), stream.flush()) == ("The quick fox.", "")
    assert len([piece for piece in pieces if piece]) > 2


def test_every_row_of_the_readmes_table_that_is_no_chat_has_a_twin() -> None:
    rows = {model.model_id: model.template for model in MODELS if model.task != "chat"}
    assert rows == {twin.model_id: twin.template for twin in TWINS}


def test_its_task_is_that_of_the_readmes_table(model: Loaded) -> None:
    assert {row.model_id: row.task for row in MODELS}[model.twin.model_id] == model.encoder.task
