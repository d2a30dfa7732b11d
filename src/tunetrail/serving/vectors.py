"""The endpoints of an embedding model."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import FastAPI
from starlette.responses import JSONResponse

from tunetrail.pipeline.root_sources import LoadedVersion
from tunetrail.serving.limits import Limits
from tunetrail.serving.live_root import LiveRoot
from tunetrail.serving.model_queue import ModelQueue
from tunetrail.serving.names import check_model, version_headers
from tunetrail.serving.refusals import RefusedError
from tunetrail.serving.text_batches import TextBatches, Vectors
from tunetrail.serving.texts import (
    EmbeddingRequest,
    Invocation,
    as_list,
    check_prompt,
    check_texts,
)


def add_vector_endpoints(
    app: FastAPI, live_root: LiveRoot, queue: ModelQueue, limits: Limits
) -> None:
    """Add `/v1/embeddings` and `/invocations`."""
    batches = TextBatches(queue=queue, encode=_encode)

    @app.post("/v1/embeddings")
    async def embeddings(request: EmbeddingRequest) -> JSONResponse:
        """Return the vectors of texts, as OpenAI's server does."""
        loaded = live_root.current
        texts = as_list(request.input)
        check_model(request.model, loaded)
        check_texts(texts, limits.texts)
        check_prompt(request.prompt_name, loaded.model.prompts)
        _check_dimensions(request.dimensions, loaded)

        vectors, tokens = await batches.vectors(loaded, texts, request.prompt_name)
        as_base64 = request.encoding_format == "base64"
        rows = [_row(index, vector, as_base64) for index, vector in enumerate(vectors)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        content = {"object": "list", "data": rows, "model": str(loaded), "usage": usage}
        return JSONResponse(content, headers=version_headers(loaded))

    @app.post("/invocations")
    async def invocations(request: Invocation) -> JSONResponse:
        """Return the vectors of texts, as MLflow's scoring server does."""
        loaded = live_root.current
        texts = request.texts()
        check_texts(texts, limits.texts)
        prompt_name = request.params.prompt_name
        check_prompt(prompt_name, loaded.model.prompts)

        vectors, _ = await batches.vectors(loaded, texts, prompt_name)
        return JSONResponse({"predictions": vectors.tolist()}, headers=version_headers(loaded))


def _encode(
    loaded: LoadedVersion, texts: Sequence[str], prompt_name: str | None
) -> tuple[Vectors, Sequence[int]]:
    """Return the vectors [texts, dimensions], and how many tokens of each the model has read."""
    model = loaded.model
    vectors = model.encode(list(texts), prompt_name=prompt_name, show_progress_bar=False)
    name = prompt_name or model.default_prompt_name
    prompt = model.prompts[name] if name else ""
    prompted = [prompt + text for text in texts]
    encoded = model.tokenizer(prompted, truncation=True, max_length=model.max_seq_length)
    return np.asarray(vectors, dtype=np.float32), list(map(len, encoded["input_ids"]))


def _row(index: int, vector: Vectors, as_base64: bool) -> dict[str, Any]:
    # Four bytes for each number, the lowest first: OpenAI's clients ask for that by themselves.
    packed = base64.b64encode(vector.astype("<f4").tobytes()).decode() if as_base64 else None
    return {"object": "embedding", "index": index, "embedding": packed or vector.tolist()}


def _check_dimensions(dimensions: int | None, loaded: LoadedVersion) -> None:
    model_dimensions = loaded.model.get_embedding_dimension()
    if dimensions not in (None, model_dimensions):
        raise RefusedError(400, f"dimensions must be {model_dimensions}, as many as the model has.")
