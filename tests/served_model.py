"""A real server over a tiny model with random weights that calls tools and writes JSON, because masks make it so."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from colab_llm_chat.chat import Chat
from colab_llm_chat.settings import Settings
from colab_llm_chat.web.app import create_app
from tests.chat_services import Lent, serving, wait_until
from tests.reply_formats import HERMES
from tests.tiny_models import save_tiny_model
from tests.tokenizers_made_here import byte_level

KEY = "opens-sesame-4711"
# At random it would never close what it thinks, were it asked to.
TEMPLATE = HERMES.replace("<think>", "").replace("</think>", "")
# The end of text, in the tokenizer of the tests.
END_ID = 0
# A reply that runs until it is cancelled: far more tokens than a test lasts, and none of them its end.
ENDLESS = {"max_tokens": 16_000, "extra_body": {"ignore_eos": True}}


@dataclass(frozen=True)
class ServedModel:
    """Where the server listens, without a key and with KEY, and what is behind it."""

    url: str
    locked_url: str
    folder: Path
    chat: Chat

    @property
    def model(self) -> str:
        return self.folder.name

    def token_id(self, piece: str) -> int:
        tokenizer = json.loads((self.folder / "tokenizer.json").read_text(encoding="utf-8"))
        return int(tokenizer["model"]["vocab"][piece])

    @property
    def alive(self) -> int:
        """Replies that run or wait."""
        return len(self.chat._replies)

    def wait_until_idle(self) -> None:
        wait_until(lambda: self.alive == 0)


@contextlib.contextmanager
def serving_tiny(folder: Path) -> Iterator[ServedModel]:
    """Two rows and two places to wait, so that a test can fill them."""
    save_tiny_model(folder, "llama", scale=4.0, max_position_embeddings=16_384)
    byte_level(TEMPLATE).save_pretrained(folder)
    settings = Settings(model_id=str(folder), max_rows=2, max_queue=2, ping_seconds=0.2)
    chat = Chat(settings).start()
    with contextlib.closing(chat):
        wait_until(lambda: chat.status().state != "loading")
        assert chat.status().state == "ok", chat.status().error
        locked = create_app(settings.model_copy(update={"access_key": KEY}), Lent(chat))
        with serving(create_app(settings, Lent(chat))) as app, serving(locked):
            yield ServedModel(_url(app.bound_port), _url(locked.bound_port), folder, chat)


def _url(port: int | None) -> str:
    return f"http://127.0.0.1:{port}"
