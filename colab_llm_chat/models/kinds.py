"""What kind of model a folder holds, by its small files: refused at once is what does not write text.

Needs no weights, so that a wrong choice costs no download. Imports transformers only to ask which types it knows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import BrokenModel, UnsupportedModel
from .hub_files import EMBEDDINGS, MORE_MODELS, embedding_model
from .load_errors import first_line, own_code

READS = "it reads text and does not write any"
SEES = "it works on pictures, not on text alone"
HEARS = "it works on sound, not on text alone"
# What the class that a config names ends with. transformers loads some of these into a writing model all the same,
# which then writes noise.
_READING = re.compile(
    r"For(MaskedLM|\w*Classification|QuestionAnswering|MultipleChoice|NextSentencePrediction)$|EncoderModel$"
)
_SEEING = re.compile(
    r"For(?!ImageTextToText)(\w*(Image|Video)\w*|\w*Detection|\w*Segmentation|DepthEstimation|MaskGeneration)$"
)
_HEARING = re.compile(r"For(CTC|Audio\w*|XVector|Speech\w*|TextTo(Speech|Waveform|Spectrogram))$")
_WRITING = re.compile(r"(ForCausalLM|LMHeadModel|LMHead|ForConditionalGeneration)$")
# For classes whose name does not tell, such as BertModel, and for those that only look like writing ones.
_TYPES = {
    READS: """
        albert bert big_bird camembert deberta deberta-v2 distilbert electra ernie esm eurobert funnel
        longformer luke megatron-bert modernbert mpnet nomic_bert rembert roberta roc_bert roformer
        squeezebert xlm-roberta xlm-roberta-xl xmod
    """,
    SEES: """
        align altclip beit blip blip-2 chinese_clip clip clip_vision_model convnext convnextv2 deit detr
        dinov2 dinov3_vit evolla florence2 git instructblip instructblipvideo kosmos-2 kosmos-2.5 pi0
        pix2struct pp_chart2table pp_formulanet resnet sam sam2 shieldgemma2 siglip siglip2 swin swinv2
        trocr udop vision-encoder-decoder vit vit_mae yolos
    """,
    HEARS: """
        bark clap encodec hubert mimi moonshine moshi musicgen musicgen_melody seamless_m4t seamless_m4t_v2
        speech-encoder-decoder speech_to_text speecht5 unispeech vits wav2vec2 wav2vec2-bert
        wav2vec2-conformer wavlm whisper
    """,
}
# Where transformers lists the types that are no writing models, the narrowest first.
_LISTS = (
    *((name, SEES) for name in ("IMAGE", "IMAGE_CLASSIFICATION", "OBJECT_DETECTION", "MASK_GENERATION", "BACKBONE")),
    *((name, HEARS) for name in ("SPEECH_SEQ_2_SEQ", "CTC", "AUDIO_CLASSIFICATION", "TEXT_TO_WAVEFORM")),
    *((name, READS) for name in ("MASKED_LM", "TEXT_ENCODING", "SEQUENCE_CLASSIFICATION", "TOKEN_CLASSIFICATION")),
)
_LFS_POINTER = b"version https://git-lfs"
_LONGEST_POINTER = 1024


def check_kind(folder: Path, *, name: str) -> dict[str, Any]:
    """The folder's config.json, unless it shows that the model called `name` is none that writes text.

    Raises UnsupportedModel, or BrokenModel for a config.json that tells nothing and for pointers in place of files.
    """
    _refuse_pointers(folder)
    config = read_config(folder / "config.json", name)
    if (folder / EMBEDDINGS).is_file():
        raise embedding_model(name)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise BrokenModel(
            f"The config.json of {name} names no model_type, so nobody can tell what model it is.",
            hint="Take config.json anew from the model's page on the Hub, or pick another model.",
        )
    reason = _reason(model_type, config)
    if reason:
        named = next(iter(_named(config)), model_type)
        raise UnsupportedModel(f"{name} is a {named}: {reason}.", hint=MORE_MODELS)
    return config


def _reason(model_type: str, config: Mapping[str, Any]) -> str | None:
    """Why a model of this config writes no text; None where nothing speaks against it."""
    of_type = next((reason for reason, types in _TYPES.items() if model_type in types.split()), None)
    if of_type in (SEES, HEARS):
        return of_type
    named = _named(config)
    for pattern, reason in ((_SEEING, SEES), (_HEARING, HEARS), (_READING, READS)):
        if named and all(pattern.search(name) for name in named):
            return reason
    writes = config.get("is_decoder") or any(_WRITING.search(name) for name in named)
    return None if writes else of_type


def _named(config: Mapping[str, Any]) -> list[str]:
    """The classes that the config names."""
    named = config.get("architectures")
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []


def check_type(config: Mapping[str, Any], *, name: str, trust_remote_code: bool) -> None:
    """Whether transformers has a writing model for this config, which takes the seconds of importing it.

    Raises UnsupportedModel.
    """
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    model_type, code = config["model_type"], config.get("auto_map")
    code = code if isinstance(code, dict) else {}
    if code and trust_remote_code:
        return
    if model_type not in CONFIG_MAPPING:
        if code:
            raise own_code(name)
        raise UnsupportedModel(
            f"{name} is of the type {model_type!r}, which transformers {transformers.__version__} does not know.",
            hint="Update transformers (pip install -U transformers), then try again; or pick another model.",
        )
    if any(model_type in _listed(kind) for kind in ("CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "IMAGE_TEXT_TO_TEXT")):
        return
    if {"AutoModelForCausalLM", "AutoModelForSeq2SeqLM"}.intersection(code):
        raise own_code(name)
    reason = next((reason for kind, reason in _LISTS if model_type in _listed(kind)), "it does not write text")
    raise UnsupportedModel(f"{name} is of the type {model_type!r}: {reason}.", hint=MORE_MODELS)


def _listed(kind: str) -> Mapping[str, Any]:
    from transformers.models.auto import modeling_auto

    listed: Mapping[str, Any] = getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING_NAMES", {})
    return listed


def read_config(path: Path, name: str) -> dict[str, Any]:
    """The JSON object in one of the model's files. Raises BrokenModel."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BrokenModel(f"{name} holds no {path.name}.") from None
    except (OSError, ValueError) as error:
        raise BrokenModel(f"The {path.name} of {name} cannot be read: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise BrokenModel(f"The {path.name} of {name} holds no JSON object.")
    return content


def _refuse_pointers(folder: Path) -> None:
    """A clone without Git LFS has small texts in place of the large files."""
    for path in sorted(folder.iterdir()):
        if _is_pointer(path):
            hint = "Run `git lfs pull` in the folder, or give the model's id on the Hub."
            raise BrokenModel(f"{path} is a Git LFS pointer, not the file itself.", hint=hint)


def _is_pointer(path: Path) -> bool:
    try:
        if not path.is_file() or path.stat().st_size > _LONGEST_POINTER:
            return False
        return path.read_bytes().startswith(_LFS_POINTER)
    except OSError:
        # Whoever needs the file tells what is wrong with it.
        return False
