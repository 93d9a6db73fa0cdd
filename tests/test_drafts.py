"""Drafts looked up in the text: what is found, that no reply changes by them, and when there are none."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from colab_llm_chat.engine.loop import Engine
from colab_llm_chat.engine.sequence import Sequence, Slot, Step
from colab_llm_chat.errors import ChatError
from colab_llm_chat.models.runners.drafts import KEY, LARGEST_STEP, MOST, Drafter, Lookup
from colab_llm_chat.models.runners.flat import FlatRunner
from colab_llm_chat.settings import SamplingParams, TokenRules
from tests.test_engine import CONTEXT, greedy, run
from tests.tiny_models import generated, tiny_model

# Random models with weights of this size go round in circles, some ids long.
LOOPING = 4.0
PROMPTS = ([5, 6, 7, 8] * 4, [9, 3, 9, 3, 9, 3, 9], [1, 2, 3])
ENDLESS = TokenRules(ignore_eos=True)
LLAMA = tiny_model("llama", scale=LOOPING)


class Counting(FlatRunner):
    """Counts steps and the drafts of each; `wrong` drafts ids that are not looked up."""

    def __init__(self, model: PreTrainedModel, *, drafts: bool = True, wrong: bool = False) -> None:
        super().__init__(model)
        self.steps, self.drafted = 0, 0
        self._drafts, self._wrong = drafts, wrong
        self.chunk_size = 16
        looked_up = self.draft

        def draft(step: Step) -> None:
            looked_up(step)
            for row in step.rows:
                row.drafts = row.drafts if self._drafts else []
                if self._wrong and step.chunk is None:
                    row.drafts = [random.Random(len(row.ids)).randrange(100) for _ in range(3)]
            self.steps += 1
            self.drafted += sum(len(row.drafts) for row in step.rows)

        self.draft = draft


def replies(runner: FlatRunner, sampling: SamplingParams, rules: TokenRules = ENDLESS) -> dict[int, list[int]]:
    asked = [Sequence(i, list(ids), sampling, rules=rules) for i, ids in enumerate(PROMPTS)]
    results = run(Engine(runner, max_rows=3, context_length=CONTEXT), asked, late=1)
    return {i: ids for i, ids in results.items() if not isinstance(ids, ChatError)}


@given(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.integers(1, 9))
def test_what_is_found_followed_the_last_ids_before(ids: list[int], most: int) -> None:
    lookup = Lookup()
    lookup.rate = 0.94
    found = lookup.find(ids, most)
    places = [at for at in range(len(ids) - KEY) if ids[at : at + KEY] == ids[-KEY:]]
    assert bool(found) == bool(places)
    whole = list(ids)
    for one in found:
        assert one == whole[places[-1] + KEY + len(whole) - len(ids)]
        whole.append(one)
    assert len(found) <= min(most, MOST)


def test_a_text_that_grows_is_searched_to_its_end() -> None:
    lookup, ids = Lookup(), [1, 2, 3, 4]
    assert lookup.find(ids, 2) == []
    assert lookup.find([*ids, 9, 2, 3, 4], 2) == [9, 2]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_drafts_change_no_greedy_reply_and_save_steps(family: str) -> None:
    model = tiny_model(family, scale=LOOPING, tie_word_embeddings=False)
    model.set_attn_implementation("eager")
    expected = {i: generated(model, list(ids), 60) for i, ids in enumerate(PROMPTS)}
    plain = Counting(model, drafts=False)
    assert replies(plain, greedy(60)) == expected
    drafting = Counting(model)
    assert replies(drafting, greedy(60)) == expected
    assert drafting.drafted > 0
    assert drafting.steps < plain.steps


@pytest.mark.parametrize("wrong", [False, True])
def test_drafts_change_no_seeded_reply(wrong: bool) -> None:
    seeded = SamplingParams(temperature=0.1, top_p=0.9, max_new_tokens=40, seed=5)
    expected = replies(Counting(LLAMA, drafts=False), seeded)
    drafting = Counting(LLAMA, wrong=wrong)
    assert replies(drafting, seeded) == expected
    assert drafting.drafted > 0


def test_a_draft_that_is_wrong_is_computed_anew() -> None:
    expected = replies(Counting(LLAMA, drafts=False), greedy(40))
    runner = Counting(LLAMA, wrong=True)
    assert replies(runner, greedy(40)) == expected
    assert runner.drafted > 0


def test_an_end_of_text_among_drafts_ends_the_reply_there() -> None:
    ids = replies(Counting(LLAMA, drafts=False), greedy(60))[0]
    last = ids[-1]
    runner = Counting(LLAMA)
    asked = Sequence(0, list(PROMPTS[0]), greedy(60), eos_token_ids=frozenset({last}))
    assert run(Engine(runner, max_rows=3, context_length=CONTEXT), [asked])[0] == ids[: ids.index(last)]
    assert runner.drafted > 0


def test_a_reply_has_as_many_tokens_and_log_probabilities_as_it_may() -> None:
    told = []
    for drafts in (False, True):
        engine = Engine(Counting(LLAMA, drafts=drafts), max_rows=3, context_length=CONTEXT)
        engine.submit(Sequence(0, list(PROMPTS[0]), greedy(33), rules=TokenRules(top_logprobs=2, ignore_eos=True)))
        told.append([])
        while engine.busy:
            report = engine.step()
            told[-1] += [report.logprobs[at].logprob for at in range(len(report.tokens))]
    assert len(told[0]) == 33
    assert told[1] == pytest.approx(told[0], abs=1e-4)


@pytest.mark.parametrize(
    ("sampling", "rules"),
    [
        ({"repetition_penalty": 1.2}, {}),
        ({"frequency_penalty": 0.5}, {}),
        ({"presence_penalty": 0.5}, {}),
        ({"no_repeat_ngram_size": 30}, {}),
        ({}, {"min_tokens": 99}),
    ],
)
def test_what_depends_on_each_id_before_is_not_drafted(sampling: dict[str, float], rules: dict[str, int]) -> None:
    runner = Counting(LLAMA)
    replies(runner, greedy(40, **sampling), TokenRules(**rules))
    assert runner.drafted == 0


BAD = 250


class Guessing(FlatRunner):
    """Drafts one id that the model cannot compute, once in each reply."""

    drafted = 0

    def draft(self, step: Step) -> None:
        for row in step.rows:
            row.drafts = [BAD] if step.chunk is None and row.generated == 5 else []
            self.drafted += len(row.drafts)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_draft_whose_numbers_are_not_finite_fails_nobody(value: float) -> None:
    model = tiny_model("llama", scale=LOOPING, tie_word_embeddings=False)
    expected = replies(Counting(model, drafts=False), greedy(20))
    with torch.no_grad():
        model.model.embed_tokens.weight[BAD] = value
    assert not any(BAD in ids for ids in expected.values())
    runner = Guessing(model)
    assert replies(runner, greedy(20)) == expected
    assert runner.drafted > 0


class Failing(Counting):
    """Can compute no draft at all."""

    def forward(self, step: Step) -> torch.Tensor:
        if any(row.drafts for row in step.rows):
            raise RuntimeError("planted")
        return super().forward(step)


def test_a_step_that_fails_only_with_drafts_fails_nobody() -> None:
    expected = replies(Counting(LLAMA, drafts=False), greedy(40))
    runner = Failing(LLAMA, wrong=True)
    assert replies(runner, greedy(40)) == expected
    assert runner.drafted > 0


def row(ids: list[int], **fields: int) -> Sequence:
    return Sequence(1, ids, greedy(99), slot=Slot(0, 256), **fields)


def drafts_of(drafter: Drafter, one: Sequence) -> list[int]:
    """After plain steps and good luck so far."""
    for _ in range(2):
        drafter.learn(Step([row([1])]), {}, 0.1)
    for _ in range(20):
        drafter.draft(Step([one]))
        drafter.learn(Step([one]), {one: len(one.drafts)}, 0.1)
    return one.drafts


def test_drafts_end_where_model_slot_and_reply_end() -> None:
    ids = [7, 8, 9] * 5
    assert drafts_of(Drafter(10**6), row(list(ids))) == [7, 8, 9, 7, 8, 9, 7, 8]
    assert len(drafts_of(Drafter(17), row(list(ids)))) == 2
    assert len(drafts_of(Drafter(10**6), Sequence(1, list(ids), greedy(4), slot=Slot(0, 256)))) == 3
    assert len(drafts_of(Drafter(10**6), Sequence(1, list(ids), greedy(99), slot=Slot(0, 16)))) == 1
    assert len(drafts_of(Drafter(10**6), row(list(ids), switch_length=20))) == 5


def test_drafts_that_are_wrong_or_cost_too_much_are_left_out() -> None:
    wrong, slow, one, other = Drafter(10**6), Drafter(10**6), row([7, 8, 9] * 5), row([7, 8, 9] * 5)
    assert drafts_of(wrong, one)
    for _ in range(9):
        wrong.draft(Step([one]))
        wrong.learn(Step([one]), {one: 0}, 0.1)
    assert one.drafts == []
    tried = []
    for _ in range(9):
        slow.draft(Step([other]))
        slow.learn(Step([other]), {other: len(other.drafts)}, 9.9 if other.drafts else 0.1)
        tried.append(len(other.drafts))
    assert (any(tried), tried[-1]) == (True, 0)


def test_many_rows_have_fair_shares_of_a_step() -> None:
    drafter, rows = Drafter(10**6), [row([7, 8, 9] * 5) for _ in range(20)]
    for _ in range(2):
        drafter.learn(Step([row([1]) for _ in rows]), {}, 0.1)
    for _ in range(9):
        drafter.draft(Step(rows))
        drafter.learn(Step(rows), {one: len(one.drafts) for one in rows}, 0.1)
    shares = [len(one.drafts) for one in rows]
    assert sum(shares) == LARGEST_STEP - len(rows)
    assert min(shares) >= 2


def test_drafts_that_cost_too_much_are_given_up_for_steps_of_their_size_only() -> None:
    drafter, one, few = Drafter(10**6), row([7, 8, 9] * 5), Sequence(1, [7, 8, 9] * 5, greedy(3), slot=Slot(0, 256))
    assert drafts_of(drafter, one)
    for _ in range(9):
        drafter.draft(Step([one]))
        drafter.learn(Step([one]), {one: len(one.drafts)}, 9.9 if len(one.drafts) == MOST else 0.1)
    assert one.drafts == []
    assert len(drafts_of(drafter, few)) == 2
