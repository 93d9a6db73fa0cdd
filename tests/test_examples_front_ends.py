"""LibreChat and Open WebUI: their example settings are explained, lead to routes, and what they send is answered."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from colab_llm_chat.settings import DEMO_MODEL, Settings
from colab_llm_chat.web.app import ChatApp, create_app
from tests.chat_services import ScriptedChat, events_of, serving

EXAMPLES = Path(__file__).parents[1] / "examples"
LIBRECHAT, OPEN_WEBUI = EXAMPLES / "librechat", EXAMPLES / "open-webui"
READMES = [folder / name for folder in (LIBRECHAT, OPEN_WEBUI) for name in ("README.md", "README.ja.md")]
KEY = "key-of-the-house"
HELLO = [{"role": "user", "content": "Hello"}]

# The bodies are those that the front ends were seen to send: ChatOpenAI of @langchain/openai 1.5.8, which LibreChat's
# agents use, and Open WebUI 0.12.4, backend/open_webui/routers/openai.py and tasks.py, with the settings given here.
LIBRECHAT_CHAT = {
    "model": DEMO_MODEL,
    "user": "665f1c2e9b1d8c0012ab34cd",
    "max_tokens": 256,
    "stream": True,
    "stream_options": {"include_usage": True},
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
}
LIBRECHAT_PARTS = LIBRECHAT_CHAT | {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]}
LIBRECHAT_TITLE = {
    "model": DEMO_MODEL,
    "user": "665f1c2e9b1d8c0012ab34cd",
    "stream": False,
    "messages": [
        {
            "role": "user",
            "content": "Provide a concise, 5-word-or-less title for the conversation, using title case conventions. "
            "Only return the title itself.\n\nConversation:\nUser: Hello\nAI: ﾆｬｰﾝ",
        }
    ],
}
OPEN_WEBUI_CHAT = {"stream": True, "model": DEMO_MODEL, "messages": HELLO, "truncation": "auto"}
OPEN_WEBUI_USAGE = OPEN_WEBUI_CHAT | {"stream_options": {"include_usage": True}}
# Whatever a prompt says, and it has changed between releases, the settings mark these calls.
OPEN_WEBUI_TASK = {
    "model": DEMO_MODEL,
    "messages": [{"role": "user", "content": "### Task:\nDo something with this chat."}],
    "stream": False,
    "max_tokens": 200,
    "priority": "background",
}
CHATS = [LIBRECHAT_CHAT, LIBRECHAT_PARTS, OPEN_WEBUI_CHAT, OPEN_WEBUI_USAGE]
TASKS = [LIBRECHAT_TITLE, OPEN_WEBUI_TASK]


def variables(folder: Path) -> dict[str, str]:
    """What .env.example sets."""
    lines = (folder / ".env.example").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def parsed(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def keys(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        yield from tree
    for part in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from keys(part)


def endpoint() -> dict[str, Any]:
    return dict(parsed(LIBRECHAT / "librechat.yaml")["endpoints"]["custom"][0])


def make_app(chat: ScriptedChat | None = None) -> ChatApp:
    return create_app(Settings(port=0, host="0.0.0.0", access_key=KEY), chat or ScriptedChat())


@pytest.fixture
def chat() -> ScriptedChat:
    return ScriptedChat()


@pytest.fixture
def app(chat: ScriptedChat) -> Iterator[ChatApp]:
    with serving(make_app(chat)) as app:
        yield app


def ask(app: ChatApp, path: str, body: Any = None, *, key: str | None = KEY, host: str = "") -> tuple[int, str]:
    """Status and body of what a container gets that knows this machine as host.docker.internal."""
    connection = http.client.HTTPConnection("127.0.0.1", app.bound_port or 0, timeout=60)
    headers = {"Host": host or f"host.docker.internal:{app.bound_port}", "Content-Type": "application/json"}
    headers |= {"Authorization": f"Bearer {key}"} if key else {}
    try:
        sent = None if body is None else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, sent, headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def code_in(path: Path) -> str:
    return "\n".join(re.findall(r"```.*?```|`[^`\n]+`", path.read_text(encoding="utf-8"), re.DOTALL))


@pytest.mark.parametrize("readme", READMES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_setting_is_explained_where_it_is_read(readme: Path) -> None:
    named = set(variables(readme.parent))
    for path in sorted(readme.parent.glob("*.y*ml")):
        named |= set(keys(parsed(path)))
    code = code_in(readme)
    missing = {name for name in named if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", code)}
    assert not missing


@pytest.mark.parametrize("readme", READMES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_variable_is_explained_that_is_not_set(readme: Path) -> None:
    rows = re.findall(r"^\| `([A-Z][A-Z_]+)` \|", readme.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(rows) == set(variables(readme.parent))


@pytest.mark.parametrize("folder", [LIBRECHAT, OPEN_WEBUI], ids=lambda folder: folder.name)
def test_both_languages_show_the_same_commands(folder: Path) -> None:
    english, japanese = (
        re.findall(r"^```sh\n(.*?)^```$", (folder / name).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        for name in ("README.md", "README.ja.md")
    )
    assert english == japanese
    assert any("--host 0.0.0.0 --access-key" in block for block in english)


def test_librechat_takes_key_and_address_from_its_variables() -> None:
    named = {endpoint()["apiKey"], endpoint()["baseURL"]}
    assert named <= {f"${{{name}}}" for name in variables(LIBRECHAT)}


def test_what_librechat_selects_first_is_the_endpoint_described() -> None:
    (spec,) = parsed(LIBRECHAT / "librechat.yaml")["modelSpecs"]["list"]
    assert spec["preset"]["endpoint"] == endpoint()["name"]
    assert spec["preset"]["model"] in endpoint()["models"]["default"]
    # LibreChat takes names that begin so for Ollama's, and asks them for another list of models.
    assert not endpoint()["name"].lower().startswith("ollama")


def test_librechat_sends_titles_with_its_own_prompt() -> None:
    """By that prompt the server knows that nobody waits for them."""
    assert not {"titlePrompt", "titlePromptTemplate"} & set(keys(parsed(LIBRECHAT / "librechat.yaml")))
    assert (endpoint()["titleMethod"], endpoint()["titleModel"]) == ("completion", "current_model")


def test_the_containers_know_the_machine_by_its_name() -> None:
    override = parsed(LIBRECHAT / "docker-compose.override.yml")["services"]["api"]
    service = parsed(OPEN_WEBUI / "compose.yaml")["services"]["open-webui"]
    assert override["extra_hosts"] == service["extra_hosts"] == ["host.docker.internal:host-gateway"]
    assert override["volumes"][0]["source"] == "./librechat.yaml"
    # Its first visitor becomes the administrator.
    assert service["ports"] == ["127.0.0.1:3000:8080"]


def test_open_webui_is_told_to_send_what_is_tested_here() -> None:
    given = variables(OPEN_WEBUI)
    params, tasks = json.loads(given["DEFAULT_MODEL_PARAMS"]), json.loads(given["TASK_MODEL_PARAMS"])
    assert params["function_calling"] == "legacy"
    assert params["custom_params"].items() <= OPEN_WEBUI_CHAT.items()
    assert ({"max_tokens": tasks["max_tokens"]} | tasks["custom_params"]).items() <= OPEN_WEBUI_TASK.items()


@pytest.mark.parametrize("version", ["/v1", ""])
@pytest.mark.parametrize(
    ("folder", "name"),
    [(LIBRECHAT, "COLAB_LLM_CHAT_URL"), (LIBRECHAT, "OPENAI_REVERSE_PROXY"), (OPEN_WEBUI, "OPENAI_API_BASE_URL")],
)
def test_each_base_url_leads_to_routes_with_and_without_version(folder: Path, name: str, version: str) -> None:
    url = urlsplit(variables(folder)[name])
    assert (url.hostname, url.port, url.path) == ("host.docker.internal", Settings().port, "/v1")
    routes = make_app().url_map.bind("localhost")
    assert routes.test(f"{version}/models", "GET")
    assert routes.test(f"{version}/chat/completions", "POST")


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/v1/chat/completions", "/chat/completions", "/chat"])
@pytest.mark.parametrize(("key", "status"), [(KEY, 200), ("wrong", 401), (None, 401)])
def test_a_container_gets_in_by_the_key_alone(app: ChatApp, path: str, key: str | None, status: int) -> None:
    body = None if path.endswith("models") else {"message": "Hello", "messages": HELLO, "model": DEMO_MODEL}
    given, text = ask(app, path, body, key=key)
    assert given == status
    assert status == 200 or json.loads(text)["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("key", [KEY, "wrong", None])
def test_whether_the_server_is_up_can_be_asked_without_the_key(app: ChatApp, key: str | None) -> None:
    status, text = ask(app, "/health", key=key)
    assert (status, json.loads(text)["status"]) == (200, "ok")


def test_the_key_does_not_help_under_a_name_that_others_could_point_here(app: ChatApp) -> None:
    status, text = ask(app, "/v1/models", host="attacker.example")
    assert (status, json.loads(text)["error"]["code"]) == (403, "origin_refused")


def test_the_model_list_is_what_both_read(app: ChatApp) -> None:
    listed = json.loads(ask(app, "/v1/models")[1])
    names = [model["id"] for model in listed["data"]]
    assert (names[0], "persona:cat" in names) == (DEMO_MODEL, True)


@pytest.mark.parametrize("body", CHATS)
@pytest.mark.parametrize("version", ["/v1", ""])
def test_a_chat_is_streamed_to_its_end(app: ChatApp, chat: ScriptedChat, body: dict[str, Any], version: str) -> None:
    status, text = ask(app, f"{version}/chat/completions", body)
    *chunks, done = events_of(text)
    assert (status, done) == (200, "[DONE]")
    told: list[Any] = [choice for chunk in chunks if isinstance(chunk, dict) for choice in chunk["choices"]]
    assert "".join(choice["delta"].get("content") or "" for choice in told) == "Hello"
    assert told[-1]["finish_reason"] == "stop"
    assert not chat.requests[-1].background


@pytest.mark.parametrize("body", [LIBRECHAT_CHAT, OPEN_WEBUI_USAGE])
def test_usage_comes_when_it_is_asked_for(app: ChatApp, body: dict[str, Any]) -> None:
    """Without it LangChain counts by itself, with a tokenizer that it downloads first."""
    *_, last, done = events_of(ask(app, "/v1/chat/completions", body)[1])
    assert isinstance(last, dict)
    assert (last["choices"], last["usage"]["prompt_tokens"], done) == ([], 7, "[DONE]")


@pytest.mark.parametrize("body", TASKS)
def test_titles_and_the_like_are_answered_behind_people(app: ChatApp, chat: ScriptedChat, body: dict[str, Any]) -> None:
    status, text = ask(app, "/v1/chat/completions", body)
    (choice,) = json.loads(text)["choices"]
    assert (status, choice["message"]["content"], choice["finish_reason"]) == (200, "Hello", "stop")
    assert chat.requests[-1].background


@pytest.mark.parametrize("name", ["gpt-3.5-turbo", "anything"])
def test_any_model_name_is_answered(app: ChatApp, name: str) -> None:
    """LibreChat's older form and its title default ask for OpenAI's names."""
    assert ask(app, "/v1/chat/completions", {"model": name, "messages": HELLO})[0] == 200


def test_through_a_tunnel_the_same_key_opens_the_same_routes(app: ChatApp) -> None:
    name = "abc.ngrok-free.app"
    assert ask(app, "/v1/models", host=name)[0] == 403
    app.access.add_public_host(f"https://{name}")
    assert ask(app, "/v1/models", host=name)[0] == 200
    assert ask(app, "/v1/chat/completions", OPEN_WEBUI_CHAT, host=name)[0] == 200
    assert ask(app, "/v1/models", host=name, key="wrong")[0] == 401
