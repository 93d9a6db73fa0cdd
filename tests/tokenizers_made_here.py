"""Small real tokenizers, one of each kind, trained in memory in a moment."""

from __future__ import annotations

from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "The quick brown fox jumps over the lazy dog. It isn't there, is it? They're here!",
    "Hello, world! How are you today? I'm fine, thank you. We've seen 3.14 and 2,048.",
    "こんにちは。今日はいい天気ですね。猫が好きです。ありがとうございます！",
    "吾輩は猫である。名前はまだ無い。どこで生れたか頓と見当がつかぬ。",
    "ﾆｬｰﾝ（尻尾を振る）ﾆﾞｬｯ（逃げる）ﾐｬｰ（見上げる）",
    "User: hi\nAssistant: hello\nユーザー: やあ\nアシスタント: どうも\n\n",
] * 3

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA2 = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role not in ['user', 'assistant'] %}{{ raise_exception('Only user and assistant') }}{% endif %}"
    "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Must alternate') }}{% endif %}"
    "{% if message.role == 'user' %}[INST] {{ message.content | trim }} [/INST]"
    "{% else %} {{ message.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)


def _wrapped(tokenizer: Tokenizer, chat_template: str | None, **special: str) -> PreTrainedTokenizerFast:
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    wrapped.chat_template = chat_template
    return wrapped


def byte_level(chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """As GPT-2's and Llama 3's: every byte is a token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=500, special_tokens=specials, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    return _wrapped(tokenizer, chat_template, eos_token="<|endoftext|>")


def byte_level_with_bos(chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """As Llama 3's: the tokenizer itself puts a token in front."""
    tokenizer = byte_level().backend_tokenizer
    start = tokenizer.token_to_id("<|im_start|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", start)]
    )
    return _wrapped(tokenizer, chat_template, bos_token="<|im_start|>", eos_token="<|endoftext|>")


def byte_fallback(chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """As Llama 2's: SentencePiece BPE, `▁` for spaces, bytes for what the vocabulary lacks."""
    pieces = _pieces(["<unk>", "<s>", "</s>"])
    vocabulary = {piece: at for at, piece in enumerate(pieces)}
    joined = [("▁", "H"), ("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("▁", "は"), ("で", "す"), ("▁", "▁")]
    for left, right in joined:
        vocabulary.setdefault(left + right, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocabulary, joined, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in ("<unk>", "<s>", "</s>")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return _wrapped(tokenizer, chat_template, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _pieces(specials: list[str]) -> list[str]:
    letters = sorted({letter for text in CORPUS for letter in text if letter not in " \n"})
    return [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters]


def unigram(chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """As rinna's and T5's: SentencePiece unigram with byte fallback; adds an end of text."""
    pieces = [(piece, -8.0) for piece in _pieces(["<unk>", "</s>"])]
    pieces += [(word, -4.0) for word in ("▁the", "▁The", "です", "こんにちは", "▁▁", "▁is", "猫")]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in ("<unk>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return _wrapped(tokenizer, chat_template, eos_token="</s>", unk_token="<unk>")


def word_piece(chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """As BERT's: `##` pieces, spaces before punctuation cleaned up."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    specials = ["[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=400, special_tokens=specials, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    wrapped = _wrapped(tokenizer, chat_template, cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]")
    wrapped.clean_up_tokenization_spaces = True
    return wrapped


KINDS = {
    "byte-level BPE": byte_level,
    "BPE with byte fallback": byte_fallback,
    "unigram": unigram,
    "WordPiece": word_piece,
}


@cache
def of_kind(kind: str) -> PreTrainedTokenizerFast:
    """One of KINDS without a template, made once; tests only read it."""
    return KINDS[kind]()
