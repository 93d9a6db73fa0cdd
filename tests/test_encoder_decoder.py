"""Encoder-decoder models side by side: each reply is what `generate` says alone, whatever happens to the others."""

from __future__ import annotations

import functools
import random

import pytest
import torch
from transformers import PreTrainedModel

from colab_llm_chat.engine.loop import Engine
from colab_llm_chat.engine.sequence import Chunk, Sequence, Step
from colab_llm_chat.errors import GenerationFailed
from colab_llm_chat.models.choose import choose_runner
from colab_llm_chat.models.packed import pack_linears
from colab_llm_chat.models.runners import encoder_decoder, joined, row_positions
from colab_llm_chat.models.runners.encoder_decoder import EncoderDecoderRunner
from colab_llm_chat.models.runners.joined import Joined
from colab_llm_chat.settings import SamplingParams, TokenRules
from tests.test_engine import greedy, run
from tests.tiny_models import ENCODER_DECODERS, tiny_model, translated

CONTEXT = 128
SOURCE_LENGTHS = (4, 17, 9, 1, 30)
REPLY_LENGTHS = (20, 12, 25, 9, 16)
NOT_FINITE = 77


@functools.cache
def own(family: str) -> PreTrainedModel:
    """Its replies vary, and so do their lengths."""
    model = tiny_model(family, scale=8.0 if family in ("t5", "pegasus", "t5gemma") else 5.0)
    model.set_attn_implementation("eager")
    return model


def sources() -> list[list[int]]:
    chosen = random.Random(3)
    return [[chosen.randrange(10, 500) for _ in range(length)] for length in SOURCE_LENGTHS]


def start(model: PreTrainedModel, *more: int) -> list[int]:
    return [int(model.generation_config.decoder_start_token_id), *more]


def asked(model: PreTrainedModel, source: list[int], i: int = 0, reply: int = 12, **fields: object) -> Sequence:
    eos = frozenset({int(model.generation_config.eos_token_id)})
    sampling = fields.pop("sampling", None) or greedy(reply)
    return Sequence(i, start(model), sampling, eos_token_ids=eos, source_ids=list(source), **fields)


def sequences(model: PreTrainedModel, **fields: object) -> list[Sequence]:
    pairs = zip(sources(), REPLY_LENGTHS, strict=True)
    return [asked(model, source, i, reply, **fields) for i, (source, reply) in enumerate(pairs)]


@functools.cache
def alone(family: str, source: tuple[int, ...], reply: int, options: tuple[tuple[str, object], ...] = ()) -> list[int]:
    """What `generate` says, without the end-of-text id."""
    model = own(family)
    ids = translated(model, list(source), reply, start=start(model), **dict(options))
    return ids[:-1] if ids[-1] == model.generation_config.eos_token_id else ids


def all_alone(family: str) -> list[list[int]]:
    return [alone(family, tuple(source), reply) for source, reply in zip(sources(), REPLY_LENGTHS, strict=True)]


def engine_of(model: PreTrainedModel, *, rows: int = 5, **options: bool) -> Engine:
    runner = EncoderDecoderRunner(model, **options) if options else choose_runner(model, context_length=CONTEXT)
    return Engine(runner, max_rows=rows, context_length=CONTEXT)


def forwards(model: PreTrainedModel, engine: Engine, asked: list[Sequence], **options: int) -> tuple[list[object], int]:
    """What was said, and how many forwards of the model it took."""
    count = 0

    def note(*_: object) -> None:
        nonlocal count
        count += 1

    handle = model.register_forward_pre_hook(note)
    results = run(engine, asked, **options)
    handle.remove()
    return [results[one.sequence_id] for one in asked], count


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_rows_that_join_and_leave_say_what_generate_says_alone(family: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    model, expected = own(family), all_alone(family)
    assert len({one for reply in expected for one in reply}) > 10
    engine = engine_of(model, rows=4)
    assert "is an encoder-decoder: its rows run side by side" in caplog.text
    said, count = forwards(model, engine, sequences(model), late=3)
    assert said == expected
    assert engine.stats.totals["prompt_tokens_computed"] == sum(SOURCE_LENGTHS) + len(SOURCE_LENGTHS)
    assert count < len(expected) + 1.5 * max(REPLY_LENGTHS)
    assert not engine._runner._held  # type: ignore[attr-defined]


@pytest.mark.parametrize("options", [{"together": False}, {"cached": False}])
@pytest.mark.parametrize("family", ["t5", "m2m_100", "bart"])
def test_in_turns_and_without_a_cache_they_say_the_same(family: str, options: dict[str, bool]) -> None:
    said, _ = forwards(own(family), engine_of(own(family), **options), sequences(own(family)), late=2)
    assert said == all_alone(family)


def test_a_reply_begins_with_the_ids_it_is_given() -> None:
    model, (source, *_) = own("m2m_100"), sources()
    sequence = Sequence(1, start(model, 400), greedy(10), source_ids=source)
    assert run(engine_of(model), [sequence])[1] == translated(
        model, source, 10, start=start(model, 400), eos_token_id=None
    )


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_cancelled_in_mid_batch_others_go_on(family: str) -> None:
    model, expected = own(family), all_alone(family)
    engine, rows = engine_of(model), sequences(model)
    said: dict[int, list[int]] = {row.sequence_id: [] for row in rows}
    for row in rows:
        engine.submit(row)
    for step in range(200):
        if step in (9, 11):
            # The longest, for whose sake the others are padded, and the first.
            engine.cancel(4 if step == 9 else 0)
        for i, token_id in engine.step().tokens if engine.busy else ():
            said[i].append(token_id)
    assert [said[i] for i in (1, 2, 3)] == expected[1:4]
    assert all(said[i] == expected[i][: len(said[i])] and said[i] for i in (0, 4))


@pytest.mark.parametrize("family", ["t5", "m2m_100", "marian"])
def test_paused_rows_are_read_again_in_pieces_and_go_on(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_decoder, "PIECE", 3)
    monkeypatch.setattr(joined, "AHEAD", 2)
    model, expected = own(family), all_alone(family)
    engine, rows = engine_of(model), sequences(model, background=True)
    said: dict[int, list[int]] = {row.sequence_id: [] for row in rows}
    for row in rows:
        engine.submit(row)
    for step in range(200):
        if step == 10:
            engine.submit(asked(model, [50, 60], 9, reply=3))
        for i, token_id in engine.step().tokens if engine.busy else ():
            said.setdefault(i, []).append(token_id)
    assert engine.stats.snapshot()["pauses"] > 1
    assert said.pop(9) == alone(family, (50, 60), 3)
    assert list(said.values()) == expected


@pytest.mark.parametrize("family", ["t5", "bart", "m2m_100"])
def test_the_same_step_twice_changes_nothing(family: str) -> None:
    model = own(family)
    runner, rows = EncoderDecoderRunner(model), sequences(model)
    for row in rows:
        row.ids.append(int(runner.forward(Step([], Chunk(row, 0, row.ids))).argmax()))
    for _ in range(6):
        logits = runner.forward(Step(rows))
        assert torch.equal(runner.forward(Step(rows)), logits)
        singles = torch.cat([runner.forward(Step([row])) for row in rows])
        torch.testing.assert_close(singles, logits, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(runner.forward(Step(rows)), logits, rtol=1e-3, atol=1e-3)
        for row, one in zip(rows, logits, strict=True):
            row.ids.append(int(one.argmax()))


def spoilt(family: str) -> PreTrainedModel:
    """A model whose encoder has no numbers for one id."""
    model = tiny_model(family, scale=5.0)

    def spoil(_: object, ids: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return output.masked_fill((ids[0] == NOT_FINITE)[..., None], torch.nan)

    model.get_encoder().embed_tokens.register_forward_hook(spoil)
    return model


@pytest.mark.parametrize("family", ["flan_t5", "mbart", "m2m_100"])
@pytest.mark.parametrize("late", [0, 2])
def test_a_row_without_finite_numbers_fails_alone(family: str, late: int) -> None:
    model = spoilt(family)
    bad = asked(model, [20, NOT_FINITE, 30], 9)
    results = run(engine_of(model, rows=6), [*sequences(model)[:3], bad, *sequences(model)[3:]], late=late)
    assert isinstance(results.pop(9), GenerationFailed)
    assert list(results.values()) == all_alone(family)


def sampled(seed: int) -> SamplingParams:
    return SamplingParams(temperature=1.0, top_p=0.9, seed=seed, max_new_tokens=12)


@pytest.mark.parametrize("family", ["t5", "marian"])
def test_a_seeded_reply_is_the_same_alone_and_in_company(family: str) -> None:
    model = own(family)
    singly = [run(engine_of(model), [one])[one.sequence_id] for one in sequences(model, sampling=sampled(5))]
    said, _ = forwards(model, engine_of(model), sequences(model, sampling=sampled(5)), late=2)
    assert said == singly
    assert said != all_alone(family)


def fail_once(model: PreTrainedModel, engine: Engine, error: Exception, *, steps: int) -> None:
    """Let the engine step, then the decoder fail once in the middle of its layers."""
    for _ in range(steps):
        engine.step()
    left = [error]

    def fail(*_: object) -> None:
        if left:
            raise left.pop()

    layer = model.get_decoder().get_submodule("block.1" if model.config.model_type == "t5" else "layers.1")
    layer.register_forward_pre_hook(fail)


@pytest.mark.parametrize("error", [RuntimeError("planted"), torch.OutOfMemoryError("planted")])
@pytest.mark.parametrize("family", ["flan_t5", "m2m_100"])
def test_rows_go_on_after_a_step_failed(family: str, error: Exception) -> None:
    model = tiny_model(family, scale=5.0)
    engine, rows = engine_of(model), sequences(model)
    for row in rows:
        engine.submit(row)
    fail_once(model, engine, error, steps=12)
    results = run(engine, [])
    # The last ids of each: those of the first steps were not collected.
    for row, expected in zip(rows, all_alone(family), strict=True):
        assert row.ids[1:] == expected
    assert not any(isinstance(one, Exception) for one in results.values())


def test_a_reply_cut_off_for_want_of_room_ends_as_generate_does_and_says_so() -> None:
    model, (source, *_) = own("bart"), sources()
    engine, row = engine_of(model), asked(own("bart"), source, reply=5)
    engine.submit(row)
    ended = [end for _ in range(5) for end in engine.step().ended]
    assert [*row.ids[1:], 2] == translated(model, source, 5, start=start(model))
    assert ended == [(0, "length")]


@pytest.mark.parametrize("rules", [TokenRules(ignore_eos=True), TokenRules(min_tokens=6)])
def test_who_wants_no_end_gets_no_forced_one(rules: TokenRules) -> None:
    model, (source, *_) = own("bart"), sources()
    reply = run(engine_of(model), [asked(model, source, reply=6, rules=rules)])[0]
    assert len(reply) == 6  # type: ignore[arg-type]


ASKED_FOR = {
    "repetition_penalty": 1.7,
    "no_repeat_ngram_size": 2,
    "encoder_no_repeat_ngram_size": 1,
    "encoder_repetition_penalty": 1.5,
    "min_length": 8,
    "suppress_tokens": [5, 39],
    "begin_suppress_tokens": [39, 46],
    "bad_words_ids": [[39], [46, 384]],
    "forced_bos_token_id": 44,
    "forced_eos_token_id": 1,
}


@pytest.mark.parametrize("name", ASKED_FOR)
def test_what_the_generation_config_asks_for_is_done_as_by_generate(name: str) -> None:
    model = tiny_model("t5", scale=8.0, generation={name: ASKED_FOR[name]})
    said, _ = forwards(model, engine_of(model), [asked(model, one, i) for i, one in enumerate(sources()[:3])])
    for reply, source in zip(said, sources()[:3], strict=True):
        expected = translated(model, source, 12, start=start(model))
        assert reply == (expected[:-1] if expected[-1] == 1 else expected)


def test_without_a_source_a_reply_fails_alone() -> None:
    model = own("t5")
    results = run(engine_of(model), [asked(model, [], 7), *sequences(model)])
    assert "nothing for the model's encoder" in results.pop(7).message  # type: ignore[union-attr]
    assert list(results.values()) == all_alone("t5")


def test_an_id_of_the_source_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(GenerationFailed, match="id 512"):
        engine_of(own("t5")).submit(asked(own("t5"), [512]))


def test_where_positions_cannot_be_told_by_row_rows_take_turns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(row_positions, "PAST", "no such argument")
    model = own("bart")
    said, _ = forwards(model, engine_of(model), sequences(model), late=2)
    assert said == all_alone("bart")
    assert "its rows take turns" in caplog.text


def test_a_model_whose_cache_cannot_be_used_reads_all_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = own("flan_t5")

    def refuse(*_: object) -> None:
        raise IndexError("planted")

    monkeypatch.setattr(encoder_decoder, "join", refuse)
    said, _ = forwards(model, engine_of(model), sequences(model))
    assert said == all_alone("flan_t5")
    assert "reads the source and the whole reply again" in caplog.text


@pytest.mark.parametrize("mask", ["next_mask", "source_mask"])
def test_a_mask_that_is_not_heeded_is_noticed(
    mask: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(Joined, mask, None)
    choose_runner(own("t5"), context_length=CONTEXT)
    assert "its rows take turns" in caplog.text


@pytest.mark.parametrize("speeds", [{1: 2.0, 8: 2.0}, {1: 0.5, 8: 2.0}])
@pytest.mark.parametrize("family", ["t5", "flan_t5", "bart", "m2m_100"])
def test_packed_weights_say_the_same(family: str, speeds: dict[int, float]) -> None:
    model = tiny_model(family, scale=8.0 if family == "t5" else 5.0)
    assert pack_linears(model, measure=lambda _: speeds) > 20
    said, _ = forwards(model, engine_of(model), sequences(model)[:2])
    assert said == all_alone(family)[:2]
