"""GET /metrics in Prometheus' format: what the pipeline counts, and this app's requests. No text and no person.

Knows no engine: the numbers are asked for when a scraper comes.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, cast

from flask import Blueprint, Request, Response, current_app, request
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ..protocol.messages import Status
from ..protocol.stats import Durations, Stats
from ..settings import VERSION

if TYPE_CHECKING:
    from .app import ChatApp

PREFIX = "colab_llm_chat_"
STATES = ("loading", "ok", "failed")
# Numbers by the values of a metric's labels; without labels that is the one key ().
Numbers = Mapping[tuple[str, ...], float]

metrics_routes = Blueprint("metrics", __name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All that a scrape shows; `requests` by route and status."""

    stats: Stats
    status: Status
    live: int
    requests: Numbers


@dataclass(frozen=True, slots=True)
class Described:
    """A metric: its name without the prefix, what it says, how it is read, and its labels. `_total` is a counter."""

    name: str
    help: str
    read: Callable[[Seen], Numbers | Durations]
    labels: tuple[str, ...] = ()


def _one(number: float | None) -> Numbers:
    return {} if number is None else {(): number}


def _sequences(seen: Seen) -> Numbers:
    stats = seen.stats
    return {("running",): stats.running, ("waiting",): stats.waiting, ("background",): stats.background}


def _held(seen: Seen) -> Numbers:
    return {("rows",): seen.stats.row_positions, ("prefixes",): seen.stats.prefix_positions}


def _in_bytes(numbers: Numbers, seen: Seen) -> Numbers:
    return {labels: number * seen.stats.position_bytes for labels, number in numbers.items()}


def _budget(seen: Seen) -> Numbers:
    return _one(seen.stats.budget_positions)


def _used(seen: Seen) -> Numbers:
    budget = seen.stats.budget_positions
    return _one(sum(_held(seen).values()) / budget if budget else None)


def _prompt_tokens(seen: Seen) -> Numbers:
    return {("computed",): seen.stats.prompt_tokens_computed, ("reused",): seen.stats.prompt_tokens_reused}


METRICS = (
    Described("build_info", "Version of the server.", lambda seen: {(VERSION,): 1}, ("version",)),
    Described(
        "model_info",
        "The model, and the device that it runs on once it is loaded.",
        lambda seen: {(seen.status.model_id, seen.stats.device): 1},
        ("model", "device"),
    ),
    Described(
        "model_state",
        "1 for the state that GET /health tells, 0 for the others.",
        lambda seen: {(state,): float(seen.status.state == state) for state in STATES},
        ("state",),
    ),
    Described("http_requests_total", "Requests answered.", lambda seen: seen.requests, ("route", "status")),
    Described("replies_live", "Replies being served, those that wait included.", lambda seen: _one(seen.live)),
    Described("sequences", "Sequences in the engine; background ones wait for all others.", _sequences, ("state",)),
    Described(
        "sequences_ended_total",
        "Sequences by how they ended; a stop text or a deadline cancels, too.",
        lambda seen: {(reason,): number for reason, number in seen.stats.ended.items()},
        ("reason",),
    ),
    Described(
        "pauses_total",
        "Times that a sequence gave way: to a person, to a far shorter prompt, or to others for want of memory.",
        lambda seen: _one(seen.stats.pauses),
    ),
    Described("prompt_tokens_total", "Tokens of prompts, computed or found in the cache.", _prompt_tokens, ("source",)),
    Described("generated_tokens_total", "Tokens of replies.", lambda seen: _one(seen.stats.tokens_generated)),
    Described("tokens_per_second", "Speed of all replies together.", lambda seen: _one(seen.stats.tokens_per_second)),
    Described(
        "time_to_first_token_seconds",
        "From a sequence's arrival at the engine to its first token.",
        lambda seen: seen.stats.first_token,
    ),
    Described(
        "inter_token_seconds", "From a sequence's token to its next one.", lambda seen: seen.stats.between_tokens
    ),
    Described("steps_total", "Steps of the engine.", lambda seen: _one(seen.stats.steps)),
    Described("step_seconds_total", "Time spent in steps.", lambda seen: _one(seen.stats.step_seconds)),
    Described("cache_tokens", "Tokens whose keys and values are kept.", _held, ("held_by",)),
    Described("cache_budget_tokens", "Tokens that the cache has room for.", _budget),
    Described("cache_bytes", "Memory of the tokens kept.", lambda seen: _in_bytes(_held(seen), seen), ("held_by",)),
    Described("cache_budget_bytes", "Memory that the cache may take.", lambda seen: _in_bytes(_budget(seen), seen)),
    Described("cache_used_ratio", "Share of the cache's room that is in use.", _used),
)


class Metrics(Collector):
    """Counts an app's requests, and collects when asked. `look` gives the pipeline's numbers and the live replies."""

    def __init__(self, look: Callable[[], tuple[Stats, Status, int]]) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, ...]] = Counter()
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def count(self, request: Request, response: Response) -> None:
        """By the route's rule: addresses may hold what somebody typed, and there is no end of them."""
        route = request.url_rule.rule if request.url_rule else "none"
        with self._lock:
            self._requests[route, str(response.status_code)] += 1

    def collect(self) -> Iterator[Metric]:
        stats, status, live = self._look()
        with self._lock:
            seen = Seen(stats=stats, status=status, live=live, requests=dict(self._requests))
        return (_family(one, seen) for one in METRICS)


@metrics_routes.get("/metrics")
def metrics() -> Response:
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return Response(encode(cast("ChatApp", current_app).metrics.registry), content_type=content_type)


def _family(one: Described, seen: Seen) -> Metric:
    name, read = PREFIX + one.name, one.read(seen)
    if isinstance(read, Durations):
        return HistogramMetricFamily(name, one.help, buckets=_buckets(read), sum_value=read.total)
    if one.name.endswith("_info"):
        info = InfoMetricFamily(name.removesuffix("_info"), one.help)
        for values in read:
            info.add_metric([], dict(zip(one.labels, values, strict=True)))
        return info
    kind = CounterMetricFamily if one.name.endswith("_total") else GaugeMetricFamily
    family = kind(name, one.help, labels=one.labels)
    for values, number in read.items():
        family.add_metric(values, number)
    return family


def _buckets(durations: Durations) -> list[tuple[str, float]]:
    """Prometheus' buckets: how many were at most each edge."""
    edges = [*map(str, durations.edges), "+Inf"]
    return list(zip(edges, accumulate(durations.counts), strict=True))
