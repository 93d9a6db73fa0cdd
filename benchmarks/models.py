"""The models of README's table, in both languages: what their makers say of them, and what follows from the code.

tests/test_model_families.py holds the rows against tiny twins: template, task and the list itself. Parameter counts
are those of the models' cards, or of the sizes in their configs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from colab_llm_chat.models.load import QUANTIZED_WIDTH
from colab_llm_chat.protocol.messages import Task

HUB = "https://huggingface.co"
CHECKED = "2026-11-22"
# Names and memory in GB of the GPUs that Colab offers, the smallest first. Weights may take this share of it.
GPUS = (("T4", 16), ("L4", 24), ("A100", 40))
SHARE = 0.75
OWN, TRANSCRIPT, LANGUAGES, PREFIX, BARE = "own", "transcript", "languages", "prefix", "bare"
Language = Literal["en", "ja"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """`billions` of parameters; `template` one of the words above or a family's name; `gated` None: not known."""

    model_id: str
    family: str
    billions: float
    japanese: Literal["yes", "partly", "no"]
    template: str
    gated: bool | None = False
    task: Task = "chat"

    @property
    def gigabytes(self) -> float:
        """Of the weights in 4 bit, as the check before loading counts them."""
        return self.billions * QUANTIZED_WIDTH["4bit"]

    @property
    def least_gpu(self) -> str:
        return next(name for name, memory in GPUS if self.gigabytes <= SHARE * memory)


MODELS = (
    Model(model_id="cyberagent/open-calm-7b", family="GPT-NeoX", billions=6.8, japanese="yes", template=TRANSCRIPT),
    Model(
        model_id="elyza/ELYZA-japanese-Llama-2-7b-instruct",
        family="Llama 2",
        billions=6.7,
        japanese="yes",
        template="Llama 2",
    ),
    Model(
        model_id="facebook/nllb-200-distilled-600M",
        family="M2M-100",
        billions=0.6,
        japanese="yes",
        template=LANGUAGES,
        task="translation",
    ),
    Model(model_id="google-t5/t5-small", family="T5", billions=0.06, japanese="no", template=PREFIX, task="text2text"),
    Model(model_id="google/flan-t5-base", family="T5", billions=0.25, japanese="no", template=BARE, task="text2text"),
    Model(
        model_id="google/gemma-2-2b-jpn-it", family="Gemma 2", billions=2.6, japanese="yes", template=OWN, gated=True
    ),
    Model(model_id="google/gemma-7b-it", family="Gemma", billions=8.5, japanese="partly", template=OWN, gated=True),
    Model(model_id="google/gemma-3-1b-it", family="Gemma 3", billions=1.0, japanese="partly", template=OWN, gated=True),
    Model(model_id="google/gemma-3-4b-it", family="Gemma 3", billions=4.3, japanese="yes", template=OWN, gated=True),
    Model(
        model_id="meta-llama/Meta-Llama-3-8B-Instruct",
        family="Llama 3",
        billions=8.0,
        japanese="partly",
        template=OWN,
        gated=True,
    ),
    Model(
        model_id="meta-llama/Llama-3.2-1B-Instruct",
        family="Llama 3.2",
        billions=1.2,
        japanese="partly",
        template=OWN,
        gated=True,
    ),
    Model(model_id="microsoft/phi-2", family="Phi", billions=2.7, japanese="no", template="phi-2"),
    Model(model_id="microsoft/phi-4", family="Phi-3", billions=14, japanese="partly", template=OWN),
    Model(model_id="rinna/youri-7b-chat", family="Llama 2", billions=6.7, japanese="yes", template="youri-chat"),
    Model(model_id="rinna/llama-3-youko-8b", family="Llama 3", billions=8.0, japanese="yes", template=TRANSCRIPT),
    Model(model_id="rinna/japanese-gpt2-xsmall", family="GPT-2", billions=0.04, japanese="yes", template=TRANSCRIPT),
    Model(model_id="rinna/japanese-gpt2-small", family="GPT-2", billions=0.11, japanese="yes", template=TRANSCRIPT),
    Model(
        model_id="rinna/japanese-gpt-neox-3.6b", family="GPT-NeoX", billions=3.6, japanese="yes", template=TRANSCRIPT
    ),
    Model(
        model_id="rinna/japanese-gpt-neox-3.6b-instruction-ppo",
        family="GPT-NeoX",
        billions=3.6,
        japanese="yes",
        template="rinna GPT-NeoX",
    ),
    Model(model_id="Qwen/Qwen3-8B", family="Qwen3", billions=8.2, japanese="yes", template=OWN),
    Model(model_id="openai/gpt-oss-20b", family="gpt-oss", billions=21, japanese="yes", template=OWN),
    Model(model_id="LiquidAI/LFM2-1.2B", family="LFM2", billions=1.2, japanese="yes", template=OWN),
    Model(
        model_id="mistralai/Mistral-7B-Instruct-v0.3",
        family="Mistral",
        billions=7.2,
        japanese="partly",
        template=OWN,
        gated=None,
    ),
)

# Each word of the table in both languages.
HEADS = {
    "en": (
        "model", "family", "task", "Japanese", "template", "Hub credential", "weights in 4 bit", "Colab GPU",
        "checked on",
    ),
    "ja": ("モデル", "系統", "用途", "日本語", "書式", "Hub のトークン", "4bit の重み", "Colab の GPU", "確認したもの"),
}  # fmt: skip
JAPANESE_WORDS = {
    "chat": "チャット",
    "translation": "翻訳",
    "text2text": "テキスト変換",
    "yes": "できる",
    "partly": "少し",
    "no": "できない",
    "needed": "必要",
    "not needed": "不要",
    "its own": "モデル付属",
    "transcript": "台本",
    "language codes": "言語コード",
    "task prefix": "学習時の前置き",
    "as typed": "入力のまま",
    "tiny twin": "極小の同型モデル",
}
TEMPLATES = {
    OWN: "its own",
    TRANSCRIPT: "transcript",
    LANGUAGES: "language codes",
    PREFIX: "task prefix",
    BARE: "as typed",
}


def models_table(language: Language = "en") -> str:
    """One row a model."""
    heads = HEADS[language]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for model in MODELS:
        credential = {True: "needed", False: "not needed", None: ""}[model.gated]
        words = [model.task, model.japanese, TEMPLATES.get(model.template, model.template), credential]
        said = [JAPANESE_WORDS.get(word, word) if language == "ja" else word for word in [*words, "tiny twin"]]
        size = f"{model.gigabytes:.1f} GB" if model.gigabytes >= 0.1 else "< 0.1 GB"
        checked = f"{said[4]}{'、' if language == 'ja' else ', '}{CHECKED}"
        link = f"[`{model.model_id}`]({HUB}/{model.model_id})"
        lines.append(_line([link, model.family, *said[:4], size, model.least_gpu, checked]))
    return "\n".join(lines)


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")
