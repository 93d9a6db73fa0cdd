"""The OpenAI door's routes: models, both addresses of each, errors."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from colab_llm_chat.protocol.messages import Status
from colab_llm_chat.settings import Settings
from colab_llm_chat.web.app import create_app
from tests.chat_services import ScriptedChat

both_addresses = pytest.mark.parametrize("base", ["/v1", ""])


def client_of(chat: ScriptedChat | None = None, **settings: Any) -> FlaskClient:
    return create_app(Settings(**settings), chat or ScriptedChat()).test_client()


def loading(model_id: str) -> ScriptedChat:
    return ScriptedChat(state=Status(state="loading", model_id=model_id))


@both_addresses
def test_the_loaded_model_is_listed_even_while_it_loads(base: str) -> None:
    listed = client_of(loading("rinna/llama-3-youko-8b")).get(f"{base}/models").get_json()
    assert (listed["object"], [model["id"] for model in listed["data"]]) == ("list", ["rinna/llama-3-youko-8b"])
    assert {"id", "object", "created", "owned_by"} <= set(listed["data"][0])


@both_addresses
def test_a_model_is_found_by_an_id_with_a_slash(base: str) -> None:
    model = client_of(loading("rinna/llama-3-youko-8b")).get(f"{base}/models/rinna/llama-3-youko-8b").get_json()
    assert (model["id"], model["object"]) == ("rinna/llama-3-youko-8b", "model")


def test_a_folder_is_listed_by_its_own_name_only() -> None:
    client = client_of(loading("/home/someone/models/cat"))
    assert client.get("/v1/models").get_json()["data"][0]["id"] == "cat"
    assert client.get("/v1/models/cat").status_code == 200


@pytest.mark.parametrize("name", ["gpt-5", "catbot/x", "persona:me", "a%20b"])
def test_another_model_is_404(name: str) -> None:
    response = client_of().get(f"/v1/models/{name}")
    assert (response.status_code, response.get_json()["error"]["code"]) == (404, "model_not_found")
