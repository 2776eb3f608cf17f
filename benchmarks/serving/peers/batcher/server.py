"""The simplest server that batches: FastAPI, a queue, one inference thread, the same bundle.

python server.py BUNDLE PORT    (in the project's root, with the service's own environment)
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from serving.bundle import Bundle, scores_by_label


class Request(BaseModel):
    texts: list[str]


def create_app(folder: str) -> FastAPI:
    bundle = Bundle.load(Path(folder))
    queue: asyncio.Queue[tuple[str, asyncio.Future[dict[str, float]]]] = asyncio.Queue()

    async def work() -> None:
        while True:
            batch = [await queue.get()]
            while len(batch) < 32 and not queue.empty():
                batch.append(queue.get_nowait())
            scores = await asyncio.to_thread(bundle.score, [text for text, _ in batch])
            for (_, future), row in zip(batch, scores.labels, strict=True):
                future.set_result(scores_by_label(row))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(work())
        yield
        worker.cancel()

    app = FastAPI(lifespan=lifespan)

    @app.post("/predict")
    async def predict(request: Request) -> list[dict[str, float]]:
        futures: list[asyncio.Future[dict[str, float]]] = []
        for text in request.texts:
            futures.append(asyncio.get_running_loop().create_future())
            queue.put_nowait((text, futures[-1]))
        return await asyncio.gather(*futures)

    return app


if __name__ == "__main__":
    uvicorn.run(create_app(sys.argv[1]), port=int(sys.argv[2]), log_level="warning")
