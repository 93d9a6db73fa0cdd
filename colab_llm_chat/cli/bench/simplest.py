"""`python -m colab_llm_chat.cli.bench.simplest FOLDER --port N --device cpu|cuda`: what the simplest notebook does.

Flask, one lock, model.generate with a streamer in a thread. A peer to be measured beside, not a server to use.
"""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Iterator
from typing import Any

from flask import Flask, Response, jsonify, request


def create_simplest(folder: str, device: str) -> Flask:
    """An app that answers POST /v1/chat/completions, always as a stream."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    model = loaded.to(device).eval()
    lock = threading.Lock()
    app = Flask(__name__)

    @app.get("/health")
    def health() -> Response:
        return jsonify(status="ok")

    @app.post("/v1/chat/completions")
    def completions() -> Response:
        body = request.get_json()
        text = tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True, tokenize=False)
        inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False).to(device)
        return Response(events(inputs, drawn(body)), mimetype="text/event-stream")

    def events(inputs: Any, options: dict[str, Any]) -> Iterator[str]:
        streamer: Any = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        with lock:
            made: list[Any] = []
            task = threading.Thread(
                target=lambda: made.append(model.generate(**inputs, **options, streamer=streamer)), daemon=True
            )
            task.start()
            for piece in streamer:
                yield event({"choices": [{"index": 0, "delta": {"content": piece}}]})
            task.join()
        length = inputs["input_ids"].shape[1]
        usage = {"prompt_tokens": length, "completion_tokens": made[0].shape[1] - length}
        yield event({"choices": [], "usage": usage})
        yield "data: [DONE]\n\n"

    return app


def drawn(body: dict[str, Any]) -> dict[str, Any]:
    """What `generate` is told: temperature 0 is greedy."""
    options = {"max_new_tokens": body["max_tokens"]}
    if not body["temperature"]:
        return {**options, "do_sample": False}
    return {**options, "do_sample": True, "temperature": body["temperature"], "top_p": body["top_p"], "top_k": 0}


def event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    create_simplest(options.folder, options.device).run(port=options.port, threaded=True)


if __name__ == "__main__":
    main()
