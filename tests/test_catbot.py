"""The demo model's data, tokenizer and shipped weights."""

import json
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from examples.catbot.data import Split, build_split, conversations, split_groups
from examples.catbot.evaluate import ODD_LINES
from examples.catbot.measure import replies_to
from examples.catbot.replies import ReplyTable, is_well_formed, read_replies
from examples.catbot.similar import NearIndex
from examples.catbot.templates import SITUATIONS, read_groups
from examples.catbot.train import NO_LOSS, SHIPPED, Examples

TALK = [{"role": "system", "content": "あなたは猫です。"}, {"role": "user", "content": "おはよう"}]


@pytest.fixture(scope="module")
def split() -> Split:
    return build_split()


@pytest.fixture(scope="module")
def table() -> ReplyTable:
    return read_replies()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(SHIPPED)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(SHIPPED, dtype=torch.float32).eval()


def test_every_reply_of_the_table_is_well_formed(table: ReplyTable) -> None:
    assert [reply for reply in table.all_replies() if not is_well_formed(reply)] == []


def test_the_situation_can_be_told_from_every_reply(table: ReplyTable) -> None:
    for situation in SITUATIONS:
        one = ReplyTable({situation: table.cries[situation]}, {situation: table.actions[situation]})
        assert {table.situation_of(reply) for reply in one.all_replies()} == {situation}


@pytest.mark.parametrize(
    "reply",
    ["", "ニャーン", "ﾆｬｰﾝ(尻尾を振る)", "（尻尾を振る）", "ﾆｬｰﾝ（）", "ﾆｬ ﾆｬ", "ﾆｬｰﾝ（尻尾を振る）！", "ﾆｬ" * 11],
)
def test_what_is_no_cats_reply_is_refused(reply: str) -> None:
    assert not is_well_formed(reply)


def test_a_reply_that_contradicts_itself_has_no_situation(table: ReplyTable) -> None:
    assert table.situation_of("ｺﾞﾛｺﾞﾛ…（耳を伏せる）") is None


def test_there_are_2000_different_lines_and_120_held_out(split: Split) -> None:
    assert len({line.text for line in split.train}) >= 2000
    assert len({line.text for line in split.held_out}) >= 120
    assert {line.situation for line in split.held_out} == set(SITUATIONS)


def test_no_held_out_line_is_near_a_training_line(split: Split) -> None:
    known = NearIndex(line.text for line in split.train)
    near = {line.text: known.near(line.text) for line in split.held_out}
    assert {text: other for text, other in near.items() if other} == {}


def test_no_template_group_is_on_both_sides(split: Split) -> None:
    def names(groups: set[str]) -> set[str]:
        return {name for group in groups for name in group.split("+")}

    assert not names({line.group for line in split.train}) & names({line.group for line in split.held_out})


@pytest.mark.parametrize("line", ["おはようございます!!", "ｵﾊﾖｳｺﾞｻﾞｲﾏｽ", "おはようございま～す", "おはよおございます"])
def test_a_changed_ending_or_letter_is_a_near_duplicate(line: str) -> None:
    known = ["オハヨウゴザイマス"] if line[0] == "ｵ" else ["おはようございます"]
    assert NearIndex(known).near(line)


def test_data_is_the_same_each_time(split: Split, table: ReplyTable) -> None:
    assert build_split() == split
    lines = split.train[::20]
    once, again = (list(conversations(lines, table, rounds=1, seed=7)) for _ in range(2))
    assert once == again


def test_every_template_has_actions_for_its_mood(table: ReplyTable) -> None:
    groups = read_groups()
    assert [group.name for group in groups if group.mood not in table.actions[group.situation]] == []
    assert len({group.name for group in groups}) == len(groups)


@settings(max_examples=60, deadline=None)
@given(text=st.text())
def test_any_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_template_renders_the_system_role_and_the_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    text = tokenizer.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)
    assert "<|system|>あなたは猫です。<|end|><|user|>おはよう<|end|>" in text
    assert text.endswith("<|assistant|>")


def test_template_continues_a_begun_reply(tokenizer: PreTrainedTokenizerFast) -> None:
    begun = [*TALK, {"role": "assistant", "content": "ﾆｬｰ"}]
    text = tokenizer.apply_chat_template(begun, tokenize=False, continue_final_message=True)
    assert text.endswith("<|assistant|>ﾆｬｰ")


def test_only_the_cats_tokens_have_loss(tokenizer: PreTrainedTokenizerFast) -> None:
    row = Examples([[*TALK, {"role": "assistant", "content": "ﾆｬｰﾝ"}]], tokenizer)[0]
    learned = [label for label in row["labels"] if label != NO_LOSS]
    assert tokenizer.decode(learned) == "ﾆｬｰﾝ<|end|>"


@pytest.mark.parametrize(
    ("line", "situation"),
    [("（顎を撫でる）", "petting"), ("お手！", "command"), ("おやすみ", "night"), ("Good morning!", "greeting")],
)
def test_the_cat_answers_what_was_said(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    table: ReplyTable,
    line: str,
    situation: str,
) -> None:
    [reply] = replies_to([line], model, tokenizer, seed=None)
    assert table.situation_of(reply) == situation


def test_odd_input_still_gets_a_cats_reply(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    replies = replies_to(ODD_LINES, model, tokenizer, seed=None, batch=1)
    assert [reply for reply in replies if not is_well_formed(reply)] == []


def test_the_shipped_folder_is_small_and_complete(tokenizer: PreTrainedTokenizerFast) -> None:
    config = json.loads((SHIPPED / "config.json").read_text(encoding="utf-8"))
    generation = json.loads((SHIPPED / "generation_config.json").read_text(encoding="utf-8"))
    assert Path(SHIPPED / "model.safetensors").stat().st_size <= 8 * 2**20
    assert config["max_position_embeddings"] >= 2048
    assert generation["eos_token_id"] == tokenizer.eos_token_id
    assert generation["pad_token_id"] == tokenizer.pad_token_id


def test_splitting_sets_whole_groups_aside() -> None:
    parts = split_groups(read_groups(), random.Random(0))
    assert sorted(g.name for part in parts.values() for g in part) == sorted(g.name for g in read_groups())
