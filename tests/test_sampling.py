"""Drawing token ids: the distribution that each setting leaves, and that rows do not touch each other."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from colab_llm_chat.engine import sampling
from colab_llm_chat.engine.reports import Logprobs
from colab_llm_chat.engine.rules import ruled
from colab_llm_chat.engine.sampling import sample
from colab_llm_chat.engine.sequence import Sequence
from colab_llm_chat.settings import SamplingParams, TokenRules

VOCAB = 50


def logits_of(seed: int, *, rows: int = 1, vocab: int = VOCAB) -> torch.Tensor:
    return 3 * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))


def allowed_by_transformers(logits: torch.Tensor, params: SamplingParams) -> set[int]:
    """The ids that generate's own warpers leave."""
    scores = TemperatureLogitsWarper(params.temperature)(None, logits)
    if params.top_k:
        scores = TopKLogitsWarper(params.top_k)(None, scores)
    if params.top_p < 1:
        scores = TopPLogitsWarper(params.top_p)(None, scores)
    if params.min_p:
        scores = MinPLogitsWarper(params.min_p)(None, scores)
    return set(torch.isfinite(scores[0]).nonzero().flatten().tolist())


def drawn_ids(logits: torch.Tensor, params: SamplingParams, draws: int) -> list[int]:
    """Each as the next token of one row, whose prompt and reply say nothing of it."""
    row, ids = Sequence(0, [1], params), []
    for _ in range(draws):
        ids.append(sample(logits, [row])[0].token_id)
        row.append(ids[-1], context_length=10**9)
    return ids


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 99),
    st.sampled_from([0, 1, 5, 49, 200]),
    st.sampled_from([0.1, 0.5, 0.9, 1.0]),
    st.sampled_from([0.0, 0.05, 0.5]),
    st.sampled_from([0.3, 1.0, 2.0]),
)
def test_only_ids_that_the_settings_leave_are_drawn(
    seed: int, top_k: int, top_p: float, min_p: float, temperature: float
) -> None:
    logits = logits_of(seed)
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    assert set(drawn_ids(logits, params, 40)) <= allowed_by_transformers(logits, params)


@pytest.mark.parametrize("candidates", [1024, 3])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (0, 0.8), (10, 1.0), (10, 0.8)])
def test_ids_are_drawn_as_often_as_their_probability_says(
    top_k: int, top_p: float, candidates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "TOP_P_CANDIDATES", candidates)
    logits = logits_of(3, vocab=20)
    params = SamplingParams(temperature=1.0, top_k=top_k, top_p=top_p, seed=5)
    kept = sorted(allowed_by_transformers(logits, params))
    want = torch.softmax(logits[0, kept], -1)
    counts = torch.bincount(torch.tensor(drawn_ids(logits, params, 4000)), minlength=20)[kept] / 4000
    assert float((counts - want).abs().max()) < 0.03


@pytest.mark.parametrize("top_p", [0.001, 0.5, 0.95])
@pytest.mark.parametrize("min_p", [0.0, 0.05])
def test_top_p_that_reaches_beyond_the_candidates_is_exact(
    top_p: float, min_p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "TOP_P_CANDIDATES", 3)
    logits = logits_of(8)
    params = SamplingParams(temperature=2.0, top_k=0, top_p=top_p, min_p=min_p, seed=1)
    kept = allowed_by_transformers(logits, params)
    assert set(drawn_ids(logits, params, 40 * len(kept))) <= kept
    # Whatever number is drawn, also the first and the last that there can be.
    row = Sequence(0, [1], params)
    reached = set()
    for at in range(2000):
        monkeypatch.setattr(Sequence, "uniform", lambda _row, _ahead, number=at / 1999 * (1 - 2**-53): number)
        reached.add(sample(logits, [row])[0].token_id)
    assert reached == kept


def kept_by_sorting(probabilities: torch.Tensor, top_p: float) -> set[int]:
    """The ids, likeliest first, until their probabilities reach top_p, and those as likely as the last of them."""
    falling = probabilities.double().sort(descending=True).values
    count = int((falling.cumsum(0) - falling < top_p).sum().clamp(min=1))
    return set(((probabilities >= falling[count - 1]) & (probabilities > 0)).nonzero().flatten().tolist())


def nucleus(probabilities: torch.Tensor, top_p: float, numbers: list[float], rows: int = 1) -> list[int]:
    """An id for each of these uniform numbers, of `rows` rows at a time."""
    drawn = [Sequence(i, [1], SamplingParams(top_p=top_p)) for i in range(rows)]
    together = probabilities.expand(rows, -1).contiguous()
    parts = torch.tensor(numbers, dtype=torch.float64).view(-1, rows, 1)
    return [one for part in parts for one in sampling._pick_nucleus(together, drawn, part).tolist()]


# Even, tied, one likely, none but one, and so small that float32 has few digits left.
SHAPES = st.sampled_from([[1.0], [1.0, 2.0], [1.0, 1e6], [0.0, 1.0], [1.0, 3.0, 7.0, 1e-42], [1e-6, 1.0, 1.5]])


@st.composite
def distributions(draw: st.DrawFn) -> torch.Tensor:
    weights = draw(st.lists(SHAPES.flatmap(st.sampled_from), min_size=1, max_size=300))
    shares = torch.tensor([*weights, 1.0]).double()
    return (shares / shares.sum()).float()


@hypothesis_settings(max_examples=200, deadline=None)
@given(distributions(), st.sampled_from([1e-12, 0.001, 0.3, 0.5, 0.9, 0.999999]))
def test_top_p_over_the_whole_vocabulary_keeps_what_sorting_keeps(probabilities: torch.Tensor, top_p: float) -> None:
    kept = sorted(kept_by_sorting(probabilities, top_p))
    weights = probabilities[kept].double()
    # The middle of each kept id's share, and both ends of all.
    middles = ((weights.cumsum(0) - weights / 2) / weights.sum()).tolist()
    reached = nucleus(probabilities, top_p, [0.0, *middles, 1 - 2**-53])
    seen = weights > 1e-12
    assert set(reached) <= set(kept)
    assert [one for one, is_seen in zip(reached[1:-1], seen, strict=True) if is_seen] == [
        one for one, is_seen in zip(kept, seen, strict=True) if is_seen
    ]


@pytest.mark.parametrize("top_p", [1e-12, 0.5, 0.999999])
def test_one_sure_id_is_all_that_top_p_keeps(top_p: float) -> None:
    sure = torch.zeros(3000)
    sure[1234] = 1.0
    assert nucleus(sure, top_p, [0.0, 0.5, 1 - 2**-53], rows=3) == [1234] * 3


def test_equal_probabilities_are_kept_together() -> None:
    assert set(nucleus(torch.full((8,), 0.125), 0.01, [(i + 0.5) / 8 for i in range(8)])) == set(range(8))


@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0])
def test_whether_the_candidates_are_tried_first_changes_no_id(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = spread * logits_of(5, rows=6, vocab=5000) / 3

    def drawn() -> list[int]:
        rows = [Sequence(i, [1], SamplingParams(temperature=0.9, top_k=0, top_p=0.9, seed=i)) for i in range(6)]
        return [one.token_id for one in sample(logits, rows)]

    ids = drawn()
    monkeypatch.setattr(torch.linalg, "vector_norm", lambda values, dim: values.new_full(values.shape[:-1], torch.inf))
    assert drawn() == ids


def test_flat_peaked_and_greedy_rows_draw_the_same_in_any_company() -> None:
    spreads = torch.tensor([[0.02], [3.0], [0.3], [0.02], [1.0], [2.0]])
    logits = spreads * logits_of(9, rows=6, vocab=5000)
    knobs = [(0.8, 0, 0.9), (0.8, 0, 0.9), (0.8, 0, 0.9), (0.0, 0, 0.9), (0.8, 50, 0.9), (0.8, 0, 1.0)]
    params = [SamplingParams(temperature=t, top_k=k, top_p=p, seed=i) for i, (t, k, p) in enumerate(knobs)]
    together = [drawn.token_id for drawn in sample(logits, [Sequence(i, [1], p) for i, p in enumerate(params)])]
    alone = [sample(logits[i : i + 1], [Sequence(i, [1], p)])[0].token_id for i, p in enumerate(params)]
    assert together == alone


def test_a_flat_row_that_is_not_finite_is_marked_and_touches_no_other() -> None:
    logits = 0.02 * logits_of(1, rows=3, vocab=5000)
    params = [SamplingParams(temperature=1.0, top_k=0, top_p=0.9, seed=i) for i in range(3)]
    sound = sample(logits, [Sequence(i, [1], p) for i, p in enumerate(params)])
    logits[1, 4] = float("nan")
    drawn = sample(logits, [Sequence(i, [1], p) for i, p in enumerate(params)])
    assert [one.finite for one in drawn] == [True, False, True]
    assert [drawn[0], drawn[2]] == [sound[0], sound[2]]
    assert nucleus(torch.full((5000,), float("nan")), 0.9, [0.0, 0.5], rows=2) == [4999] * 2


@hypothesis_settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.7, 1.5]), st.sampled_from([0, 3, 50]), st.sampled_from([0.4, 1.0])),
        min_size=2,
        max_size=8,
    ),
    st.sampled_from([1024, 2]),
)
def test_a_row_draws_the_same_in_any_company(kinds: list[tuple[float, int, float]], candidates: int) -> None:
    logits = logits_of(2, rows=len(kinds))
    params = [SamplingParams(temperature=t, top_k=k, top_p=p, seed=i) for i, (t, k, p) in enumerate(kinds)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "TOP_P_CANDIDATES", candidates)
        together = [drawn.token_id for drawn in sample(logits, [Sequence(i, [1], p) for i, p in enumerate(params)])]
        alone = [sample(logits[i : i + 1], [Sequence(i, [1], p)])[0].token_id for i, p in enumerate(params)]
    assert together == alone


@pytest.mark.parametrize("temperature", [0.0, 5e-324, 1e-46, 1e-38, 1e-6, 1e-5, 1e-4])
@pytest.mark.parametrize("top_k", [0, 1, 50])
def test_temperature_near_zero_takes_the_likeliest(temperature: float, top_k: int) -> None:
    logits = logits_of(4)
    params = SamplingParams(temperature=temperature, top_k=top_k)
    assert drawn_ids(logits, params, 3) == [int(logits.argmax())] * 3


def test_unseeded_rows_differ() -> None:
    logits = torch.zeros(1, 1000)
    assert len(set(drawn_ids(logits, SamplingParams(temperature=1.0, top_k=0, top_p=1.0), 20))) > 10


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_with_numbers_that_are_not_finite_is_marked(bad: float) -> None:
    logits = logits_of(1, rows=3)
    logits[1, 4] = bad
    rows = [Sequence(i, [1], SamplingParams(seed=i)) for i in range(3)]
    assert [drawn.finite for drawn in sample(logits, rows)] == [True, False, True]


def test_logits_of_minus_infinity_are_never_drawn() -> None:
    logits = torch.full((1, VOCAB), float("-inf"))
    logits[0, 7] = 0.0
    params = SamplingParams(temperature=1.0, top_k=0, top_p=1.0)
    assert set(drawn_ids(logits, params, 10)) == {7}


def test_repeated_runs_are_banned() -> None:
    row = Sequence(0, [1, 2, 3, 1, 2], SamplingParams(no_repeat_ngram_size=3))
    assert row.banned_ids() == {3}
    logits = torch.zeros(1, VOCAB)
    logits[0, 3] = 100.0
    assert sample(logits, [row])[0].token_id != 3


def after(reply: list[int], params: SamplingParams, **rules: object) -> Sequence:
    """A row with prompt 1, 2 and this reply."""
    row = Sequence(0, [1, 2], params, eos_token_ids=frozenset({3}), rules=TokenRules(**rules))
    for token_id in reply:
        row.append(token_id, context_length=10**9)
    return row


@pytest.mark.parametrize("penalty", [0.7, 1.3])
def test_repetition_penalty_is_that_of_generate(penalty: float) -> None:
    logits = logits_of(6)
    row = after([7, 8, 7], SamplingParams(repetition_penalty=penalty))
    want = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([row.ids]), logits)
    assert torch.equal(ruled(logits, [row]), want)
    row.append(9, context_length=10**9)
    want = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([row.ids]), logits)
    assert torch.equal(ruled(logits, [row]), want)


def test_frequency_and_presence_count_the_reply_only() -> None:
    logits = logits_of(6)
    row = after([7, 8, 7], SamplingParams(frequency_penalty=0.5, presence_penalty=-1.5))
    want = logits.clone()
    for token_id, count in ((7, 2), (8, 1)):
        want[0, token_id] += 1.5 - 0.5 * count
    torch.testing.assert_close(ruled(logits, [row]), want)


def test_bias_is_added_and_ids_beyond_the_vocabulary_are_passed_over() -> None:
    logits = logits_of(6)
    want = logits.clone()
    want[0, 4] += 2.5
    want[0, 9] -= 100
    assert torch.equal(ruled(logits, [after([], SamplingParams(), logit_bias={4: 2.5, 9: -100.0, VOCAB: 5.0})]), want)


@pytest.mark.parametrize(
    ("rules", "length", "ends"),
    [
        ({"min_tokens": 3}, 2, False),
        ({"min_tokens": 3}, 3, True),
        ({"ignore_eos": True}, 9, False),
    ],
)
def test_a_reply_ends_no_earlier_than_its_rules_say(rules: dict[str, object], length: int, ends: bool) -> None:
    logits = torch.zeros(1, VOCAB)
    logits[0, 3] = 50.0
    row = after([5] * length, SamplingParams(temperature=0.0), **rules)
    assert (sample(logits, [row])[0].token_id == 3) is ends


def test_logprobs_are_those_of_the_softmax_before_temperature() -> None:
    logits = logits_of(7)
    row = after([], SamplingParams(temperature=0.3, top_k=2, seed=1), top_logprobs=4, logit_bias={11: 3.0})
    logits[0, 12] = float("-inf")
    biased = logits.index_add(1, torch.tensor([11]), torch.tensor([[3.0]]))
    want = biased.log_softmax(-1)[0]
    drawn = sample(logits, [row])[0]
    assert drawn.logprobs is not None
    assert drawn.logprobs.logprob == pytest.approx(float(want[drawn.token_id]), abs=1e-5)
    assert [one for one, _ in drawn.logprobs.top] == want.topk(4).indices.tolist()
    assert [value for _, value in drawn.logprobs.top] == pytest.approx(want.topk(4).values.tolist(), abs=1e-5)


def test_logprobs_come_for_the_rows_that_ask_and_leave_impossible_ids_out() -> None:
    logits = torch.full((3, VOCAB), float("-inf"))
    logits[:, 7], logits[:, 8] = 0.0, 0.0
    rows = [after([], SamplingParams(temperature=0.0), top_logprobs=n) for n in (None, 0, 20)]
    told = [drawn.logprobs for drawn in sample(logits, rows)]
    assert told[0] is None
    assert told[1] == Logprobs(pytest.approx(math.log(0.5)))
    assert told[2] is not None
    assert sorted(one for one, _ in told[2].top) == [7, 8]


def test_bans_leave_the_least_bad_id_and_are_no_alternative() -> None:
    row = after([7], SamplingParams(temperature=1.0, no_repeat_ngram_size=1), top_logprobs=3)
    logits = torch.full((1, VOCAB), float("-inf"))
    logits[0, 7] = 0.0
    assert sample(logits, [row])[0].token_id == 7
    logits[0, 9] = -5.0
    assert sample(logits, [row])[0].logprobs == Logprobs(0.0, ((9, 0.0),))


KNOBS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.7, 1.5]),
        "top_k": st.sampled_from([0, 3, 200]),
        "top_p": st.sampled_from([0.5, 1.0]),
        "min_p": st.sampled_from([0.0, 0.1]),
        "repetition_penalty": st.sampled_from([0.8, 1.0, 1.5]),
        "frequency_penalty": st.sampled_from([-1.0, 0.0, 2.0]),
        "presence_penalty": st.sampled_from([0.0, 1.0]),
        "no_repeat_ngram_size": st.sampled_from([0, 1, 2]),
    }
)
RULES = st.fixed_dictionaries(
    {
        "logit_bias": st.dictionaries(st.integers(0, VOCAB - 1), st.sampled_from([-100.0, 2.0]), max_size=3),
        "top_logprobs": st.sampled_from([None, 0, 5]),
        "min_tokens": st.sampled_from([0, 9]),
    }
)


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(KNOBS, RULES, st.lists(st.integers(4, 20), max_size=5)), min_size=2, max_size=6))
def test_a_row_with_every_knob_draws_the_same_in_any_company(
    kinds: list[tuple[dict[str, float], dict[str, object], list[int]]],
) -> None:
    def rows() -> list[Sequence]:
        return [after(reply, SamplingParams(**knobs, seed=5), **rules) for knobs, rules, reply in kinds]

    logits = logits_of(2, rows=len(kinds))
    together = sample(logits, rows())
    alone = [sample(logits[i : i + 1], [row])[0] for i, row in enumerate(rows())]
    assert [one.token_id for one in together] == [one.token_id for one in alone]
    for one, other in zip(together, alone, strict=True):
        assert (one.logprobs is None) == (other.logprobs is None)
        if one.logprobs is not None and other.logprobs is not None:
            assert one.logprobs.logprob == pytest.approx(other.logprobs.logprob, abs=1e-5)
            assert [top for top, _ in one.logprobs.top] == [top for top, _ in other.logprobs.top]
