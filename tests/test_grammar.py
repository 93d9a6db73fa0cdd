"""JSON that is enforced: what schemas are taken or refused, and that no reply leaves its grammar."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer
from pydantic import BaseModel, Field

from colab_llm_chat.engine.loop import Engine
from colab_llm_chat.engine.reports import StepReport
from colab_llm_chat.engine.sampling import sample
from colab_llm_chat.engine.sequence import Sequence
from colab_llm_chat.errors import GenerationFailed, InvalidRequest, UnsupportedParameter
from colab_llm_chat.models.runners.flat import FlatRunner
from colab_llm_chat.settings import SamplingParams, TokenRules
from colab_llm_chat.text.grammar import check_grammar, check_tokenizer, json_grammar
from colab_llm_chat.text.matchers import Grammars
from tests.tiny_models import tiny_model
from tests.tokenizers_made_here import KINDS, of_kind

TOKENIZER = of_kind("byte-level BPE")
GRAMMARS = Grammars(TOKENIZER)
# More ids than the tokenizer has, as models do.
MODEL = tiny_model("llama", scale=2.0)


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str | None


class Household(BaseModel):
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]]
    mood: Literal["good", "bad"]
    head: Cat


def strict(model: type[BaseModel]) -> dict[str, Any]:
    """As OpenAI's SDK sends it: every object closed, every property required."""
    schema = model.model_json_schema()
    for part in (schema, *schema.get("$defs", {}).values()):
        part["additionalProperties"] = False
        part["required"] = list(part["properties"])
    return schema


SCHEMAS: dict[str, dict[str, Any]] = {
    "any object": {},
    "nested models": strict(Household),
    "enum": {"enum": ["red", "green", 3, None]},
    "anyOf": {"type": "object", "properties": {"a": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}},
    "array": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    "number": {"type": "number"},
    "recursive": {
        "$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "additionalProperties": False}},
        "$ref": "#/$defs/n",
    },
    "bounds": {"type": "integer", "minimum": 3, "maximum": 12},
}


def run(engine: Engine, sequences: list[Sequence]) -> tuple[dict[int, list[int]], list[StepReport]]:
    ids: dict[int, list[int]] = {one.sequence_id: [] for one in sequences}
    reports = []
    for one in sequences:
        engine.submit(one)
    while engine.busy:
        reports.append(engine.step())
        for sequence_id, token_id in reports[-1].tokens:
            ids[sequence_id].append(token_id)
    return ids, reports


def engine() -> Engine:
    return Engine(FlatRunner(MODEL), max_rows=8, context_length=250)


def held(sequence_id: int, schema: dict[str, Any], *, seed: int = 1, **fields: Any) -> Sequence:
    sampling = SamplingParams(
        **{"temperature": 1.5, "top_p": 1.0, "top_k": 0, "max_new_tokens": 200, **fields}, seed=seed
    )
    matcher = GRAMMARS.matcher(json_grammar(schema))
    return Sequence(sequence_id, [10, 11, 12], sampling, eos_token_ids=frozenset({0}), matcher=matcher)


@pytest.mark.parametrize("kind", SCHEMAS)
@pytest.mark.parametrize("seed", range(3))
def test_a_random_model_writes_json_or_runs_out_of_tokens(kind: str, seed: int) -> None:
    ids, reports = run(engine(), [held(1, SCHEMAS[kind], seed=seed)])
    text = TOKENIZER.decode(ids[1])
    reason = next(reason for report in reports for _, reason in report.ended)
    if reason == "stop":
        value = json.loads(text)
        assert kind != "any object" or isinstance(value, dict)
        assert kind != "bounds" or 3 <= value <= 12
        assert kind != "nested models" or Household.model_validate(value)
    else:
        assert LLMatcher(LLTokenizer(TOKENIZER.backend_tokenizer.to_str()), json_grammar(SCHEMAS[kind])).consume_tokens(
            ids[1]
        )


def test_rows_with_and_without_grammars_do_not_touch_each_other() -> None:
    def rows() -> list[Sequence]:
        free = SamplingParams(temperature=0.0, max_new_tokens=20)
        held_rows = [held(i, SCHEMAS[kind], seed=i) for i, kind in enumerate(("enum", "array", "bounds"), start=1)]
        return [Sequence(0, [1, 2, 3], free), *held_rows, Sequence(9, [4, 5], free)]

    together, _ = run(engine(), rows())
    alone = {one.sequence_id: run(engine(), [one])[0][one.sequence_id] for one in rows()}
    assert together == alone


def test_a_complete_reply_stops_with_its_last_token_told() -> None:
    ids, reports = run(engine(), [held(1, {"const": {"a": 1}})])
    assert TOKENIZER.decode(ids[1]) == '{"a":1}'
    assert reports[-1].ended == [(1, "stop")]


def test_a_grammar_wins_over_bans_and_over_rules_about_the_end() -> None:
    row = held(1, {"const": "aaaaaaaaaaaaaaaaaaaa"}, no_repeat_ngram_size=1, temperature=0.1)
    row.rules = TokenRules(min_tokens=100, ignore_eos=True, logit_bias={0: 100.0})
    ids, reports = run(engine(), [row])
    assert TOKENIZER.decode(ids[1]) == '"aaaaaaaaaaaaaaaaaaaa"'
    assert reports[-1].ended == [(1, "stop")]


def test_ids_that_only_the_model_has_are_never_drawn() -> None:
    logits = torch.zeros(1, 512)
    logits[0, len(TOKENIZER) :] = 100.0
    drawn = sample(logits, [held(1, {})])[0]
    assert TOKENIZER.decode([drawn.token_id]).startswith("{")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_with_nothing_allowed_ends_alone(temperature: float) -> None:
    logits = torch.randn(3, 512, generator=torch.Generator().manual_seed(1))
    shut = held(1, {"type": "object"}, temperature=temperature)
    logits[1, : len(TOKENIZER)] = float("-inf")
    rows = [Sequence(i, [1], SamplingParams(temperature=temperature, seed=i)) for i in range(3)]
    alone = [sample(logits[i : i + 1], [rows[i]])[0] for i in (0, 2)]
    rows[1] = shut
    drawn = sample(logits, rows)
    assert [one.allowed for one in drawn] == [True, False, True]
    assert [drawn[0], drawn[2]] == alone


class Silent(FlatRunner):
    """A model to which every id of its tokenizer is impossible."""

    def forward(self, step: Any) -> torch.Tensor:
        logits = super().forward(step).clone()
        logits[:, : len(TOKENIZER)] = float("-inf")
        return logits


def test_a_reply_that_cannot_go_on_is_told_so() -> None:
    _, reports = run(Engine(Silent(MODEL), max_rows=2, context_length=99), [held(1, {})])
    assert isinstance(reports[-1].failed[0][1], GenerationFailed)


REFUSED: dict[str, Any] = {
    "type": {"type": "strin"},
    "not": {"not": {}},
    "dependentRequired": {"dependentRequired": {"a": ["b"]}},
    "Pointer": {"$ref": "#/nowhere"},
    "look-around": {"type": "string", "pattern": "(?=a)b"},
    "unsatisfiable": {"type": "object", "required": ["a"], "additionalProperties": False},
    "uniqueItems": {"type": "array", "uniqueItems": True},
    "oneOf": {"oneOf": [{"type": "string"}, {"enum": ["a"]}]},
    "characters": {"properties": {f"property number {i}": {"type": "string"} for i in range(5000)}},
    "too big": {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(2500)}},
    "schema too large": {
        "allOf": [{"anyOf": [{"properties": {f"a{i}_{j}": {"type": "string"}}} for j in range(4)]} for i in range(9)]
    },
}


@pytest.mark.parametrize("named", REFUSED)
def test_a_schema_that_cannot_be_enforced_is_refused_by_name(named: str) -> None:
    with pytest.raises(InvalidRequest, match=named if named != "type" else "strin") as caught:
        json_grammar(REFUSED[named], param="tools")
    assert caught.value.param == "tools"


@pytest.mark.parametrize("depth", [200, 900, 20_000])
def test_a_deep_schema_is_refused(depth: int) -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    with pytest.raises(InvalidRequest, match="recursion"):
        json_grammar(schema)


def test_a_schema_that_nothing_satisfies_is_refused_before_the_reply() -> None:
    with pytest.raises(InvalidRequest, match="no text can satisfy"):
        GRAMMARS.matcher(json_grammar({"$ref": "#"}))


def test_a_schema_cannot_switch_the_checks_off() -> None:
    with pytest.raises(InvalidRequest, match="not"):
        json_grammar({"x-guidance": {"lenient": True}, "not": {}})
    lenient = json_grammar({"x-guidance": {"whitespace_flexible": True}, "type": "object"})
    assert lenient == json_grammar({"type": "object"})


def test_a_grammar_of_another_kind_is_checked_too() -> None:
    check_grammar('start: "a" | "b"')
    with pytest.raises(InvalidRequest):
        check_grammar("start: nowhere")


@pytest.mark.parametrize("kind", KINDS)
def test_the_check_of_a_tokenizer_agrees_with_llguidance(kind: str) -> None:
    tokenizer = of_kind(kind)
    if kind == "WordPiece":
        with pytest.raises(UnsupportedParameter):
            check_tokenizer(tokenizer)
        with pytest.raises(UnsupportedParameter):
            Grammars(tokenizer)
    else:
        check_tokenizer(tokenizer)
        assert not Grammars(tokenizer).matcher(json_grammar({})).is_error()


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        eos_token_id = 0

    slow: Any = Slow()
    with pytest.raises(UnsupportedParameter, match="Slow"):
        check_tokenizer(slow)
    with pytest.raises(UnsupportedParameter, match="Slow"):
        Grammars(slow)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-999, 999) | st.text('ab猫"\\\n', max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("xyz", max_size=2), inner, max_size=3),
    max_leaves=8,
)


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text("xyz", min_size=1, max_size=2), VALUES, max_size=3))
def test_every_json_object_without_spaces_is_allowed(value: dict[str, Any]) -> None:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    matcher = GRAMMARS.matcher(json_grammar({}))
    assert matcher.consume_tokens(TOKENIZER.encode(text))
    assert matcher.is_stopped()
