"""The review app's answers: a page, pictures by key, and judgements. See ``guard`` for what is refused before."""

from __future__ import annotations

import asyncio
import io
import json
import math
import re
import time
import unicodedata
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any

import pyarrow.parquet as pq
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from l2i_builder.errors import L2IError
from l2i_builder.judgements import Judgement
from l2i_builder.labels import LabelStore
from l2i_builder.report.reasons import EXPLANATIONS
from l2i_builder.report.text import visible
from l2i_builder.review.board import Board
from l2i_builder.review.guard import Guard, cookie_name, same, session
from l2i_builder.review.queues import REASON, SECOND, Queues
from l2i_builder.review.samples import Sample, Samples
from l2i_builder.review.tars import GoneError
from l2i_builder.sample import Reason

AHEAD = 12  # samples handed out at a time, at most
LOOK_AGAIN = 20.0  # seconds between looks for newly finished shards, more where a look takes long
MAX_BODY = 16 * 1024  # bytes of a request
MAX_NAME = 40  # characters of a reviewer's name
_ID = re.compile(r"[0-9a-f]{32}")
_MEDIA = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

Answer = dict[str, Any]


class Refused(Exception):
    """A request that cannot be answered; the sentence goes to the reviewer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Review:
    """Everything behind the page. Its methods block; the app runs them in threads."""

    def __init__(self, samples: Samples, store: LabelStore) -> None:
        self.samples, self.store = samples, store
        self.board = Board(store, samples.run.digest)
        self.queues = Queues(samples, self.board)
        self._look_at = time.monotonic() + LOOK_AGAIN

    def state(self, reviewer: str) -> Answer:
        """Return the run, the queues with their progress, and the agreement of reviewers.

        ``at``, here and in other answers: the position (see ``Board.catch_up``) which the progress has at least
        reached; of two answers that cross on their way, the page believes the higher one.
        """
        self._look_again()
        at = self.board.catch_up()
        run = self.samples.run
        return {
            "at": at,
            "run": {"name": visible(PurePosixPath(run.out).name or run.out, 80), "digest": run.digest[:12]},
            "shards": {"opened": len(self.samples.opened), "finished": len(run.finished), "all": run.planned_shards},
            "queues": [self._queue(name, reviewer) for name in self.queues.names()],
            "thresholds": self.samples.thresholds,
            "agreement": _finite(self.board.agreement()),
            "problems": [visible(text, 400) for _, text in sorted(self.samples.problems.items())[:20]],
        }

    def _look_again(self) -> None:
        """Open shards that were finished since, unless the run is complete."""
        now = time.monotonic()
        if now < self._look_at or self.samples.complete:
            return
        self._look_at = now + 3600  # one request looks, the others go on
        try:
            self.samples.open()
        finally:
            self._look_at = time.monotonic() + max(LOOK_AGAIN, 20 * (time.monotonic() - now))

    def next(self, reviewer: str, queue: str, have: list[str], opened: bool) -> Answer:
        """Hand out samples. ``have``: keys the browser holds already; ``opened``: the queue was just chosen."""
        at = self.board.catch_up()
        try:
            if opened:
                self.queues.release(reviewer, have)
            taken = self.queues.take(queue, reviewer, max(0, AHEAD - len(have)), have)
            progress = self._queue(queue, reviewer)
        except KeyError:
            raise Refused(404, "There is no such queue any more.") from None
        if not taken and not have and not progress["empty"]:
            left = progress["total"] - progress["done"] - progress["skipped"]
            progress["empty"] = (
                f"The last {left} samples are on other reviewers' screens. "
                "What they leave comes back within ten minutes."
            )
        return {"at": at, "items": [item(sample) for sample in taken], "progress": progress}

    def judge(self, reviewer: str, body: Answer) -> Answer:
        """Store a judgement or a skip. What was known of the sample is taken from the run, never from the browser."""
        key, queue = _text(body, "key"), _text(body, "queue")
        sample = self.samples.by_key.get(key)
        if sample is None:
            raise Refused(404, "This sample is not in the run any more.")
        if not self.queues.holds(queue, key):
            raise Refused(400, "This sample is not in that queue.")
        inpainting, criteria = _text(body, "inpainting"), body.get("criteria", [])
        if inpainting and not sample.inpainted:
            raise Refused(400, "This sample was never inpainted; only its mask can be judged.")
        if not isinstance(criteria, list) or not all(isinstance(name, str) for name in criteria):
            raise Refused(400, "criteria is a list of names.")
        try:
            stored = self.board.add(
                Judgement(
                    key=key,
                    reviewer=reviewer,
                    mask=_text(body, "mask"),
                    inpainting=inpainting,
                    criteria=tuple(dict.fromkeys(criteria)),
                    skipped=body.get("skipped") is True,
                    queue=queue,
                    weight=self.queues.weight(sample, queue),
                    run=self.samples.run.digest,
                    shard=sample.shard,
                    mask_score=sample.mask_score,
                    inpainting_score=sample.inpainting_score,
                    mask_head=sample.mask_head,
                    inpainting_head=sample.inpainting_head,
                    id=_id(body),
                )
            )
        except ValueError as problem:
            raise Refused(400, str(problem)) from problem
        self.queues.settle(key)
        answer = {"at": self.board.catch_up(), "saved": stored.id, "progress": self._queue(queue, reviewer)}
        return answer | ({"agreement": _finite(self.board.agreement())} if queue == SECOND else {})

    def undo(self, reviewer: str, body: Answer) -> Answer:
        """Take back the reviewer's last judgement; return its sample, to be shown again."""
        undone = self.board.undo(reviewer, _id(body))
        if undone is None:
            return {"item": None, "text": "There is nothing to take back."}
        sample = self.samples.by_key.get(undone.key)
        if sample is None:
            return {"item": None, "text": "Taken back. Its sample is in a shard that is not open."}
        queue = undone.queue if undone.queue in self.queues.names() else ""
        answer = {"item": item(sample), "queue": queue, "text": "Taken back."}
        return answer | {"was": {name: getattr(undone, name) for name in ("mask", "inpainting", "criteria")}}

    def release(self, reviewer: str, body: Answer) -> Answer:
        """The reviewer's page was closed: what it held goes to others."""
        self.queues.release(reviewer)
        return {}

    def picture(self, key: str, layer: str) -> tuple[bytes, str]:
        """Return a layer of a sample and its media type. The key is looked up; nothing of it reaches a path."""
        sample = self.samples.by_key.get(key)
        if sample is None:
            raise Refused(404, "There is no such sample.")
        try:
            return self.samples.read(sample, layer)
        except KeyError:
            raise Refused(404, "This sample has no such layer.") from None
        except GoneError as problem:
            self.samples.forget(key)
            raise Refused(
                410, "This sample is not stored any more; it was taken down, or its shard made anew."
            ) from problem

    def labels(self) -> bytes:
        sink = io.BytesIO()
        pq.write_table(self.store.table(), sink, compression="zstd")
        return sink.getvalue()

    def _queue(self, name: str, reviewer: str) -> Answer:
        progress = asdict(self.queues.progress(name, reviewer))
        reason = name.removeprefix(REASON)
        explained = EXPLANATIONS.get(Reason(reason), "") if name.startswith(REASON) and reason in set(Reason) else ""
        return progress | {"explained": explained}


def item(sample: Sample) -> Answer:
    """Return what the page is told of a sample. Texts of strangers are made visible; the page shows them as text."""
    return {
        "key": sample.key,
        "shard": sample.shard,
        "full": sample.full,
        "inpainted": sample.inpainted,
        "caption": visible(sample.caption, 600),
        "url": visible(sample.url, 300),
        "verdict": sample.reason or "kept",
        "detail": visible(sample.detail, 300),
        "scores": {"mask": sample.mask_score, "inpainting": sample.inpainting_score},
        "heads": {"mask": sample.mask_head, "inpainting": sample.inpainting_head},
        "mask_area": sample.mask_area,
        "mask_components": sample.mask_components,
    }


def make_app(review: Review, token: str = "", hosts: set[str] | None = None, any_address: bool = False) -> Guard:
    """Return the ASGI app. token: demanded unless ""; hosts: names to answer to; any_address: and any IP address."""
    page = {entry.name: entry.read_bytes() for entry in files("l2i_builder.review").joinpath("page").iterdir()}

    async def index(request: Request) -> Response:
        return _file(page, "index.html" if request.state.known else "login.html")

    async def static(request: Request) -> Response:
        return _file(page, request.path_params["name"])

    async def login(request: Request) -> Response:
        given = _text(await _body(request), "token")
        if not token or not same(given, token):
            await asyncio.sleep(0.5)
            raise Refused(401, "That is not the token which the server printed.")
        answer = JSONResponse({"known": True})
        answer.set_cookie(cookie_name(request.scope), session(token), httponly=True, samesite="strict", path="/")
        return answer

    async def state(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(review.state, reviewer_name(request.query_params.get("reviewer"))))

    def posted(work: Callable[[str, Answer], Answer]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            body = await _body(request)
            return JSONResponse(await run_in_threadpool(work, reviewer_name(body.get("reviewer")), body))

        return endpoint

    def following(reviewer: str, body: Answer) -> Answer:
        have = body.get("have", [])
        if not isinstance(have, list) or len(have) > 4 * AHEAD or not all(isinstance(key, str) for key in have):
            raise Refused(400, "have is a list of keys.")
        return review.next(reviewer, _text(body, "queue"), have, body.get("opened") is True)

    async def picture(request: Request) -> Response:
        data, media = await run_in_threadpool(review.picture, *(request.path_params[part] for part in ("key", "layer")))
        return Response(data, media_type=media)

    async def labels(request: Request) -> Response:
        name = {"content-disposition": 'attachment; filename="labels.parquet"'}
        data = await run_in_threadpool(review.labels)
        return Response(data, media_type="application/vnd.apache.parquet", headers=name)

    routes = [
        Route("/", index),
        Route("/api/login", login, methods=["POST"]),
        Route("/api/state", state),
        Route("/api/next", posted(following), methods=["POST"]),
        Route("/api/judge", posted(review.judge), methods=["POST"]),
        Route("/api/undo", posted(review.undo), methods=["POST"]),
        Route("/api/release", posted(review.release), methods=["POST"]),
        Route("/image/{key}/{layer}", picture),
        Route("/labels.parquet", labels),
        Route("/{name}", static),
    ]
    handlers: Any = {Refused: _told, L2IError: _failed}
    app = Starlette(routes=routes, exception_handlers=handlers)
    return Guard(app, token, hosts or {"127.0.0.1", "localhost", "::1"}, any_address)


def reviewer_name(raw: object) -> str:
    """Return a reviewer's name, tidied. Raises Refused on one that is empty, long, or has invisible characters."""
    name = " ".join(unicodedata.normalize("NFC", raw).split()) if isinstance(raw, str) else ""
    if not 0 < len(name) <= MAX_NAME or any(unicodedata.category(letter).startswith("C") for letter in name):
        raise Refused(400, f"Give a name of 1 to {MAX_NAME} visible characters.")
    return name


def _file(page: dict[str, bytes], name: str) -> Response:
    """Answer with one of the page's own files, all of which are in memory."""
    media = _MEDIA.get(PurePosixPath(name).suffix)
    if name not in page or media is None:
        raise Refused(404, "There is nothing here.")
    return Response(page[name], media_type=media)


async def _body(request: Request) -> Answer:
    """Return the JSON object of a request. Raises Refused on anything else, and on more than ``MAX_BODY`` bytes."""
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > MAX_BODY:
            raise Refused(413, "The request is too large.")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise Refused(400, "Send a JSON object.")
    return body


def _text(body: Answer, name: str) -> str:
    value = body.get(name, "")
    if not isinstance(value, str):
        raise Refused(400, f"{name} is a text.")
    return value


def _id(body: Answer) -> str:
    value = _text(body, "id")
    if not _ID.fullmatch(value):
        raise Refused(400, "id is 32 hexadecimal digits.")
    return value


def _finite(value: Any) -> Any:
    """Return JSON types with None for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


async def _told(request: Request, problem: Exception) -> Response:
    return JSONResponse({"error": str(problem)}, status_code=getattr(problem, "status", 500))


async def _failed(request: Request, problem: Exception) -> Response:
    return JSONResponse({"error": str(problem)}, status_code=503)
