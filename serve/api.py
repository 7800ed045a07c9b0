"""The HTTP interface over anything that scores: routes, limits, errors as JSON, OpenAPI with examples."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from sentiment.errors import ScorerUnavailable
from sentiment.records import Scores
from serve.http_answer import ErrorAnswer, Health, ScoreAnswer, ScoreRequest, all_finite, scores_json
from serve.http_request import BadRequest, HttpLimits, parse_score_request, read_body
from serve.model_card import ModelCard

if TYPE_CHECKING:
    from collections.abc import Mapping

JSON: Final = "application/json"
RETRY_AFTER_S: Final = 1

_ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    400: {"model": ErrorAnswer, "description": "the body is not JSON"},
    413: {"model": ErrorAnswer, "description": "too many texts, or too large a body"},
    422: {"model": ErrorAnswer, "description": "a field is missing, unknown, empty, too long or of the wrong type"},
    503: {"model": ErrorAnswer, "description": "no answer for now; try again after `Retry-After` seconds"},
}


class Stage(Protocol):
    """What the interface needs of the router stage."""

    async def score(self, texts: Sequence[str]) -> Scores:
        """Scores of N texts, in their order; raises ScorerUnavailable."""
        ...

    def describe(self) -> ModelCard:
        """What is being served."""
        ...


def create_api(stage: Stage, limits: HttpLimits) -> FastAPI:
    """The application that serves `stage` over HTTP."""
    api = FastAPI(
        title="FinSA",
        summary="Sentiment of financial texts by a mixture of LoRA experts.",
        version="1",
        docs_url=None,  # FastAPI's own page loads its script from a CDN; ours works offline
        redoc_url=None,
    )
    _add_error_answers(api)
    docs = Path(__file__).with_name("docs.html").read_text(encoding="utf-8")

    @api.post(
        "/v1/score",
        response_model=ScoreAnswer,
        responses=_ERRORS,
        openapi_extra={
            "requestBody": {"required": True, "content": {JSON: {"schema": ScoreRequest.model_json_schema()}}}
        },
    )
    async def score(request: Request) -> Response:
        """Label, probabilities, score and route of one text or of each text of a list."""
        body = await read_body(request.stream(), request.headers.get("content-length"), limits.max_body_bytes)
        texts = parse_score_request(body, limits)
        scores = await stage.score(texts)
        if not all_finite(scores):
            return _error(500, "texts", "the model answered with something that is not a number", "report the bundle")
        return Response(scores_json(scores), media_type=JSON)

    @api.get("/v1/model", response_model=ModelCard)
    async def model() -> Response:
        """The bundle that is being served."""
        return Response(stage.describe().model_dump_json(), media_type=JSON)

    @api.get("/healthz", response_model=Health)
    async def healthz() -> Health:
        """Answers while the process lives."""
        return Health(status="ok", bundle_id=stage.describe().bundle_id)

    @api.get("/docs", include_in_schema=False)
    async def documentation() -> HTMLResponse:
        return HTMLResponse(docs)

    return api


def _add_error_answers(api: FastAPI) -> None:
    @api.exception_handler(BadRequest)
    async def bad_request(_: Request, error: BadRequest) -> JSONResponse:
        return _error(error.status, error.field, error.message, error.remedy)

    @api.exception_handler(ScorerUnavailable)
    async def unavailable(_: Request, error: ScorerUnavailable) -> JSONResponse:
        remedy = f"try again in {RETRY_AFTER_S} s"
        return _error(503, "service", str(error), remedy, headers={"Retry-After": str(RETRY_AFTER_S)})

    @api.exception_handler(HTTPException)
    async def no_such_route(request: Request, error: HTTPException) -> JSONResponse:
        what = f"{request.method} {request.url.path}"
        return _error(error.status_code, "path", f"{what}: {error.detail}", "see /docs", headers=error.headers)

    @api.exception_handler(Exception)
    async def fault(_: Request, error: Exception) -> JSONResponse:
        return _error(500, "service", f"scoring failed: {type(error).__name__}", "see the log of the router stage")


def _error(
    status: int, field: str, message: str, remedy: str, *, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    detail = {"field": field, "message": message, "remedy": remedy}
    return _Json({"error": detail}, status_code=HTTPStatus(status), headers=dict(headers or {}))


class _Json(JSONResponse):
    def render(self, content: object) -> bytes:
        return orjson.dumps(content)
