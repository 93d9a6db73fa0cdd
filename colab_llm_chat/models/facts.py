"""What the rest of the program needs to know of a loaded model; all of it fits into JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

UNKNOWN_CONTEXT_LENGTH = 2048
CONTEXT_FIELDS = (
    *("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "seq_length"),
    "max_decoder_position_embeddings",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """`context_length` in tokens, `weight_bytes` as they lie in memory, `dtype` of what is not quantised.

    Of an encoder-decoder model `context_length` is for its decoder, `source_length` for what its encoder reads. Its
    replies begin with `decoder_start_token_id`, and then with `forced_bos_token_id` where there is one.
    """

    model_id: str
    architecture: str
    context_length: int
    eos_token_ids: list[int]
    vocab_size: int
    device: str
    dtype: str
    quantization: str
    parameters: int
    weight_bytes: int
    is_encoder_decoder: bool = False
    source_length: int = 0
    decoder_start_token_id: int | None = None
    forced_bos_token_id: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def facts_of(model: PreTrainedModel, *, model_id: str, quantization: str) -> ModelFacts:
    """The facts about a model that lies on its device."""
    text_config, generation = model.config.get_text_config(), model.generation_config
    return ModelFacts(
        model_id=model_id,
        architecture=type(model).__name__,
        context_length=context_length_of(model.config),
        eos_token_ids=_eos_token_ids(generation, model.config, text_config),
        vocab_size=int(text_config.vocab_size),
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        quantization=quantization,
        parameters=int(model.num_parameters()),
        weight_bytes=int(model.get_memory_footprint()),
        **_encoder_decoder_facts(model),
    )


def _encoder_decoder_facts(model: PreTrainedModel) -> dict[str, Any]:
    config, generation = model.config, model.generation_config
    if not config.is_encoder_decoder:
        return {}
    own = getattr(config, "decoder_start_token_id", None)
    starts = (generation.decoder_start_token_id, own, generation.bos_token_id)
    return {
        "is_encoder_decoder": True,
        "source_length": source_length_of(config),
        "decoder_start_token_id": next((one for one in starts if isinstance(one, int)), None),
        "forced_bos_token_id": generation.forced_bos_token_id,
    }


def context_length_of(config: PretrainedConfig) -> int:
    """Tokens the model was made for; an assumed 2,048 where its config does not say."""
    text_config = config.get_text_config()
    lengths = (getattr(text_config, name, None) for name in CONTEXT_FIELDS)
    known = next((length for length in lengths if isinstance(length, int) and length > 0), UNKNOWN_CONTEXT_LENGTH)
    if getattr(text_config, "relative_attention_num_buckets", None):
        # T5's distances have no end: 512 is what it was trained on, and beyond it gets worse only little by little.
        return max(known, UNKNOWN_CONTEXT_LENGTH)
    return max(known, _stretched(getattr(text_config, "rope_parameters", None)))


def source_length_of(config: PretrainedConfig) -> int:
    """Tokens that the encoder of an encoder-decoder model was made for."""
    own = getattr(config, "encoder", None) or config
    # LED's encoder has other positions than its decoder.
    length = getattr(own, "max_encoder_position_embeddings", None)
    return length if isinstance(length, int) else context_length_of(own)


def _stretched(rope: Any) -> int:
    """YaRN's own length: configs that switch it on may leave the length of before. Other ways of stretching do not."""
    if not isinstance(rope, dict) or rope.get("rope_type") != "yarn":
        return 0
    length, factor = rope.get("original_max_position_embeddings"), rope.get("factor")
    return int(length * factor) if isinstance(length, int) and isinstance(factor, int | float) else 0


def _eos_token_ids(*sources: Any) -> list[int]:
    found: set[int] = set()
    for source in sources:
        ids = getattr(source, "eos_token_id", None)
        found |= {ids} if isinstance(ids, int) else set(ids or ())
    return sorted(found)
