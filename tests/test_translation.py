"""Encoder-decoder models above the engine: sources, languages, what is refused, and the text of replies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import M2M100Tokenizer, MBart50Tokenizer, MBartTokenizer, NllbTokenizer
from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES as M2M_CODES
from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES as MBART_CODES
from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES as NLLB_CODES

from colab_llm_chat.engine.reports import Progress
from colab_llm_chat.errors import ContextLengthExceeded, InvalidRequest, UnsupportedParameter
from colab_llm_chat.models.load import load_tokenizer
from colab_llm_chat.models.seq2seq import seq2seq_of
from colab_llm_chat.protocol.messages import ChatRequest, Message, Tool, ToolUse
from colab_llm_chat.settings import SamplingParams
from colab_llm_chat.text.deltas import ReplyText
from colab_llm_chat.text.languages import languages, near_matches
from colab_llm_chat.text.prompts import Prompt, PromptEncoder
from colab_llm_chat.text.sources import SourceEncoder
from tests import source_tokenizers
from tests.tokenizers_made_here import CHATML, byte_level

# Marian's tokenizer would have another package put punctuation in order; it works without.
pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")

TEXT = "Hello, world! How are you?"
CODES = sorted(languages())
ENGLISH_TO_JAPANESE = {"source_language": "eng_Latn", "target_language": "jpn_Jpan"}
ENGLISH_TO_GERMAN = {"source_language": "eng_Latn", "target_language": "deu_Latn"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """One folder of each kind."""
    made = {}
    for kind, make in source_tokenizers.KINDS.items():
        made[kind] = tmp_path_factory.mktemp(kind)
        make(made[kind])
    return made


def encoder(folder: Path, *, model_id: str = "OWNER/NAME", **facts: Any) -> SourceEncoder:
    """As the pipeline makes it, with facts as the engine would tell them."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    told = {"context_length": 64, "source_length": 64}
    told |= {name: config.get(name) for name in ("decoder_start_token_id", "forced_bos_token_id")}
    form = seq2seq_of(model_id, folder)
    assert form is not None
    return SourceEncoder(load_tokenizer(folder), form, facts=lambda: told | facts, own_system="Be a cat.")


def asked(text: str = TEXT, **fields: Any) -> ChatRequest:
    return ChatRequest(messages=(Message("user", text),), **{"sampling": SamplingParams(), **fields})


def prompt(folder: Path, text: str = TEXT, **fields: Any) -> Prompt:
    return encoder(folder).encode(asked(text, **fields), context_length=64)


def refusal(folder: Path, **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        prompt(folder, **fields)
    return caught.value


def test_the_table_has_the_languages_of_every_model() -> None:
    table = languages().values()
    assert set(NLLB_CODES) <= {one.code for one in table}
    assert {one.m2m for one in table} - {""} == set(M2M_CODES["m2m100"])
    assert {one.mbart for one in table} - {""} == set(MBART_CODES)
    assert len({one.name for one in table}) == len(table)


@pytest.mark.parametrize("meant", ["english", "English", "en", "eng", "ENG_LATN", "en_XX", "en-GB", "englisch"])
def test_names_and_short_codes_are_near_the_code(meant: str) -> None:
    assert near_matches(meant, CODES)[0] == "eng_Latn"


@pytest.mark.parametrize("meant", ["ja", "Japanese", "jpn", "jp", "jpn_Japn", "ja_XX"])
def test_japanese_is_found(meant: str) -> None:
    assert near_matches(meant, CODES)[0] == "jpn_Jpan"


def test_of_several_languages_with_a_name_the_most_spoken_comes_first() -> None:
    assert near_matches("Arabic", CODES)[0] == "arb_Arab"
    assert near_matches("zh-TW", CODES) == ("zho_Hans", "zho_Hant")


@given(st.text(max_size=30), st.sets(st.sampled_from(CODES), max_size=40))
def test_near_matches_are_a_few_of_the_known_codes(meant: str, known: set[str]) -> None:
    found = near_matches(meant, known)
    assert len(found) == len(set(found)) <= 4
    assert known.issuperset(found)


@given(st.sampled_from(CODES), st.data())
def test_a_code_with_a_letter_lost_is_found_again(code: str, data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, len(code) - 1))
    # Whatever else looks alike, a code without its last letters is still that language.
    assert code in near_matches(code[:lost] + code[lost + 1 :], [code])


@pytest.mark.parametrize(("kind", "known"), [("nllb", 202), ("m2m", 100), ("mbart50", 52), ("mbart", 25)])
def test_a_translation_model_knows_the_languages_of_its_tokenizer(
    folders: Mapping[str, Path], kind: str, known: int
) -> None:
    made = encoder(folders[kind])
    assert (made.task, len(made.languages)) == ("translation", known)
    assert {"eng_Latn", "jpn_Jpan"} <= set(made.languages)
    assert list(made.languages) == sorted(made.languages)


def test_other_encoder_decoders_take_text(folders: Mapping[str, Path]) -> None:
    found = {kind: encoder(folders[kind]) for kind in ("t5", "t5_of_pieces", "bart")}
    assert {one.task for one in found.values()} == {"text2text"}
    assert found["t5"].languages == ("deu_Latn", "eng_Latn", "fra_Latn", "ron_Latn")
    assert found["bart"].languages == found["t5_of_pieces"].languages == ()


@pytest.mark.parametrize(
    ("kind", "own", "codes"),
    [
        ("nllb", NllbTokenizer, ("eng_Latn", "jpn_Jpan")),
        ("m2m", M2M100Tokenizer, ("en", "ja")),
        ("mbart50", MBart50Tokenizer, ("en_XX", "ja_XX")),
    ],
)
def test_source_and_first_ids_are_those_of_the_models_own_tokenizer(
    folders: Mapping[str, Path], kind: str, own: Any, codes: tuple[str, str]
) -> None:
    tokenizer = own.from_pretrained(str(folders[kind]), src_lang=codes[0])
    wanted = tokenizer(TEXT)["input_ids"]
    target = load_tokenizer(folders[kind]).convert_tokens_to_ids(f"__{codes[1]}__" if kind == "m2m" else codes[1])
    found = prompt(folders[kind], **ENGLISH_TO_JAPANESE)
    assert list(found.source_ids) == wanted
    assert found.prompt_ids == (2, target)
    language = f"__{codes[0]}__" if kind == "m2m" else codes[0]
    assert (found.text, found.strip_leading, found.notes) == (f"{language}{TEXT}</s>", True, ())


def test_the_first_mbart_has_its_language_last_and_begins_with_the_target(folders: Mapping[str, Path]) -> None:
    tokenizer = MBartTokenizer.from_pretrained(str(folders["mbart"]), src_lang="en_XX")
    romanian = tokenizer.convert_tokens_to_ids("ro_RO")
    found = prompt(folders["mbart"], source_language="eng_Latn", target_language="ron_Latn")
    assert list(found.source_ids) == tokenizer(TEXT)["input_ids"]
    assert found.source_ids[-1] == tokenizer.convert_tokens_to_ids("en_XX")
    assert found.prompt_ids == (romanian,)
    # Its files name it as the token that replies begin with: the model writes nothing else.
    fixed = encoder(folders["mbart"], decoder_start_token_id=romanian)
    assert fixed.encode(asked(source_language="eng_Latn"), context_length=64).prompt_ids == (romanian,)


def test_nllb_of_old_has_its_language_last(tmp_path: Path) -> None:
    source_tokenizers.nllb(tmp_path, legacy_behaviour=True)
    tokenizer = load_tokenizer(tmp_path)
    found = prompt(tmp_path, **ENGLISH_TO_JAPANESE)
    assert found.source_ids[-2:] == (tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("eng_Latn"))


@pytest.mark.parametrize("kind", ["nllb", "m2m", "mbart50"])
def test_a_translation_needs_its_target_and_a_source_where_the_text_leaves_doubt(
    folders: Mapping[str, Path], kind: str
) -> None:
    # From English into English is no translation.
    cases = {"target_language": {"source_language": "eng_Latn"}, "source_language": {"target_language": "eng_Latn"}}
    for missing, given_one in cases.items():
        error = refusal(folders[kind], **given_one)
        assert (error.status, error.param) == (400, missing)
        assert f"`{missing}`" in error.hint
        assert "`jpn_Jpan` or `eng_Latn`" in error.hint
        assert f"--{missing.split('_')[1]}-{missing.split('_')[0]}" in error.hint


@pytest.mark.parametrize(
    ("text", "source", "target"),
    [
        ("It’s a cat 🐈", "eng_Latn", "jpn_Jpan"),
        ("猫がねむる", "jpn_Jpan", "eng_Latn"),
        ("ﾈｺ", "jpn_Jpan", "fra_Latn"),
        ("C'est déjà l'été", None, "jpn_Jpan"),
        ("東京", None, "eng_Latn"),
        ("Кошка", None, "eng_Latn"),
        ("1 + 1", None, "jpn_Jpan"),
        ("列夫・托尔斯泰", None, "eng_Latn"),
        ("Ｋー", None, "eng_Latn"),
        ("ｰﾞ", None, "eng_Latn"),
    ],
)
def test_a_source_that_the_text_plainly_shows_is_taken_and_noted(
    folders: Mapping[str, Path], text: str, source: str | None, target: str
) -> None:
    made = encoder(folders["nllb"])
    request = asked(text, target_language=target)
    if source is None:
        with pytest.raises(InvalidRequest, match="source_language"):
            made.encode(request, context_length=64)
        return
    found = made.encode(request, context_length=64)
    assert found.source_ids == made.encode(replace(request, source_language=source), context_length=64).source_ids
    assert [source in note for note in found.notes] == [True]


def test_the_target_that_the_models_files_fix_need_not_be_named(folders: Mapping[str, Path]) -> None:
    english = load_tokenizer(folders["mbart50"]).convert_tokens_to_ids("en_XX")
    made = encoder(folders["mbart50"], forced_bos_token_id=english)
    assert made.encode(asked(source_language="jpn_Jpan"), context_length=64).prompt_ids == (2, english)


@pytest.mark.parametrize("side", ["source_language", "target_language"])
def test_an_unknown_code_gets_near_matches(folders: Mapping[str, Path], side: str) -> None:
    error = refusal(folders["nllb"], **{**ENGLISH_TO_JAPANESE, side: "japanese"})
    assert (error.param, error.status) == (side, 400)
    assert "'japanese'" in error.message
    assert error.hint == "Did you mean `jpn_Jpan` (Japanese)?"


def test_a_language_that_this_model_lacks_is_told_by_its_name(folders: Mapping[str, Path]) -> None:
    error = refusal(folders["mbart50"], source_language="eng_Latn", target_language="ace_Latn")
    assert "Acehnese (Latin script), which this model does not have" in error.message
    long = refusal(folders["m2m"], source_language="eng_Latn", target_language="☃" * 100)
    assert "☃" * 40 + "…'" in long.message
    assert "such as `jpn_Jpan` or `eng_Latn`" in long.hint


@pytest.mark.parametrize("kind", ["nllb", "m2m", "mbart50", "t5", "bart"])
def test_what_people_type_is_never_a_special_token(folders: Mapping[str, Path], kind: str) -> None:
    tokenizer = load_tokenizer(folders[kind])
    known = encoder(folders[kind])
    codes = ENGLISH_TO_JAPANESE if known.task == "translation" else {}
    typed = "a jpn_Jpan b __ja__ c ja_XX d </s> e <pad> f"
    plain = set(prompt(folders[kind], "a b c", **codes).source_ids) & set(tokenizer.all_special_ids)
    assert set(prompt(folders[kind], typed, **codes).source_ids) & set(tokenizer.all_special_ids) <= {
        *plain,
        tokenizer.unk_token_id,
    }


def test_raw_text_may_have_special_tokens(folders: Mapping[str, Path]) -> None:
    sentinel = load_tokenizer(folders["t5"]).convert_tokens_to_ids("<extra_id_0>")
    assert sentinel in prompt(folders["t5"], "The <extra_id_0> fox", raw=True).source_ids
    assert sentinel not in prompt(folders["t5"], "The <extra_id_0> fox").source_ids


def test_threads_do_not_mix_up_languages(folders: Mapping[str, Path]) -> None:
    made = encoder(folders["nllb"])
    requests = [asked(source_language=one, target_language=other) for one in CODES[:6] for other in CODES[:6]]
    requests = [one for one in requests if {one.source_language, one.target_language} <= set(made.languages)]
    encode = partial(made.encode, context_length=64)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(encode, requests * 4))
    assert together == [encode(one) for one in requests] * 4


@pytest.mark.parametrize(("code", "name"), [("deu_Latn", "German"), ("fra_Latn", "French"), ("ron_Latn", "Romanian")])
def test_a_pair_becomes_the_prefix_that_t5_was_trained_with(folders: Mapping[str, Path], code: str, name: str) -> None:
    # https://huggingface.co/google-t5/t5-small: "translate English to German: " and so on, in its config.json.
    wanted = prompt(folders["t5"], f"translate English to {name}: {TEXT}")
    found = prompt(folders["t5"], source_language="eng_Latn", target_language=code)
    assert (found.text, found.source_ids) == (wanted.text, wanted.source_ids)
    assert prompt(folders["t5"], target_language=code).text == wanted.text
    assert found.prompt_ids == (0,)


def test_without_languages_t5_gets_the_text_as_typed(folders: Mapping[str, Path]) -> None:
    for kind in ("t5", "t5_of_pieces"):
        tokenizer = load_tokenizer(folders[kind])
        found = prompt(folders[kind], "summarize: The quick brown fox")
        assert found.source_ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(found.source_ids[:-1]) == "summarize: The quick brown fox"
        assert (found.notes, found.greedy) == ((), False)


@pytest.mark.parametrize(
    "codes",
    [
        {"source_language": "deu_Latn", "target_language": "eng_Latn"},
        {"source_language": "eng_Latn", "target_language": "jpn_Jpan"},
        {"source_language": "eng_Latn"},
        {"target_language": "eng_Latn"},
    ],
)
def test_a_pair_that_t5_was_not_trained_on_is_refused_with_those_it_was(
    folders: Mapping[str, Path], codes: dict[str, str]
) -> None:
    error = refusal(folders["t5"], **codes)
    assert error.param == "target_language"
    assert "eng_Latn to deu_Latn, eng_Latn to fra_Latn, eng_Latn to ron_Latn" in error.hint


def test_t5_names_near_matches_too(folders: Mapping[str, Path]) -> None:
    error = refusal(folders["t5"], target_language="german")
    assert (error.param, error.hint) == ("target_language", "Did you mean `deu_Latn` (German)?")


@pytest.mark.parametrize("name", ["google/flan-t5-base", "OWNER/my_flan_t5", "google/flan-ul2"])
def test_flan_gets_an_instruction(folders: Mapping[str, Path], name: str) -> None:
    # https://huggingface.co/google/flan-t5-base: "translate English to German: How old are you?"
    made = encoder(folders["t5"], model_id=name)
    assert (made.task, made.languages) == ("text2text", ())
    texts = [made.encode(asked(**codes), context_length=64).text for codes in (ENGLISH_TO_JAPANESE, {})]
    assert texts == [f"translate English to Japanese: {TEXT}", TEXT]
    only = made.encode(asked(target_language="zho_Hans"), context_length=64).text
    assert only == f"translate to Chinese (Simplified): {TEXT}"
    with pytest.raises(InvalidRequest, match="target_language"):
        made.encode(asked(source_language="eng_Latn"), context_length=64)


def test_a_folder_called_flan_is_one(tmp_path: Path) -> None:
    folder = tmp_path / "flan-t5-small"
    folder.mkdir()
    source_tokenizers.t5(folder)
    assert prompt_of(folder, ENGLISH_TO_JAPANESE) == f"translate English to Japanese: {TEXT}"


def prompt_of(folder: Path, codes: dict[str, str]) -> str:
    return encoder(folder, model_id=str(folder)).encode(asked(**codes), context_length=64).text


@pytest.mark.parametrize("kind", ["bart", "t5_of_pieces", "marian"])
def test_models_without_prefixes_ignore_codes_with_a_note(folders: Mapping[str, Path], kind: str) -> None:
    found = prompt(folders[kind], **ENGLISH_TO_GERMAN)
    assert (found.text, found.source_ids) == (TEXT, prompt(folders[kind]).source_ids)
    assert found.notes == (
        "This model does not translate by language codes; `source_language` and `target_language` had no effect.",
    )


def test_chat_models_ignore_codes_with_a_note() -> None:
    made = PromptEncoder(byte_level()).encode(asked(target_language="jpn_Jpan"), context_length=512)
    assert made.notes == ("This model does not translate by language codes; `target_language` had no effect.",)


def test_bart_begins_as_its_config_says(folders: Mapping[str, Path]) -> None:
    tokenizer = load_tokenizer(folders["bart"])
    found = prompt(folders["bart"])
    assert list(found.source_ids) == tokenizer.encode(TEXT)
    assert found.prompt_ids == (2, 0)


def test_history_is_left_out_and_a_system_prompt_noted(folders: Mapping[str, Path]) -> None:
    turns = (Message("user", "Hi"), Message("assistant", "Hallo"), Message("user", TEXT), Message("assistant", "Ja"))
    made, plain = encoder(folders["t5"]), prompt(folders["t5"])
    servers, own = (
        made.encode(replace(asked(), messages=(Message("system", text), *turns)), context_length=64)
        for text in ("Be a cat.", "Be a dog.")
    )
    assert (servers.source_ids, servers.prompt_ids, servers.notes) == (plain.source_ids, (0,), ())
    [note] = own.notes
    assert "system prompt" in note


def test_a_begun_reply_is_carried_on(folders: Mapping[str, Path]) -> None:
    tokenizer = load_tokenizer(folders["nllb"])
    messages = (Message("user", TEXT), Message("assistant", "こんにちは"))
    request = ChatRequest(messages=messages, sampling=SamplingParams(), continue_final=True, **ENGLISH_TO_JAPANESE)
    found = encoder(folders["nllb"]).encode(request, context_length=64)
    begun = tuple(tokenizer.encode("こんにちは", add_special_tokens=False))
    assert found.source_ids == prompt(folders["nllb"], **ENGLISH_TO_JAPANESE).source_ids
    assert found.prompt_ids == (2, tokenizer.convert_tokens_to_ids("jpn_Jpan"), *begun)
    assert (found.prefix_ids, found.strip_leading) == (begun, False)


def test_an_encoder_reads_the_conversation_where_there_is_a_chat_template(tmp_path: Path) -> None:
    # As google/t5gemma-2b-2b-ul2-it: an encoder-decoder that was made for chats.
    byte_level(CHATML).save_pretrained(tmp_path)
    source_tokenizers.config(tmp_path, "t5gemma", decoder_start_token_id=2)
    turns = (Message("user", "Hi"), Message("assistant", "Ho"), Message("user", TEXT))
    made = encoder(tmp_path, context_length=512, source_length=200)
    found = made.encode(replace(asked(), messages=turns), context_length=512)
    wanted = load_tokenizer(tmp_path).apply_chat_template(
        [{"role": one.role, "content": one.content} for one in turns], add_generation_prompt=True, tokenize=False
    )
    assert (found.text, found.prompt_ids) == (wanted, (2,))
    assert made.encode(asked(raw=True), context_length=512).text == TEXT
    long = replace(asked(truncation="auto"), messages=(Message("user", "猫" * 250), *turns[1:]))
    assert made.encode(long, context_length=512).dropped_messages == 2
    carried = replace(asked(continue_final=True), messages=(*turns, Message("assistant", "Ha")))
    begun = made.encode(carried, context_length=512)
    assert (begun.source_ids, begun.prompt_ids[:1], begun.prefix_ids) == (found.source_ids, (2,), begun.prompt_ids[1:])


def test_ids_are_the_source_as_they_are(folders: Mapping[str, Path]) -> None:
    found = prompt(folders["bart"], "", raw=True, prompt_ids=(0, 475, 2))
    assert (found.source_ids, found.prompt_ids) == ((0, 475, 2), (2, 0))


def test_a_source_that_is_too_long_is_refused_with_both_numbers(folders: Mapping[str, Path]) -> None:
    made = encoder(folders["t5"])
    for text, size in (("猫" * 70, "72 tokens"), ("猫" * 5_000, "5000 characters")):
        with pytest.raises(ContextLengthExceeded) as caught:
            made.encode(asked(text), context_length=64)
        assert size in caught.value.message
        assert "64 tokens" in caught.value.message
    whole = made.encode(asked("猫" * 70), context_length=2**31)
    assert len(whole.source_ids) == 72


def test_the_reply_has_the_window_for_itself(folders: Mapping[str, Path]) -> None:
    found = prompt(folders["t5"], sampling=SamplingParams(max_new_tokens=512))
    assert found.max_new_tokens == 63
    assert prompt(folders["t5"], sampling=SamplingParams(max_new_tokens=5)).max_new_tokens == 5


def test_tools_and_json_are_refused(folders: Mapping[str, Path]) -> None:
    tools = ToolUse(tools=(Tool(name="look"),))
    for fields, param in (({"tool_use": tools}, "tools"), ({"json_schema": {}}, "response_format")):
        with pytest.raises(UnsupportedParameter) as caught:
            prompt(folders["t5"], **fields)
        assert caught.value.param == param


def test_a_request_without_a_users_message_is_refused(folders: Mapping[str, Path]) -> None:
    request = ChatRequest(messages=(Message("assistant", "Hi"),), sampling=SamplingParams(), asked_in="messages")
    with pytest.raises(InvalidRequest) as caught:
        encoder(folders["t5"]).encode(request, context_length=64)
    assert caught.value.param == "messages"


def test_translations_are_greedy_unless_a_temperature_was_set(folders: Mapping[str, Path]) -> None:
    warm = SamplingParams(temperature=0.7)
    assert prompt(folders["nllb"], **ENGLISH_TO_JAPANESE).greedy
    assert not prompt(folders["nllb"], **ENGLISH_TO_JAPANESE, sampling=warm).greedy
    assert prompt(folders["t5"], **ENGLISH_TO_GERMAN).greedy
    assert prompt(folders["t5"], "translate English to German: Hello").greedy
    assert not prompt(folders["t5"], "summarize: Hello").greedy
    assert not prompt(folders["bart"], **ENGLISH_TO_GERMAN).greedy
    assert prompt(folders["marian"]).greedy


@pytest.mark.parametrize("kind", list(source_tokenizers.KINDS))
def test_streamed_text_is_the_reply_without_special_tokens(folders: Mapping[str, Path], kind: str) -> None:
    tokenizer = load_tokenizer(folders[kind])
    made = encoder(folders[kind])
    codes = ENGLISH_TO_JAPANESE if made.task == "translation" else {}
    request = asked(**codes)
    begun = made.encode(request, context_length=64)
    said = tokenizer.encode("The quick 猫 is here! こんにちは", add_special_tokens=False)
    language = sorted(set(begun.prompt_ids))
    ids = [*language, *said[:4], *language, *said[4:], tokenizer.eos_token_id]
    text = ReplyText(tokenizer, begun, made.parser(request, begun))
    pieces = [text.feed(Progress(token_ids=(token_id,))).text for token_id in ids] + [text.flush().text]
    assert "".join(pieces) == tokenizer.decode(said, skip_special_tokens=True).strip()
    assert next(piece for piece in pieces if piece).startswith("T")
