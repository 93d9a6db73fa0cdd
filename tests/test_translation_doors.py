"""A tiny NLLB behind every door, through the real engine: languages asked for, translated with, and told of."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from flask.testing import FlaskClient
from transformers import AutoModelForSeq2SeqLM, NllbTokenizer
from werkzeug.test import TestResponse

from colab_llm_chat.chat import Chat
from colab_llm_chat.settings import Settings
from colab_llm_chat.web.app import create_app
from tests import source_tokenizers
from tests.chat_services import Lent, wait_until
from tests.tiny_models import tiny_model

TEXT = "Hello, world!"
CODES = {"source_language": "eng_Latn", "target_language": "jpn_Jpan"}
MESSAGES = [{"role": "system", "content": "Be a cat."}, {"role": "user", "content": TEXT}]
LONG = 24


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chat]:
    """An NLLB with random weights. Its replies vary and mostly end by length."""
    folder = tmp_path_factory.mktemp("nllb")
    model = tiny_model("m2m_100", scale=5.0, vocab_size=512, max_position_embeddings=128)
    model.save_pretrained(folder)
    source_tokenizers.nllb_tokenizer(folder)
    with contextlib.closing(Chat(Settings(model_id=str(folder), max_new_tokens=LONG)).start()) as chat:
        wait_until(lambda: chat.status().state != "loading")
        assert chat.status().state == "ok", chat.status().error
        yield chat


@pytest.fixture(scope="module")
def client(chat: Chat) -> FlaskClient:
    return create_app(chat.settings, Lent(chat)).test_client()


def translated(client: FlaskClient, **fields: Any) -> TestResponse:
    return client.post("/chat", json={"message": TEXT, **fields})


def said_by_itself(chat: Chat, source: str, target: str) -> str:
    """What the model's own tokenizer and `generate` make of the text."""
    folder = chat.settings.model_id
    tokenizer = NllbTokenizer.from_pretrained(folder, src_lang=source)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32)
    ids = model.generate(
        **tokenizer(TEXT, return_tensors="pt"),
        forced_bos_token_id=tokenizer.convert_tokens_to_ids(target),
        max_new_tokens=LONG + 1,
        do_sample=False,
        num_beams=1,
    )
    return str(tokenizer.decode(ids[0], skip_special_tokens=True)).strip()


@pytest.mark.parametrize(("source", "target"), [("eng_Latn", "jpn_Jpan"), ("jpn_Jpan", "fra_Latn")])
def test_a_translation_is_the_models_own(chat: Chat, client: FlaskClient, source: str, target: str) -> None:
    reply = translated(client, source_language=source, target_language=target).json
    assert reply is not None
    assert reply["response"] == said_by_itself(chat, source, target) != ""
    assert "notes" not in reply
    assert reply["usage"]["prompt_tokens"] == len(NllbTokenizer.from_pretrained(chat.settings.model_id)(TEXT).input_ids)


def test_nothing_is_translated_without_a_target(client: FlaskClient) -> None:
    refused = translated(client, source_language="eng_Latn")
    assert (refused.status_code, refused.json["error"]["param"]) == (400, "target_language")
    assert "jpn_Jpan" in refused.json["error"]["hint"]


def test_an_unknown_code_is_refused_with_near_matches(client: FlaskClient) -> None:
    for side in CODES:
        refused = translated(client, **{**CODES, side: "english"})
        assert (refused.status_code, refused.json["error"]["param"]) == (400, side)
        assert "`eng_Latn` (English)" in refused.json["error"]["hint"]


def test_a_stream_has_the_same_text_and_notes_what_was_ignored(client: FlaskClient) -> None:
    whole = translated(client, **CODES).json["response"]
    streamed = translated(client, **CODES, stream=True, system="Be a cat.")
    events = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
    assert "".join(event.get("delta", "") for event in events) == whole
    assert "the system prompt had no effect" in events[-1]["notes"][0]


def test_the_openai_door_translates_the_last_user_message(client: FlaskClient) -> None:
    whole = translated(client, **CODES).json["response"]
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}, *MESSAGES]
    reply = client.post("/v1/chat/completions", json={"messages": turns, **CODES}).json
    assert reply["choices"][0]["message"]["content"] == whole
    assert len(reply["notes"]) == 1
    refused = client.post("/v1/chat/completions", json={"messages": MESSAGES})
    assert (refused.status_code, refused.json["error"]["param"]) == (400, "target_language")


def test_the_openai_doors_stream_notes_in_its_last_chunk(client: FlaskClient) -> None:
    body = {"messages": MESSAGES, **CODES, "stream": True}
    lines = client.post("/v1/chat/completions", json=body).text.splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert [chunk for chunk in chunks if "notes" in chunk] == [chunks[-1]]
    assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")


def test_a_prompt_and_an_input_are_texts_to_translate(client: FlaskClient) -> None:
    whole = translated(client, **CODES).json["response"]
    completion = client.post("/v1/completions", json={"prompt": TEXT, "max_tokens": LONG, **CODES}).json
    response = client.post("/v1/responses", json={"input": TEXT, **CODES}).json
    assert completion["choices"][0]["text"] == whole
    assert response["output"][0]["content"][0]["text"] == whole


def test_a_backslash_is_only_taken_away(client: FlaskClient) -> None:
    raw = translated(client, message="\\" + TEXT, raw=True, **CODES).json
    assert raw["response"] == translated(client, **CODES).json["response"]


def test_a_reply_that_was_cut_is_carried_on(client: FlaskClient) -> None:
    cut = translated(client, **CODES, max_new_tokens=4).json
    assert cut["truncated"]
    body = {"continue": True, "conversationHistory": cut["conversationHistory"], **CODES, "max_new_tokens": 4}
    rest = client.post("/chat", json=body).json
    assert rest["conversationHistory"][-1]["content"].startswith(cut["response"])
    assert rest["usage"]["prompt_tokens"] == cut["usage"]["prompt_tokens"]
    raw = [{"role": "user", "content": "\\" + TEXT}, cut["conversationHistory"][-1]]
    again = client.post("/chat", json={**body, "conversationHistory": raw, "raw": True}).json
    assert again["response"] == rest["response"]


def test_drawn_at_a_temperature_it_varies_and_otherwise_never(client: FlaskClient) -> None:
    assert len({translated(client, **CODES, seed=seed).json["response"] for seed in range(4)}) == 1
    assert len({translated(client, **CODES, seed=seed, temperature=1.5).json["response"] for seed in range(4)}) > 1


def test_the_prompt_can_be_looked_at(chat: Chat, client: FlaskClient) -> None:
    found = client.post("/tokenize", json={"messages": MESSAGES, **CODES, "return_token_strs": True}).json
    assert found["tokens"] == NllbTokenizer.from_pretrained(chat.settings.model_id)(TEXT).input_ids
    assert (found["token_strs"][0], found["token_strs"][-1], found["prompt"]) == (
        "eng_Latn",
        "</s>",
        f"eng_Latn{TEXT}</s>",
    )
    long = client.post("/tokenize", json={"prompt": "猫" * 300, **CODES}).json
    assert long["count"] > 300
    assert client.post("/tokenize", json={"prompt": "a"}).json["error"]["param"] == "target_language"


def test_health_tells_what_the_model_is_for(client: FlaskClient) -> None:
    health = client.get("/health").json
    assert (health["task"], len(health["languages"])) == ("translation", 202)
    assert "jpn_Jpan" in health["languages"]


def test_the_servers_own_languages_are_for_requests_that_name_none(chat: Chat) -> None:
    settings = chat.settings.model_copy(update={"language_source": "eng_Latn", "language_target": "jpn_Jpan"})
    client = create_app(settings, Lent(chat)).test_client()
    plain = translated(client).json["response"]
    assert plain == translated(client, **CODES).json["response"]
    assert plain != translated(client, target_language="fra_Latn").json["response"]


def test_a_chat_model_ignores_codes_and_says_so(demo_chat: Chat) -> None:
    client = create_app(demo_chat.settings, Lent(demo_chat)).test_client()
    assert "`target_language` had no effect" in translated(client, target_language="jpn_Jpan").json["notes"][0]
    assert client.get("/health").json["task"] == "chat"
