"""Evaluates the shipped demo model on held-out lines: `python -m examples.catbot.evaluate`.

Prints each figure with its bar and a verdict; exit status 1 if one fails. Sampled as the product samples.
"""

import random
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from sklearn.exceptions import ConvergenceWarning
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.generation.streamers import BaseStreamer
from transformers.utils import logging

from examples.catbot.baseline import Baseline, run_baselines
from examples.catbot.data import SEED, Line, build_split
from examples.catbot.measure import SAMPLING, hits, percent, replies_to
from examples.catbot.replies import is_well_formed, read_replies
from examples.catbot.train import SHIPPED

MORE_SEEDS = range(1, 6)
RESAMPLES = 4000
ODD_LINES = [
    "", " ", "?", "ｶﾀｶﾅ", "😀😀😀", "1234567890", "SELECT * FROM cats;", "{\"a\": [1, 2, 3]}", "\n\n\n", "龘麤鑰",
    "Wie alt bist du eigentlich?", "今日的會議取消了", "오늘 회의가 있어요", "Сколько стоит билет?", "שלום עולם",
    "for i in range(10): print(i)", "あ" * 300, "lorem ipsum " * 60, "会議の資料を" * 80, "9" * 500, "🛰️" * 100,
]  # fmt: skip


@dataclass(frozen=True)
class Bar:
    """One figure and what it has to reach."""

    name: str
    value: float
    passes: Callable[[float], bool]
    limit: str

    def report(self) -> str:
        """The verdict line."""
        return f"{'pass' if self.passes(self.value) else 'FAIL'}  {self.name}: {self.value:.2f} (bar {self.limit})"


class FirstCharacter(BaseStreamer):
    """Notes when the first whole character of a reply is there."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer, self.ids, self.at = tokenizer, list[int](), 0.0

    def put(self, value: torch.Tensor) -> None:
        """Takes the prompt (two dimensions) and then each new token."""
        if value.dim() == 1 and not self.at:
            self.ids += value.tolist()
            text = self.tokenizer.decode(self.ids, skip_special_tokens=True)
            self.at = time.perf_counter() if text and "\ufffd" not in text else 0.0

    def end(self) -> None:
        """Nothing to flush."""


@dataclass(frozen=True)
class Run:
    """Replies drawn one after the other; seconds to the first character and to the end of each."""

    replies: list[str]
    first: list[float]
    whole: list[float]

    @property
    def characters_per_second(self) -> float:
        """The median over replies, prompts included: a mean would time whatever else the machine does."""
        return median(len(reply) / seconds for reply, seconds in zip(self.replies, self.whole, strict=True))


def run_alone(texts: Sequence[str], model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Run:
    """Sampled replies, one request at a time, as a single person meets them."""
    torch.manual_seed(SEED)
    replies, first, whole = [], [], []
    for text in texts:
        started, streamer = time.perf_counter(), FirstCharacter(tokenizer)
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
        with torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=512, streamer=streamer, **SAMPLING)
        first.append(streamer.at - started)
        whole.append(time.perf_counter() - started)
        replies.append(tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return Run(replies, first, whole)


def load() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, float]:
    """The shipped model and tokenizer, and the seconds it took."""
    started = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    model = AutoModelForCausalLM.from_pretrained(SHIPPED, dtype=torch.float32).eval()
    return model, tokenizer, time.perf_counter() - started


def interval(differences: Sequence[int], lines: Sequence[Line]) -> tuple[float, float]:
    """95 % of the mean difference in points, by resampling whole template groups."""
    rng, groups = random.Random(SEED), dict[str, list[int]]()
    for difference, line in zip(differences, lines, strict=True):
        groups.setdefault(line.group, []).append(difference)
    means = []
    for _ in range(RESAMPLES):
        drawn = [value for values in rng.choices(list(groups.values()), k=len(groups)) for value in values]
        means.append(100 * sum(drawn) / len(drawn))
    means.sort()
    return means[RESAMPLES // 40], means[-RESAMPLES // 40]


def compare(name: str, marks: Sequence[bool], best: Baseline, lines: Sequence[Line]) -> str:
    """Model and n-grams side by side, for all lines, plain lines and lines of two clauses."""
    guessed = [guess == line.situation for guess, line in zip(best.guesses, lines, strict=True)]
    parts = [("all", lambda line: True), ("plain", lambda line: not line.compound)]
    parts += [("two clauses", lambda line: line.compound), ("Japanese", lambda line: line.language == "ja")]
    parts += [("English and others", lambda line: line.language == "en")]
    cells = []
    for part, wanted in parts:
        chosen = [at for at, line in enumerate(lines) if wanted(line)]
        own, other = percent([marks[at] for at in chosen]), percent([guessed[at] for at in chosen])
        cells.append(f"{part} ({len(chosen)}) {own:.1f} vs {other:.1f}")
    low, high = interval([int(a) - int(b) for a, b in zip(marks, guessed, strict=True)], lines)
    return f"{name} fit %, model vs n-grams: {', '.join(cells)}; difference 95 % interval {low:+.1f} to {high:+.1f}"


def main() -> int:
    """Prints everything; 0 if every bar is passed."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    logging.disable_progress_bar()
    torch.set_num_threads(2)
    model, tokenizer, seconds = load()
    split = build_split()
    lines, texts = split.held_out, [line.text for line in split.held_out]
    baselines = run_baselines(split.train, lines)
    run_alone(texts[:3], model, tokenizer)
    run = run_alone(texts, model, tokenizer)
    marks = hits(run.replies, lines)
    print(f"{len(split.train)} training lines, {len(lines)} held-out lines of {_groups(lines)} template groups")
    for baseline in baselines:
        print(f"n-gram classifier {baseline.name}: {baseline.fit_percent(lines):.1f} %")
    print(compare("sampled", marks, baselines[0], lines))
    greedy = replies_to(texts, model, tokenizer, seed=None)
    print(compare("greedy", hits(greedy, lines), baselines[0], lines))
    more = [percent(hits(replies_to(texts, model, tokenizer, seed=seed), lines)) for seed in MORE_SEEDS]
    print("sampled fit with other seeds:", ", ".join(f"{value:.1f} %" for value in more))
    print(_odd(model, tokenizer))
    print(f"mean characters per second: {sum(map(len, run.replies)) / sum(run.whole):.0f}")
    bars = _bars(run, marks, seconds, baselines[0].fit_percent(lines))
    print("\n".join(bar.report() for bar in bars))
    return 0 if all(bar.passes(bar.value) for bar in bars) else 1


def _bars(run: Run, marks: Sequence[bool], seconds: float, rival: float) -> list[Bar]:
    fit = percent(marks)
    form = percent([is_well_formed(reply) for reply in run.replies])
    return [
        Bar("form %", form, lambda value: value >= 95, ">= 95"),
        Bar("different replies", len(set(run.replies)), lambda value: value >= 30, ">= 30"),
        Bar("fit %", fit, lambda value: value >= 60, ">= 60"),
        Bar("fit % against n-grams", fit, lambda value: value > rival, f"> {rival:.2f}"),
        Bar("load seconds", seconds, lambda value: value < 2, "< 2"),
        Bar("first character ms", 1000 * median(run.first), lambda value: value < 200, "< 200"),
        Bar("characters per second", run.characters_per_second, lambda value: value >= 100, ">= 100"),
    ]


def _groups(lines: Sequence[Line]) -> int:
    return len({line.group for line in lines})


def _odd(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> str:
    replies = replies_to(ODD_LINES, model, tokenizer, seed=1, batch=1)
    table = read_replies()
    formed = percent([is_well_formed(reply) for reply in replies])
    other = percent([table.situation_of(reply) == "other" for reply in replies])
    return f"{len(replies)} odd inputs: form {formed:.0f} %, answered as `other` {other:.0f} %"


if __name__ == "__main__":
    sys.exit(main())
