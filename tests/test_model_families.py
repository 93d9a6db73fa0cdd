"""Each model that people named, by a twin of it: loaded from a folder, asked as its card says, run, and streamed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from benchmarks.models import MODELS, OWN, TRANSCRIPT
from colab_llm_chat.chat import Chat
from colab_llm_chat.engine.loop import Engine
from colab_llm_chat.engine.reports import Progress
from colab_llm_chat.engine.runner import Runner
from colab_llm_chat.engine.sequence import Sequence
from colab_llm_chat.models.choose import choose_runner
from colab_llm_chat.models.facts import ModelFacts
from colab_llm_chat.models.load import load_model, load_tokenizer
from colab_llm_chat.models.runners.flat import FlatRunner
from colab_llm_chat.models.runners.sequential import SequentialRunner
from colab_llm_chat.protocol.messages import Delta
from colab_llm_chat.settings import Settings, TokenRules
from colab_llm_chat.text.deltas import ReplyText
from colab_llm_chat.text.prompts import PromptEncoder
from colab_llm_chat.text.stream import TextStream
from tests.model_twins import RINNAS, TWINS, Prompts, Twin, build
from tests.test_engine import greedy, run
from tests.test_family_templates import CASES, ONE, SYSTEM, THREE, encoder_of, request

NEW = 24
BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")
DATE = re.compile(r"\d{4}-\d\d-\d\d")
DOCUMENTED = {case.model_id: Prompts(one=case.one, three=case.three, system=case.system) for case in CASES}


@dataclass(frozen=True)
class Loaded:
    """A twin with what the product made of its folder."""

    twin: Twin
    folder: Path
    facts: ModelFacts
    runner: Runner
    tokenizer: Any
    encoder: PromptEncoder

    @property
    def end_ids(self) -> frozenset[int]:
        """As the pipeline puts them together."""
        return frozenset({*self.facts.eos_token_ids, self.tokenizer.eos_token_id, *self.encoder.end_ids} - {None})

    def text(self, *turns: str) -> str:
        """The rendered prompt, without today's date."""
        return DATE.sub("DATE", self.encoder.encode(request(*turns), context_length=4096).text)

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def own_reply(self) -> list[int]:
        """What the model says greedily to the first conversation, without an end.

        Pieces of one byte are out: decoders of that kind take a whole run of them for broken if one of them is.
        """
        prompt = self.encoder.encode(request(*ONE), context_length=512)
        engine = Engine(self.runner, max_rows=2, context_length=512)
        bytewise = [at for piece, at in self.tokenizer.get_vocab().items() if BYTE_PIECE.fullmatch(piece)]
        rules = TokenRules(logit_bias=dict.fromkeys(bytewise, -100.0))
        ids = run(engine, [Sequence(0, list(prompt.prompt_ids), greedy(NEW), rules=rules)])[0]
        assert isinstance(ids, list)
        return ids

    def shown(self, ids: list[int]) -> tuple[list[Delta], int]:
        """The deltas of a reply whose ids come one by one, up to an end; and how many ids it took."""
        asked = request(*ONE)
        prompt = self.encoder.encode(asked, context_length=512)
        reply = ReplyText(self.tokenizer, prompt, self.encoder.parser(asked, prompt))
        ended = next((at for at, one in enumerate(ids) if one in self.end_ids), len(ids))
        deltas = [reply.feed(Progress(token_ids=(one,))) for one in ids[:ended]]
        return [*deltas, reply.flush()], ended


def loaded(twin: Twin, root: Path) -> Loaded:
    """By the product's own steps, from a folder to a runner; no process is started."""
    folder = build(twin, root)
    model = load_model(folder, settings=Settings(model_id=str(folder)))
    tokenizer = load_tokenizer(folder)
    encoder = encoder_of(tokenizer, str(folder), folder)
    runner = choose_runner(model.model, context_length=model.facts.context_length)
    return Loaded(twin, folder, model.facts, runner, tokenizer, encoder)


@pytest.fixture(scope="module", params=TWINS, ids=lambda twin: twin.name)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return loaded(request.param, tmp_path_factory.mktemp("twins"))


def test_it_is_asked_in_the_form_of_its_card(model: Loaded) -> None:
    assert model.encoder.form == model.twin.form
    wanted = model.twin.prompts or DOCUMENTED[model.twin.model_id]
    assert (model.text(*ONE), model.text(*THREE), model.text(*SYSTEM)) == (wanted.one, wanted.three, wanted.system)


def test_its_prompts_begin_once_with_what_the_tokenizer_puts_in_front(model: Loaded) -> None:
    ids = model.encoder.encode(request(*THREE), context_length=512).prompt_ids
    pieces = model.tokenizer.convert_ids_to_tokens(ids)
    # Llama 2's form itself opens each of its turns anew.
    times = 0 if model.twin.starts is None else 2 if "Llama 2" in model.twin.form else 1
    assert pieces.count(model.twin.starts) == times
    assert model.twin.starts in (None, pieces[0])


def test_it_is_run_as_the_table_says_and_ends_where_its_files_say(model: Loaded) -> None:
    assert isinstance(model.runner, FlatRunner if model.twin.batched else SequentialRunner)
    ends = {*model.twin.ends, *model.twin.generates}
    if "<end_of_turn>" in (model.twin.template or ""):
        # The files of the first Gemma say no more than that a text ends.
        ends.add("<end_of_turn>")
    assert ends <= set(model.tokenizer.convert_ids_to_tokens(sorted(model.end_ids)))


def test_its_own_reply_is_streamed_as_it_decodes(model: Loaded) -> None:
    ids = model.own_reply()
    stream = TextStream(model.tokenizer)
    pieces = [stream.feed([one]) for one in ids]
    assert "".join(pieces) + stream.flush() == model.tokenizer.decode(ids, skip_special_tokens=True)


def test_a_reply_in_its_own_marks_is_parted_and_ends(model: Loaded) -> None:
    end = model.tokenizer.convert_tokens_to_ids((model.twin.generates or model.twin.ends)[-1])
    ids = [*model.ids(model.twin.reply), end, *model.ids("いいえ。")]
    deltas, ended = model.shown(ids)
    told = "".join(delta.reasoning for delta in deltas), "".join(delta.text for delta in deltas)
    assert (told, ids[ended]) == (model.twin.told, end)


@pytest.mark.parametrize("twin", [twin for twin in TWINS if "japanese-gpt" in twin.name], ids=lambda twin: twin.name)
def test_rinnas_files_of_pieces_give_the_ids_of_their_own_program(twin: Twin, tmp_path: Path) -> None:
    folder = build(twin, tmp_path)
    tokenizer = load_tokenizer(folder)
    encoder = encoder_of(tokenizer, str(folder), folder)
    own = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    prompt = encoder.encode(request("u: The Quick Brown ＦＯＸ です"), context_length=512)
    seen = "".join(map(str.lower, prompt.text)) if twin.tokenizer is RINNAS else prompt.text
    assert list(prompt.prompt_ids) == own.encode(seen)
    assert "The Quick Brown" in prompt.text


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chat]:
    folder = build(next(twin for twin in TWINS if twin.tokenizer is RINNAS), tmp_path_factory.mktemp("served"))
    with contextlib.closing(Chat(Settings(model_id=str(folder))).start()) as chat:
        yield chat


def test_a_model_of_lower_case_answers_in_the_whole_program_as_if_asked_in_lower_case(chat: Chat) -> None:
    asked = [
        replace(request(f"u: {text}"), sampling=greedy(8)) for text in ("HELLO, are YOU here?", "hello, are you here?")
    ]
    replies = [[*chat.stream(one)] for one in asked]
    texts = ["".join(delta.text for delta in deltas) for deltas in replies]
    assert texts[0] == texts[1] != ""
    assert chat.tokenize(asked[0]).prompt_ids == chat.tokenize(asked[1]).prompt_ids


def test_every_row_of_the_readmes_table_has_a_twin_that_is_asked_as_it_says() -> None:
    forms = {OWN: "its own chat template", TRANSCRIPT: "a transcript"}
    said = {
        model.model_id: forms.get(model.template, f"the form of the {model.template} family")
        for model in MODELS
        if model.task == "chat"
    }
    assert said == {twin.model_id: twin.form for twin in TWINS}
    assert sorted({model.least_gpu for model in MODELS}) == ["L4", "T4"]


def test_every_twin_names_a_card() -> None:
    assert [twin.name for twin in TWINS if not twin.card and twin.model_id not in DOCUMENTED] == []
