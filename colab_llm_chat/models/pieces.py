"""A SentencePiece file as a tokenizer of the tokenizers library, with the file's own ids and rules.

Gives the ids that SentencePiece itself gives for text without special tokens in it. Knows no model and no folder.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers

SPACE = "▁"
# Of sentencepiece_model.proto: kinds of models and of pieces.
UNIGRAM, BPE = 1, 2
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4


def read_pieces(path: Path, *, lower_case: bool = False) -> Tokenizer:
    """With `lower_case` texts are put in lower case before the file's own rules, special tokens in them are not.

    Raises ValueError, or protobuf's DecodeError, for a file that is no SentencePiece model of unigrams or pairs.
    """
    from sentencepiece import sentencepiece_model_pb2

    proto: Any = vars(sentencepiece_model_pb2)["ModelProto"]()
    proto.ParseFromString(path.read_bytes())
    if proto.trainer_spec.model_type not in (UNIGRAM, BPE) or not proto.pieces:
        raise ValueError(f"{path.name} holds neither unigrams nor byte pairs")
    tokenizer = Tokenizer(_model(proto))
    rules = proto.normalizer_spec
    first = [normalizers.Lowercase()] if lower_case else []
    tokenizer.normalizer = normalizers.Sequence([*first, *_normalizing(rules)])
    joined = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*joined, decoders.Strip(" ", 1, 0)] if rules.add_dummy_prefix else joined)
    tokenizer.add_special_tokens(_added(proto, UNKNOWN, CONTROL, special=True))
    tokenizer.add_tokens(_added(proto, USER_DEFINED, special=False))
    return tokenizer


def _model(proto: Any) -> models.Model:
    spec = proto.trainer_spec
    if spec.model_type == UNIGRAM:
        scored = [(piece.piece, piece.score) for piece in proto.pieces]
        return models.Unigram(scored, unk_id=spec.unk_id, byte_fallback=spec.byte_fallback)
    return models.BPE(
        {piece.piece: at for at, piece in enumerate(proto.pieces)},
        _merges(proto),
        unk_token=proto.pieces[spec.unk_id].piece,
        fuse_unk=True,
        byte_fallback=spec.byte_fallback,
    )


def _merges(proto: Any) -> list[tuple[str, str]]:
    """SentencePiece joins the pair whose joined piece has the best score; here pairs are in the order of joining."""
    ids = {piece.piece: at for at, piece in enumerate(proto.pieces)}
    pairs = []
    for piece in proto.pieces:
        for cut in range(1, len(piece.piece)):
            left, right = piece.piece[:cut], piece.piece[cut:]
            if left in ids and right in ids:
                pairs.append((-piece.score, ids[left], ids[right], left, right))
    return [(left, right) for *_, left, right in sorted(pairs)]


def _normalizing(rules: Any) -> list[normalizers.Normalizer]:
    steps: list[normalizers.Normalizer] = []
    if rules.precompiled_charsmap:
        steps += [normalizers.Replace(pair, kana) for pair, kana in _voiced_halfwidth()]
        steps.append(normalizers.Precompiled(rules.precompiled_charsmap))
    if rules.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if rules.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    return [*steps, normalizers.Replace(" ", SPACE)]


def _voiced_halfwidth() -> Iterator[tuple[str, str]]:
    """`ｶﾞ` and its like, which the library's character map misses: it reads no cluster of six bytes."""
    for kana in (chr(code) for code in range(0xFF66, 0xFF9E)):
        for mark in "ﾞﾟ":
            composed = unicodedata.normalize("NFKC", kana + mark)
            if len(composed) == 1:
                yield kana + mark, composed


def _added(proto: Any, *kinds: int, special: bool) -> list[AddedToken]:
    names = [piece.piece for piece in proto.pieces if piece.type in kinds]
    return [AddedToken(name, special=special, normalized=False) for name in names]
