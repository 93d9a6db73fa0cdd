"""GET /metrics, read by Prometheus' own parsers: what a real model's replies move, and who may read."""

from __future__ import annotations

import contextlib
import os
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text

from colab_llm_chat.chat import Chat
from colab_llm_chat.errors import QueueFull
from colab_llm_chat.protocol.messages import ChatRequest, Message, Status
from colab_llm_chat.protocol.stats import Durations, Stats
from colab_llm_chat.settings import VERSION, SamplingParams, Settings
from colab_llm_chat.web.app import ChatApp, create_app
from colab_llm_chat.web.metrics import METRICS, PREFIX
from tests.chat_services import ScriptedChat, serving, wait_until
from tests.tiny_models import save_tiny_model
from tests.tokenizers_made_here import CHATML, byte_level

KEY = "opens-sesame-4711"
# Labels and number by a sample's name without the prefix.
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
COUNTED = Stats(
    device="cuda:0",
    running=2,
    tokens_per_second=41.5,
    row_positions=300,
    prefix_positions=100,
    budget_positions=1600,
    position_bytes=10,
    ended={"stop": 3},
    first_token=Durations(edges=(0.1, 1.0), counts=(1, 3, 2), total=9.5),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_tiny_model(folder, "llama", scale=4.0, eos_token_id=None, max_position_embeddings=4096)
    byte_level(CHATML).save_pretrained(folder)
    return folder


@pytest.fixture
def chat(folder: Path) -> Iterator[Chat]:
    with contextlib.closing(Chat(Settings(model_id=str(folder), max_rows=2)).start()) as chat:
        wait_until(lambda: chat.status().state == "ok" and chat.stats().device != "")
        yield chat


def app_of(chat: Chat | ScriptedChat, **settings: str) -> ChatApp:
    return create_app(Settings(**settings), chat)


def samples(text: str) -> Samples:
    read = {}
    for family in plain_text(text):
        for sample in family.samples:
            read[sample.name.removeprefix(PREFIX), tuple(sorted(sample.labels.items()))] = sample.value
    return read


def scraped(app: ChatApp) -> Samples:
    return samples(app.test_client().get("/metrics").text)


def ask(max_new_tokens: int = 8) -> ChatRequest:
    sampling = SamplingParams(temperature=0.0, max_new_tokens=max_new_tokens)
    return ChatRequest(messages=(Message("user", "hello"),), sampling=sampling)


def test_a_reply_moves_the_counters(chat: Chat) -> None:
    app = app_of(chat)
    before = scraped(app)
    answer = app.test_client().post("/chat", json={"message": "hello", "max_new_tokens": 8})
    usage = answer.get_json()["usage"]
    wait_until(lambda: chat.stats().ended["length"] == 1)
    after = scraped(app)
    assert after["generated_tokens_total", ()] - before["generated_tokens_total", ()] == usage["completion_tokens"] == 8
    assert after["prompt_tokens_total", (("source", "computed"),)] == usage["prompt_tokens"]
    assert after["sequences_ended_total", (("reason", "length"),)] == 1
    assert after["time_to_first_token_seconds_count", ()] == 1
    assert after["inter_token_seconds_count", ()] == 7
    assert after["http_requests_total", (("route", "/chat"), ("status", "200"))] == 1
    assert 0 < after["cache_used_ratio", ()] < 1
    assert after["model_info", (("device", "cpu"), ("model", chat.status().model_id))] == 1


def test_a_killed_engine_leaves_no_gauge_standing_and_no_crash(chat: Chat) -> None:
    app = app_of(chat)
    reply = chat.stream(ask(max_new_tokens=3000))
    next(reply)
    wait_until(lambda: scraped(app)["sequences", (("state", "running"),)] == 1)
    pid = chat.engine.worker_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: chat.status().state == "loading")
    gone = scraped(app)
    assert {number for (name, _), number in gone.items() if name in ("sequences", "cache_tokens")} == {0}
    assert gone["model_state", (("state", "loading"),)] == 1
    reply.cancel()
    wait_until(lambda: chat.status().state == "ok" and chat.stats().device != "")
    assert scraped(app)["generated_tokens_total", ()] == 0


def test_a_cancelled_reply_leaves_the_gauges_at_zero(chat: Chat) -> None:
    reply = chat.stream(ask(max_new_tokens=3000))
    next(reply)
    reply.cancel()
    wait_until(lambda: chat.stats().ended["cancelled"] == 1)
    assert (chat.stats().running, chat.stats().row_positions) == (0, 0)


def test_while_the_model_loads_all_is_zero() -> None:
    loading = Status(state="loading", model_id="catbot", progress=0.4)
    read = scraped(app_of(ScriptedChat(state=loading)))
    assert read["model_state", (("state", "loading"),)] == 1
    assert read["time_to_first_token_seconds_count", ()] == 0
    assert ("cache_used_ratio", ()) not in read


def test_what_the_pipeline_counted_is_shown_in_base_units() -> None:
    read = scraped(app_of(ScriptedChat(counted=COUNTED)))
    assert read["build_info", (("version", VERSION),)] == 1
    assert read["model_info", (("device", "cuda:0"), ("model", "catbot"))] == 1
    assert read["tokens_per_second", ()] == 41.5
    assert read["cache_bytes", (("held_by", "rows"),)] == 3000
    assert (read["cache_budget_bytes", ()], read["cache_used_ratio", ()]) == (16_000, 0.25)
    buckets = {labels[0][1]: number for (name, labels), number in read.items() if name.startswith("time") and labels}
    assert buckets == {"0.1": 1, "1.0": 4, "+Inf": 6}
    assert (read["time_to_first_token_seconds_count", ()], read["time_to_first_token_seconds_sum", ()]) == (6, 9.5)


def test_requests_are_counted_by_route_and_status_and_never_by_address() -> None:
    app = app_of(ScriptedChat(refuses_with=QueueFull("full")))
    for path in ("/health", "/nothing/here", "/static/none.css", "/v1/models/my/secret"):
        app.test_client().get(path)
    app.test_client().post("/chat", json={"message": "hi"})
    text = app.test_client().get("/metrics").text
    requests = {labels for name, labels in samples(text) if name == "http_requests_total"}
    routes = [("/health", "200"), ("none", "404"), ("/static/<path:filename>", "404"), ("/chat", "429")]
    routes.append(("/v1/models/<path:name>", "404"))
    assert requests == {(("route", route), ("status", status)) for route, status in routes}
    assert "secret" not in text


def test_live_replies_are_counted() -> None:
    app = app_of(ScriptedChat())
    app.live.watch(app.chat.stream(ask()), {})
    assert scraped(app)["replies_live", ()] == 1
    app.live.close()


def test_two_apps_count_apart() -> None:
    one, other = app_of(ScriptedChat()), app_of(ScriptedChat())
    one.test_client().get("/health")
    assert ("http_requests_total", (("route", "/health"), ("status", "200"))) not in scraped(other)


def test_only_a_key_opens_the_metrics_once_one_is_asked_for() -> None:
    client = app_of(ScriptedChat(counted=COUNTED), access_key=KEY).test_client()
    refused = client.get("/metrics")
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (401, "invalid_api_key")
    allowed = client.get("/metrics", headers={"Authorization": f"Bearer {KEY}"})
    assert samples(allowed.text)["sequences", (("state", "running"),)] == 2
    assert samples(allowed.text)["http_requests_total", (("route", "/metrics"), ("status", "401"))] == 1


def test_both_formats_are_valid_and_show_every_metric() -> None:
    client = app_of(ScriptedChat(counted=COUNTED)).test_client()
    for kind, parse in (("text/plain", plain_text), ("application/openmetrics-text", open_metrics)):
        answer = client.get("/metrics", headers={"Accept": f"{kind};version=1.0.0"})
        assert answer.content_type.startswith(kind)
        families = {family.name: family.documentation for family in parse(answer.text)}
        assert set(families.values()) == {one.help for one in METRICS}
        assert all(name.startswith(PREFIX) for name in families)


def test_a_real_server_answers_a_scraper() -> None:
    with serving(app_of(ScriptedChat(counted=COUNTED))) as app:
        answer = urllib.request.urlopen(f"http://127.0.0.1:{app.bound_port}/metrics", timeout=30)
        with answer:
            assert answer.headers["Cache-Control"] == "no-store"
            assert ("steps_total", ()) in samples(answer.read().decode())
