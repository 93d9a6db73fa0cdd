"""Trains the demo model from nothing: `python -m examples.catbot.train`, seeded, on the CPU.

Writes the folder that ships inside the package. With `--validate` some template groups are kept out of
training, their figures are printed and nothing is shipped: that is how settings are chosen.
"""

import argparse
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import (
    DataCollatorForSeq2Seq,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

from examples.catbot.data import SEED, SYSTEM_PROMPTS, Message, Split, build_split, conversations
from examples.catbot.measure import fit_of_validation
from examples.catbot.replies import read_replies
from examples.catbot.tokenizer import CONTEXT, train_tokenizer

SHIPPED = Path(__file__).parents[2] / "colab_llm_chat" / "models" / "demo"
NO_LOSS = -100


@dataclass(frozen=True)
class Recipe:
    """Every number of the training; chosen on the validation groups, never on the held-out ones."""

    vocabulary: int = 2048
    width: int = 128
    inner: int = 352
    layers: int = 3
    heads: int = 4
    rounds: int = 5
    batch: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    attention_dropout: float = 0.1
    warmup: float = 0.05
    seed: int = SEED


class Examples(Dataset[dict[str, list[int]]]):
    """Tokenised conversations; every token but the cat's own has no loss."""

    def __init__(self, talks: Iterable[list[Message]], tokenizer: PreTrainedTokenizerFast) -> None:
        self.rows = [_example(talk, tokenizer) for talk in talks]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return self.rows[index]


def _example(talk: list[Message], tokenizer: PreTrainedTokenizerFast) -> dict[str, list[int]]:
    row = tokenizer.apply_chat_template(talk, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    pairs = zip(row["input_ids"], row["assistant_masks"], strict=True)
    return {"input_ids": row["input_ids"], "labels": [i if own else NO_LOSS for i, own in pairs]}


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A small Llama with random weights and tied embeddings."""
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.inner,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        max_position_embeddings=CONTEXT,
        attention_dropout=recipe.attention_dropout,
        tie_word_embeddings=True,
        **ids,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(**ids)
    return model


def fit(recipe: Recipe, split: Split, scratch: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The trained model and its tokenizer."""
    set_seed(recipe.seed, deterministic=True)
    table = read_replies()
    words = [line.text for line in split.train] + SYSTEM_PROMPTS + table.all_replies() * 2
    tokenizer = train_tokenizer(words, vocabulary=recipe.vocabulary)
    talks = conversations(split.train, table, rounds=recipe.rounds, seed=recipe.seed)
    examples = Examples(talks, tokenizer)
    model = new_model(recipe, tokenizer)
    trainer = Trainer(
        model=model,
        args=_arguments(recipe, scratch),
        train_dataset=examples,
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=NO_LOSS),
    )
    trainer.train()
    return model.eval(), tokenizer


def _arguments(recipe: Recipe, scratch: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(scratch),
        num_train_epochs=1,
        per_device_train_batch_size=recipe.batch,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.warmup,
        adam_beta2=0.98,
        train_sampling_strategy="group_by_length",
        logging_steps=100,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        seed=recipe.seed,
        disable_tqdm=True,
    )


def ship(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes what `from_pretrained` needs, weights in half precision."""
    model.config.attention_dropout, model.config.use_cache = 0.0, True
    model.to(torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Reads the command line; any number of the recipe can be given for trying things out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--output", type=Path, default=SHIPPED)
    for name, default in vars(Recipe()).items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(default), default=default)
    chosen = vars(parser.parse_args())
    validate, output = chosen.pop("validate"), chosen.pop("output")
    # One thread: the same sums on any number of cores, and no waiting for a core that others use.
    torch.set_num_threads(1)
    started = time.monotonic()
    split = build_split(validate=validate)
    model, tokenizer = fit(Recipe(**chosen), split, Path("build/catbot"))
    print(f"trained on {len(split.train)} lines in {time.monotonic() - started:.0f} s")
    if validate:
        print(fit_of_validation(model, tokenizer, split))
    else:
        ship(model, tokenizer, output)


if __name__ == "__main__":
    main()
