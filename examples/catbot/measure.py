"""Asks a model for replies to many lines at once and scores them. Knows no bars and no files."""

from collections.abc import Sequence

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from examples.catbot.baseline import run_baselines
from examples.catbot.data import Line, Split
from examples.catbot.replies import is_well_formed, read_replies

SAMPLING = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 0}


def replies_to(
    texts: Sequence[str],
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int | None,
    batch: int = 32,
) -> list[str]:
    """One reply to each text: sampled as the product samples, or greedy where `seed` is None."""
    replies: list[str] = []
    torch.manual_seed(seed or 0)
    for start in range(0, len(texts), batch):
        talks = [[{"role": "user", "content": text}] for text in texts[start : start + batch]]
        inputs = tokenizer.apply_chat_template(
            talks, add_generation_prompt=True, return_dict=True, return_tensors="pt", padding=True
        )
        how = {"do_sample": False} if seed is None else SAMPLING
        with torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=512, **how)
        new = out[:, inputs["input_ids"].shape[1] :]
        replies += tokenizer.batch_decode(new, skip_special_tokens=True)
    return replies


def hits(replies: Sequence[str], lines: Sequence[Line]) -> list[bool]:
    """For each reply whether it belongs to its line's situation."""
    table = read_replies()
    return [table.situation_of(reply) == line.situation for reply, line in zip(replies, lines, strict=True)]


def percent(marks: Sequence[bool]) -> float:
    """Share of true marks, in percent."""
    return 100 * sum(marks) / max(1, len(marks))


def fit_of_validation(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, split: Split) -> str:
    """One line of figures on the validation groups, n-gram classifier beside it."""
    lines = split.validation
    texts = [line.text for line in lines]
    greedy = replies_to(texts, model, tokenizer, seed=None)
    sampled = [replies_to(texts, model, tokenizer, seed=seed) for seed in range(1, 5)]
    fits = [percent(hits(replies, lines)) for replies in sampled]
    form = percent([is_well_formed(reply) for replies in sampled for reply in replies])
    best = run_baselines(split.train, lines)[0]
    return (
        f"{len(lines)} lines: greedy {percent(hits(greedy, lines)):.1f} % sampled {sum(fits) / len(fits):.1f} % "
        f"form {form:.1f} % | n-grams {best.fit_percent(lines):.1f} % ({best.name})"
    )
