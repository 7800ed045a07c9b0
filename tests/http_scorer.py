"""The scoring endpoint's answers from a plain HTTP server, for tests of the HTTP scorer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson
from stream_scorers import EXPERTS, scores_of

from sentiment.labels import LABELS


def answer(texts: list[str], bundle_id: str = "test-bundle") -> dict[str, Any]:
    """What `POST /v1/score` says."""
    scores = scores_of(texts, bundle_id)
    results = [
        {
            "label": LABELS[int(row.argmax())],
            "probabilities": dict(zip(LABELS, row.tolist(), strict=True)),
            "score": float(row[2] - row[0]),
            "confidence": float(row.max()),
            "expert": EXPERTS[int(expert)],
            "gate": dict(zip(EXPERTS, gate.tolist(), strict=True)),
            "experts_run": 1,
            "disagreement": None,
        }
        for row, gate, expert in zip(scores.probabilities, scores.gate, scores.expert, strict=True)
    ]
    return {"bundle_id": bundle_id, "results": results}


@contextmanager
def scoring_server(reply: Callable[[list[str]], tuple[int, bytes]] | None = None) -> Iterator[str]:
    """The URL of a server; `reply` may answer differently, with a status and a body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, orjson.dumps({"bundle_id": "test-bundle", "experts": EXPERTS, "labels": LABELS}))

        def do_POST(self) -> None:
            texts = orjson.loads(self.rfile.read(int(self.headers["Content-Length"])))["texts"]
            self._send(*(reply(texts) if reply else (200, orjson.dumps(answer(texts)))))

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)
