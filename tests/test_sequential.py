"""Caches that stay in the sequential runner: no text tells of it, and what is told of reuse was not read."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn
from transformers import LlamaConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from colab_llm_chat.engine.loop import Engine
from colab_llm_chat.engine.reports import StepReport
from colab_llm_chat.engine.sequence import Chunk, Sequence, Step
from colab_llm_chat.models.runners.sequential import KEPT, SequentialRunner
from tests.test_engine import CONTEXT, greedy, run, scaled
from tests.tiny_models import generated, tiny_model

# State-space models, of which the first two read one id at a time from a cache; hybrids; a state that is a list; one
# that hands out no cache; keys and values alone.
FAMILIES = ("mamba", "jamba", "falcon_h1", "zamba2", "rwkv", "recurrent_gemma", "llama")
SYSTEM = list(range(100, 130))
NOT_FINITE, EXPLODES = 77, 66


@functools.cache
def own(family: str) -> PreTrainedModel:
    model = scaled(family)
    model.set_attn_implementation("eager")
    return model


@pytest.fixture(autouse=True)
def reuse_does_not_depend_on_how_busy_the_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SequentialRunner, "_quicker", lambda *_: True)


class Told:
    """An engine of a model, which notes what its reports say of reuse, and the ids that the model reads."""

    def __init__(self, model: PreTrainedModel, *, rows: int = 3, cached: bool = True) -> None:
        self.model, self.runner = model, SequentialRunner(model, cached=cached)
        self.engine = Engine(self.runner, max_rows=rows, context_length=CONTEXT)
        self.cached: dict[int, int] = {}
        self.read = self._next_id = 0
        # Tried before anything is counted.
        self.reads_on = self.runner._reads_on
        self._step, self.engine.step = self.engine.step, self._note  # type: ignore[method-assign]
        self._take, self.runner._inputs = self.runner._inputs, self._count  # type: ignore[method-assign]

    def _note(self) -> StepReport:
        report = self._step()
        self.cached.update(report.cached)
        return report

    def _count(self, ids: list[int], start: int, cache: object) -> dict[str, torch.Tensor]:
        self.read += len(ids) - start
        return self._take(ids, start, cache)

    def sequence(self, ids: list[int], reply: int = 6, **fields: object) -> Sequence:
        self._next_id += 1
        return Sequence(self._next_id, list(ids), greedy(reply), **fields)

    def reply(self, ids: list[int], reply: int = 6, **fields: object) -> tuple[list[int], int]:
        """New ids of one request, and how many of its prompt were reused."""
        one = self.sequence(ids, reply, **fields)
        new = run(self.engine, [one])[one.sequence_id]
        assert isinstance(new, list), new
        return new, self.cached.get(one.sequence_id, 0)

    @property
    def kept(self) -> list[list[int]]:
        return [one.ids for one in self.runner._kept]


@pytest.mark.parametrize("family", FAMILIES)
def test_turns_of_a_conversation_read_only_what_is_new_and_equal_generate(family: str) -> None:
    told, ids = Told(own(family)), list(range(5, 35))
    for turn in range(3):
        already, expected = told.read, generated(told.model, ids, 6)
        new, cached = told.reply(ids)
        assert new == expected
        assert cached == (0 if turn == 0 or family == "recurrent_gemma" else len(ids) - 4)
        if family != "recurrent_gemma":
            assert told.read - already == len(ids) - cached + 5
        # The last id of a reply is drawn, but not read.
        ids = [*ids, *new, 40 + turn, 50, 60]
    assert told.engine.stats.totals["prompt_tokens_reused"] == sum(told.cached.values())


@pytest.mark.parametrize("family", ["mamba", "llama"])
def test_nobody_goes_on_from_what_another_owner_typed(family: str) -> None:
    told = Told(own(family))
    told.reply(SYSTEM, 1, owner="phone")
    assert told.reply([*SYSTEM, 1], 1, owner="laptop")[1] == 0
    assert told.reply([*SYSTEM, 1], 1)[1] == 0
    assert told.reply([*SYSTEM, 1], 1, owner="phone")[1] == 30


def test_an_edited_message_reuses_what_keys_and_values_stand_before_it_and_leaves_the_old_branch() -> None:
    told, edited = Told(own("llama")), [*SYSTEM, *[2] * 50]
    told.reply([*SYSTEM, *[1] * 50])
    assert told.reply(edited) == (generated(told.model, edited, 6), len(SYSTEM))
    old = [*SYSTEM, *[1] * 50, 3]
    assert told.reply(old) == (generated(told.model, old, 6), len(SYSTEM) + 50)


@pytest.mark.parametrize("family", ["llama", "zamba2"])
def test_a_reply_made_again_reuses_all_but_the_last_id_where_a_cache_can_be_divided(family: str) -> None:
    told, expected = Told(own(family)), generated(own(family), SYSTEM, 6)
    assert told.reply(SYSTEM) == (expected, 0)
    assert told.reply(SYSTEM) == (expected, 29 if family == "llama" else 0)


def test_the_least_recently_used_conversation_is_read_again() -> None:
    told = Told(own("mamba"))
    for first in range(KEPT):
        told.reply([first + 1] * 10, 1)
    assert told.reply([1] * 11, 1)[1] == 10
    told.reply([KEPT + 1] * 10, 1)
    assert len(told.kept) == KEPT
    assert told.engine.stats.snapshot()["prefix_positions"] == sum(map(len, told.kept))
    assert [told.reply([first + 1] * 12, 1)[1] for first in (1, 0, 3)] == [0, 11, 10]


@pytest.mark.parametrize(("family", "kept"), [("llama", [30]), ("mamba", [20, 30])])
def test_what_says_no_more_than_another_is_not_kept(family: str, kept: list[int]) -> None:
    runner = SequentialRunner(own(family))
    sequences = [Sequence(i, SYSTEM[:length], greedy(1)) for i, length in enumerate((20, 30, 30))]
    for one in sequences:
        runner.forward(Step([], Chunk(one, 0, one.ids)))
    for one in sequences:
        runner.forget(one)
    assert [len(one.ids) for one in runner._kept] == kept


@pytest.mark.parametrize("family", ["falcon_h1", "mamba", "llama"])
@pytest.mark.parametrize("steps", [1, 4])
def test_a_cancelled_reply_leaves_exactly_what_was_read(family: str, steps: int) -> None:
    told, expected = Told(own(family)), generated(own(family), SYSTEM, 6)
    one = told.sequence(SYSTEM, 50)
    told.engine.submit(one)
    for _ in range(steps):
        told.engine.step()
    told.engine.cancel(one.sequence_id)
    assert told.kept == [[*SYSTEM, *expected[: steps - 1]]]
    further = [*SYSTEM, *expected[:steps], 9]
    assert told.reply(further) == (generated(told.model, further, 6), 29 + steps)


def test_a_paused_reply_goes_on_from_its_cache_and_tells_of_no_reuse() -> None:
    told, expected = Told(own("falcon_h1")), generated(own("falcon_h1"), SYSTEM, 9)
    one, result = told.sequence(SYSTEM, 9, background=True), []
    told.engine.submit(one)
    result += [token_id for _ in range(3) for _, token_id in told.engine.step().tokens]
    told.engine.submit(told.sequence([1, 2, 3], 2))
    while told.engine.busy:
        result += [token_id for i, token_id in told.engine.step().tokens if i == one.sequence_id]
    assert result == expected
    assert told.read == len(SYSTEM) + 8 + 3 + 1
    assert not told.cached


def troubled(family: str) -> PreTrainedModel:
    """A model that has no numbers for one id and fails at another, in the middle of its layers."""
    model = tiny_model(family, scale=7.0, tie_word_embeddings=False)
    model.set_attn_implementation("eager")
    seen: list[torch.Tensor] = []

    def explode(*_: object) -> None:
        if (seen[-1] == EXPLODES).any():
            raise RuntimeError("planted")

    model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True)
    next(one for one in model.modules() if isinstance(one, nn.ModuleList))[1].register_forward_pre_hook(explode)
    with torch.no_grad():
        model.get_input_embeddings().weight[NOT_FINITE] = float("nan")
        # Nobody says them.
        model.get_output_embeddings().weight[[NOT_FINITE, EXPLODES]] = 0
    return model


@pytest.mark.parametrize("family", ["mamba", "jamba", "llama"])
@pytest.mark.parametrize("bad", [NOT_FINITE, EXPLODES])
def test_of_a_failed_reply_nothing_is_kept(family: str, bad: int) -> None:
    told = Told(troubled(family))
    new, _ = told.reply(SYSTEM)
    spoilt, turn = told.sequence([*SYSTEM, *new, bad, 5]), [*SYSTEM, *new, 5]
    assert isinstance(run(told.engine, [spoilt])[spoilt.sequence_id], Exception)
    assert not told.kept
    assert not told.runner._known
    assert told.reply(turn) == (generated(told.model, turn, 6), 0)


def test_of_a_reply_that_failed_while_it_was_drawn_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(own("mamba"))
    monkeypatch.setattr(Sequence, "banned_ids", lambda _: 1 / 0)
    one = told.sequence(SYSTEM)
    assert isinstance(run(told.engine, [one])[one.sequence_id], Exception)
    assert not told.kept


def fail_at(model: PreTrainedModel, *, forward: int, error: Exception) -> None:
    """Let one of the next forwards fail, in the middle."""
    left = iter([False] * forward + [True])

    def fail_once(*_: object) -> None:
        if next(left, False):
            raise error

    next(one for one in model.modules() if isinstance(one, nn.ModuleList))[1].register_forward_pre_hook(fail_once)


@pytest.mark.parametrize("forward", [0, 3])
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("planted"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_without_memory_what_is_kept_goes_first_and_the_reply_goes_on(forward: int, error: Exception) -> None:
    told = Told(troubled("falcon_h1"))
    other, (new, _) = told.reply([1, 2, 3]), told.reply(SYSTEM)
    ids = [*SYSTEM, *new, 5]
    expected = generated(told.model, ids, 6)
    fail_at(told.model, forward=forward, error=error)
    # Of what was reused, but had to be read again for the first token, nobody is told.
    assert told.reply(ids) == (expected, 0 if forward == 0 else 35)
    assert told.kept == [[*ids, *expected[:-1]]]
    assert told.engine.stats.snapshot()["pauses"] == 0
    assert told.reply([1, 2, 3]) == other


def test_without_memory_to_draw_with_what_is_kept_goes_before_a_reply_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(own("mamba"))
    expected = [told.reply([1, 2, 3])[0], told.reply(SYSTEM)[0]]
    banned = Sequence.banned_ids

    def scarce(one: Sequence) -> set[int]:
        if told.kept:
            raise torch.OutOfMemoryError("planted")
        return banned(one)

    monkeypatch.setattr(Sequence, "banned_ids", scarce)
    sequences = [told.sequence([1, 2, 3]), told.sequence(SYSTEM)]
    assert list(run(told.engine, sequences).values()) == expected


@pytest.mark.parametrize(("family", "cached"), [("mamba", False), ("llama", False), ("phi3_long", True)])
def test_nothing_is_kept_where_a_cache_is_not_trusted_or_depends_on_the_length(family: str, cached: bool) -> None:
    told = Told(own(family), cached=cached)
    expected = generated(told.model, SYSTEM, 6)
    assert [told.reply(SYSTEM) for _ in range(2)] == [(expected, 0), (expected, 0)]
    assert not told.kept


class OneByOne(PreTrainedModel):
    """A model that reads on from its cache one id at a time: several it takes for a beginning, or refuses."""

    config_class = LlamaConfig
    main_input_name = "input_ids"

    def __init__(self, config: LlamaConfig, *, refuses: bool = False) -> None:
        super().__init__(config)
        self.embeddings, self.head, self.refuses = nn.Embedding(64, 16), nn.Linear(16, 64), refuses

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings

    def forward(
        self, input_ids: torch.Tensor, past_key_values: tuple[torch.Tensor] | None = None, use_cache: bool = True
    ) -> CausalLMOutputWithPast:
        assert not self.refuses or past_key_values is None or input_ids.shape[1] == 1
        known = self.embeddings(input_ids)
        if past_key_values is not None and input_ids.shape[1] == 1:
            known = torch.cat([past_key_values[0], known], 1)
        logits = self.head(known[:, -1:] + known.mean(1, keepdim=True))
        return CausalLMOutputWithPast(logits=logits, past_key_values=(known,))  # type: ignore[arg-type]


@pytest.mark.parametrize("refuses", [False, True])
def test_a_model_that_reads_on_one_by_one_does_so_where_that_is_quicker(
    refuses: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    told = Told(OneByOne(LlamaConfig(vocab_size=64), refuses=refuses).eval())
    assert not told.runner._reads_on
    ids = [*range(10), *told.reply(list(range(10)))[0], 1, 2]
    expected, kept = Told(told.model).reply(ids)[0], told.kept
    told.runner._id_seconds = {False: 6.0, True: 1.0}
    assert told.runner.recall(Sequence(99, ids, greedy(1))) == 0
    assert told.kept == kept
    told.runner._id_seconds = {False: 5.9, True: 1.0}
    assert told.reply(ids) == (expected, 15)


EVENTS = st.lists(
    st.tuples(st.sampled_from(["submit", "submit", "cancel", "step", "step"]), st.integers(0, 2**16)), max_size=40
)


@functools.cache
def alone(family: str, ids: tuple[int, ...]) -> list[int]:
    """What is said without reuse."""
    return generated(own(family), list(ids), 4)


@pytest.mark.parametrize("family", ["mamba", "falcon_h1", "llama"])
@given(EVENTS)
@hypothesis_settings(max_examples=15, deadline=None, database=None)
def test_whatever_happens_each_reply_is_what_it_is_alone(family: str, events: list[tuple[str, int]]) -> None:
    told, asked, said = Told(own(family)), {}, {}
    for what, number in [*events, *[("step", 0)] * 60]:
        if what == "submit":
            # Few enough that they go on from each other.
            ids = [*SYSTEM[: 3 + number % 3], *alone(family, tuple(SYSTEM[: 3 + number % 3]))[: number // 3 % 5], 7]
            one = told.sequence(ids, 4, owner="ab"[number // 15 % 2], background=number // 30 % 4 == 0)
            asked[one.sequence_id], said[one.sequence_id] = tuple(ids), []
            told.engine.submit(one)
        elif what == "cancel" and asked:
            told.engine.cancel(1 + number % len(asked))
        elif told.engine.busy:
            for sequence_id, token_id in told.engine.step().tokens:
                said[sequence_id].append(token_id)
        assert len(told.kept) <= KEPT
    assert all(new == alone(family, asked[i])[: len(new)] for i, new in said.items())
    assert all(cached < len(asked[i]) for i, cached in told.cached.items())
    assert not told.runner._known or told.engine.busy


def test_numbers_that_are_not_finite_are_not_kept_whoever_ends_them() -> None:
    for bad, kept in ((5, 1), (NOT_FINITE, 0)):
        runner = SequentialRunner(troubled("mamba"))
        one = Sequence(1, [1, bad, 2], greedy(1))
        runner.forward(Step([], Chunk(one, 0, one.ids)))
        runner.forget(one)
        assert len(runner._kept) == kept
