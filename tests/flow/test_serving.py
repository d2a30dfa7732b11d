"""Root over HTTP: the same answers as in this process, bad requests, and a root that moves."""

import base64
import json
import logging
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
from tests.commands import CallMain
from tests.families import language_folder
from tests.serving import answering

import tunetrail
from tunetrail.config import TrackingConfig
from tunetrail.deployment.export import staged_root
from tunetrail.deployment.flavors import EmbeddingFlavor
from tunetrail.deployment.registry import Registry
from tunetrail.learning.embedding.reader import load_embedding_model
from tunetrail.pipeline.root_sources import ExportedRoot, RegisteredRoot
from tunetrail.serving.limits import Limits
from tunetrail.serving.live_root import LiveRoot
from tunetrail.stores.tracking.tracker import Tracker

TEXTS = ["a short text", "another one", "déjà vu"]
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


def make_root(registry: Registry, model: Any) -> None:
    run = registry.tracker.start_run(registry.name)
    expected = registry.root()
    version = registry.writer.write(model, run, base_model="tiny", probes=TEXTS, tags={})
    registry.move_root(version, expected, {})


def exported(folder: Path, name: str, save: Callable[[Path], None]) -> Path:
    """Export a model as version 1, and return the folder of exported models."""
    with staged_root(folder / "models", name, save) as point_root:
        point_root("1")
    return folder / "models"


@pytest.fixture(scope="module")
def embedding_models(tiny_embedding_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of exported models, one of them an embedding model."""
    model = load_embedding_model(tiny_embedding_model)

    def save(folder: Path) -> None:
        model.save_pretrained(str(folder), create_model_card=False)

    return exported(tmp_path_factory.mktemp("embedding"), "embedding", save)


@pytest.fixture(scope="module")
def language_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of exported models, one of them a language model that repeats no token."""
    source = language_folder(tmp_path_factory.mktemp("models"), "qwen2")
    return exported(
        tmp_path_factory.mktemp("llm"), "llm", lambda folder: shutil.copytree(source, folder)
    )


@pytest.fixture(scope="module")
def vectors_at(embedding_models: Path) -> Iterator[str]:
    """The address at which the embedding model answers."""
    with answering(LiveRoot(ExportedRoot("embedding", embedding_models), 60.0)) as address:
        yield address


@pytest.fixture(scope="module")
def chats_at(language_models: Path) -> Iterator[str]:
    """The address at which the language model answers."""
    with answering(LiveRoot(ExportedRoot("llm", language_models), 60.0)) as address:
        yield address


@pytest.fixture
def registry(workplace: Path, tiny_embedding_model: str) -> Registry:
    """A registry with an embedding model as root."""
    uri = f"sqlite:///{workplace}/mlflow.db"
    tracker = Tracker(TrackingConfig(uri=uri, artifacts=str(workplace / "mlartifacts")))
    registry = Registry(tracker, "embedding", EmbeddingFlavor())
    make_root(registry, load_embedding_model(tiny_embedding_model).eval())
    return registry


def registered(registry: Registry) -> LiveRoot:
    return LiveRoot(RegisteredRoot("embedding", registry.tracker.config.uri), 0.05)


def post(address: str, path: str, content: Any, **options: Any) -> requests.Response:
    return requests.post(f"{address}{path}", json=content, timeout=60, **options)


def test_vectors_are_those_of_the_local_model(vectors_at: str, embedding_models: Path) -> None:
    local = tunetrail.load_root("embedding", model_dir=embedding_models).encode(TEXTS)

    listed = post(vectors_at, "/v1/embeddings", {"input": TEXTS, "model": "embedding"}).json()
    packed = post(vectors_at, "/v1/embeddings", {"input": TEXTS, "encoding_format": "base64"})
    predictions = []
    for content in (
        {"inputs": TEXTS},
        {"instances": TEXTS},
        {"dataframe_split": {"columns": ["text"], "data": [[text] for text in TEXTS]}},
        {"dataframe_records": [{"text": text} for text in TEXTS]},
    ):
        predictions.append(post(vectors_at, "/invocations", content).json()["predictions"])

    served = [row["embedding"] for row in listed["data"]]
    assert np.abs(np.asarray(served) - local).max() < 1e-6
    for prediction in predictions:
        assert np.abs(np.asarray(prediction) - local).max() < 1e-6
    for row, vector in zip(packed.json()["data"], local, strict=True):
        unpacked = np.frombuffer(base64.b64decode(row["embedding"]), dtype="<f4")
        assert np.abs(unpacked - vector).max() < 1e-6
    assert listed["model"] == "embedding/1" and [row["index"] for row in listed["data"]] == [
        0,
        1,
        2,
    ]
    # The tokens of the tiny model are bytes.
    assert listed["usage"]["prompt_tokens"] == sum(len(text.encode()) for text in TEXTS)
    assert packed.headers["x-tunetrail-version"] == "embedding/1"


def test_the_server_tells_what_it_serves(vectors_at: str) -> None:
    assert requests.get(f"{vectors_at}/health", timeout=10).json() == {"status": "ok"}
    assert requests.get(f"{vectors_at}/ping", timeout=10).ok
    version = requests.get(f"{vectors_at}/version", timeout=10).json()
    models = requests.get(f"{vectors_at}/v1/models", timeout=10).json()

    assert version["uri"] == "models:/embedding/1" and version["reload_error"] is None
    assert version["tunetrail"] == tunetrail.__version__
    assert [model["id"] for model in models["data"]] == ["embedding/1"]


@pytest.mark.parametrize(
    ("path", "content", "status", "reason"),
    [
        ("/v1/embeddings", {}, 400, "input is missing"),
        ("/v1/embeddings", {"input": [1, 2]}, 400, "input must be a text or a list"),
        ("/v1/embeddings", {"input": ["a"], "inputt": 1}, 400, "inputt isn't a field of this"),
        ("/v1/embeddings", {"input": []}, 400, "1 to 8 texts, got 0"),
        ("/v1/embeddings", {"input": ["a"] * 9}, 400, "1 to 8 texts, got 9"),
        ("/v1/embeddings", {"input": "a", "dimensions": 8}, 400, "dimensions must be 32"),
        ("/v1/embeddings", {"input": "a", "prompt_name": "other"}, 400, "prompt_name must be one"),
        ("/v1/embeddings", {"input": "a", "model": "other"}, 404, "model must be embedding, "),
        ("/v1/embeddings", {"input": "a" * 20_000}, 413, "at most 20000 bytes"),
        ("/v1/embeddings", ["a"], 400, "the body must be "),
        ("/invocations", {}, 400, "exactly one of inputs, instances"),
        ("/invocations", {"inputs": ["a"], "instances": ["b"]}, 400, "got inputs and instances"),
        ("/invocations", {"dataframe_split": {"data": [["a", "b"]]}}, 400, "must have one column"),
        ("/v1/chat/completions", {"messages": MESSAGES}, 404, "Not Found"),
    ],
)
def test_a_bad_request_is_refused_in_one_line(
    vectors_at: str, path: str, content: Any, status: int, reason: str
) -> None:
    response = post(vectors_at, path, content)

    assert response.status_code == status
    message = response.json()["error"]["message"]
    assert reason in message and "\n" not in message and response.json()["message"] == message
    assert post(vectors_at, "/v1/embeddings", {"input": "a"}).ok


def test_other_bodies_methods_and_names_of_this_machine_are_refused(vectors_at: str) -> None:
    url = f"{vectors_at}/v1/embeddings"
    json_type = {"Content-Type": "application/json"}
    text = '{"input": "a"}'

    broken = requests.post(url, data="{", headers=json_type, timeout=10)
    surrogate = requests.post(url, data='{"input": "\\ud800"}', headers=json_type, timeout=10)
    half_name = requests.post(url, data='{"\\ud800": 1}', headers=json_type, timeout=10)
    deep = requests.post(url, data="[" * 9000, headers=json_type, timeout=10)
    plain = requests.post(url, data=text, headers={"Content-Type": "text/plain"}, timeout=10)
    rebound = requests.post(url, data=text, headers={**json_type, "Host": "evil.test"}, timeout=10)

    def chunks() -> Iterator[bytes]:
        for _ in range(30):
            yield b"a" * 1000

    chunked = requests.post(url, data=chunks(), headers=json_type, timeout=10)

    assert broken.status_code == 400 and "the body must be a JSON object" in broken.text
    assert surrogate.status_code == 400 and "input must be valid Unicode" in surrogate.text
    assert half_name.status_code == 400 and deep.status_code == 400
    assert plain.status_code == 415 and rebound.status_code == 400
    assert chunked.status_code == 413
    assert requests.get(url, timeout=10).status_code == 405


def test_each_of_many_clients_gets_its_own_vectors(vectors_at: str, embedding_models: Path) -> None:
    # Of several lengths, so that some requests are computed together and others apart.
    asked = [[f"{'long ' * (n % 7)}text {n}"] * (1 + n % 3) for n in range(32)]
    local = tunetrail.load_root("embedding", model_dir=embedding_models)

    with ThreadPoolExecutor(16) as clients:
        responses = list(
            clients.map(lambda texts: post(vectors_at, "/v1/embeddings", {"input": texts}), asked)
        )

    for texts, response in zip(asked, responses, strict=True):
        answer = response.json()
        served = np.asarray([row["embedding"] for row in answer["data"]])
        assert np.abs(served - local.encode(texts)).max() < 1e-6
        # The tokens of the tiny model are bytes.
        assert answer["usage"]["prompt_tokens"] == sum(map(len, texts))


def test_no_text_of_a_request_is_logged(
    vectors_at: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)

    post(vectors_at, "/v1/embeddings", {"input": ["a secret text"]})
    post(vectors_at, "/v1/embeddings", {"input": ["a secret text"], "a secret field": "secret"})
    post(vectors_at, "/v1/embeddings", {"input": [["a secret text"]]})
    post(vectors_at, "/v1/embeddings?secret=1", {"input": "a secret text", "prompt_name": "secret"})

    printed = capfd.readouterr()
    # urllib3, the client in this process, logs the paths that it asks for.
    messages = [record.getMessage() for record in caplog.records if record.name[:7] != "urllib3"]
    assert "secret" not in printed.out + printed.err + "".join(messages)


def test_requests_are_answered_by_the_old_or_the_new_root_while_it_moves(
    registry: Registry, tiny_embedding_model: str
) -> None:
    old = load_embedding_model(tiny_embedding_model).eval()
    new = load_embedding_model(tiny_embedding_model).eval()
    with torch.no_grad():
        next(new.parameters()).add_(0.5)
    expected = {"embedding/1": old.encode(TEXTS), "embedding/2": new.encode(TEXTS)}
    versions: list[str] = []

    def ask_until_new(address: str) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            response = post(address, "/v1/embeddings", {"input": TEXTS})
            assert response.ok, response.text
            version = response.json()["model"]
            vectors = np.asarray([row["embedding"] for row in response.json()["data"]])
            assert np.abs(vectors - expected[version]).max() < 1e-6
            versions.append(version)
            if version == "embedding/2":
                return
        raise AssertionError("the new root never answered")

    with answering(registered(registry)) as address, ThreadPoolExecutor(3) as clients:
        answers = clients.map(ask_until_new, [address] * 3)
        make_root(registry, new)
        list(answers)

    assert versions[0] == "embedding/1"


def test_a_root_that_cannot_be_loaded_leaves_the_old_one_answering(
    registry: Registry, tiny_embedding_model: str, workplace: Path
) -> None:
    live_root = registered(registry)
    with answering(live_root) as address:
        run = registry.tracker.start_run("embedding")
        before = set(workplace.rglob("1_Pooling/config.json"))
        new = load_embedding_model(tiny_embedding_model).eval()
        version = registry.writer.write(new, run, base_model="tiny", probes=TEXTS, tags={})
        (config,) = set(workplace.rglob("1_Pooling/config.json")) - before
        config.write_text(config.read_text().replace("mean", "cls"))
        registry.move_root(version, registry.root(), {})

        live_root.reload()
        told = requests.get(f"{address}/version", timeout=10).json()
        answer = post(address, "/v1/embeddings", {"input": "a"}).json()
        registry.alias.remove()
        live_root.reload()
        told_later = requests.get(f"{address}/version", timeout=10).json()

    assert "must be those that were registered" in told["reload_error"]
    assert told["version"] == "1" and answer["model"] == "embedding/1"
    assert told_later["reload_error"] == "embedding has no root any more"


def test_chats_are_answered_as_by_the_local_model(chats_at: str, language_models: Path) -> None:
    content = {"messages": MESSAGES, "max_tokens": 8, "model": "llm@root", "temperature": 0}
    parts = [{"role": "user", "content": [{"type": "text", "text": MESSAGES[0]["content"]}]}]

    completion = post(chats_at, "/v1/chat/completions", content).json()
    in_parts = post(chats_at, "/v1/chat/completions", {"messages": parts, "max_tokens": 8}).json()
    (invoked,) = post(chats_at, "/invocations", {"messages": MESSAGES, "max_tokens": 8}).json()

    local = tunetrail.load_root("llm", model_dir=language_models).chat(MESSAGES, max_new_tokens=8)
    for answer in (completion, in_parts, invoked):
        (choice,) = answer["choices"]
        assert choice["message"] == {"role": "assistant", "content": local}
    assert completion["model"] == "llm/1" and completion["object"] == "chat.completion"
    assert completion["choices"][0]["finish_reason"] == "length"
    usage = completion["usage"]
    assert usage["completion_tokens"] == 8 < usage["prompt_tokens"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + 8


def test_a_chat_in_pieces_is_the_same_text(chats_at: str, language_models: Path) -> None:
    content = {
        "messages": MESSAGES,
        "max_tokens": 24,
        "stream": True,
        "stream_options": {"include_usage": True},
    }

    response = post(chats_at, "/v1/chat/completions", content, stream=True)
    lines = [line.decode().removeprefix("data: ") for line in response.iter_lines() if line]

    assert response.headers["content-type"].startswith("text/event-stream")
    assert lines[-1] == "[DONE]"
    *chunks, usage = [json.loads(line) for line in lines[:-1]]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    text = "".join(delta.get("content", "") for delta in deltas)
    local = tunetrail.load_root("llm", model_dir=language_models).chat(MESSAGES, max_new_tokens=24)
    assert text == local and len(chunks) > 3
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert usage["usage"]["completion_tokens"] == 24 and usage["choices"] == []


def test_the_documented_request_is_answered(chats_at: str) -> None:
    document = (Path(__file__).parents[2] / "docs/serving.md").read_text()
    (snippet,) = re.findall(r"^```python\n(.*?)^```", document, re.MULTILINE | re.DOTALL)
    # The model of this test may write no more.
    snippet = snippet.replace("http://127.0.0.1:5002", chats_at).replace("64", "32")

    variables: dict[str, Any] = {}
    exec(compile(snippet, "serving.md", "exec"), variables)  # noqa: S102 - our own text

    assert variables["answer"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "messages is missing"),
        ({"messages": []}, "messages must have 1 to 4 entries, got 0"),
        ({"messages": MESSAGES * 5}, "messages must have 1 to 4 entries, got 5"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages.0.role must be 'system'"),
        ({"messages": [{"role": "user"}]}, "messages.0.content is missing"),
        ({"messages": MESSAGES, "max_tokens": 0}, "max_tokens must be greater than or equal to 1"),
        ({"messages": MESSAGES, "max_tokens": 33}, "max_tokens must be at most 32, got 33"),
        ({"messages": MESSAGES, "temperature": 0.7}, "temperature must be 0, got 0.7"),
        ({"messages": MESSAGES, "n": 2}, "n must be 1"),
        ({"messages": MESSAGES, "tools": []}, "tools isn't a field of this request"),
        ({"messages": [{"role": "user", "content": "word " * 200}]}, "room for an answer"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_chat_is_refused_in_one_line(
    chats_at: str, content: dict[str, Any], reason: str, stream: bool
) -> None:
    response = post(chats_at, "/v1/chat/completions", {**content, "stream": stream})

    assert response.status_code == 400
    assert reason in response.json()["error"]["message"]


def test_too_many_waiting_requests_are_refused(language_models: Path) -> None:
    limits = Limits(waiting=1, new_tokens=64)
    content = {"messages": MESSAGES, "max_tokens": 64}
    live_root = LiveRoot(ExportedRoot("llm", language_models), 60.0)

    with answering(live_root, limits) as address:
        with ThreadPoolExecutor(8) as clients:
            ask = [clients.submit(post, address, "/v1/chat/completions", content) for _ in range(8)]
            statuses = [request.result().status_code for request in ask]
        afterwards = post(address, "/v1/chat/completions", {**content, "max_tokens": 1})

    assert set(statuses) == {200, 503} and afterwards.ok


@pytest.mark.processes
def test_the_command_serves_an_exported_model_until_it_is_stopped(
    embedding_models: Path, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tunetrail", "serve", "embedding", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--model-dir", str(embedding_models)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None

    try:
        line = process.stdout.readline()
        served = post(f"http://127.0.0.1:{port}", "/invocations", {"inputs": ["a secret"]})
    finally:
        process.terminate()
        output, errors = process.communicate(timeout=60)

    local = tunetrail.load_root("embedding", model_dir=embedding_models).encode(["a secret"])
    assert np.abs(np.asarray(served.json()["predictions"]) - local).max() < 1e-6
    assert line == f"embedding/1 answers on http://127.0.0.1:{port} (Ctrl-C ends it)\n"
    assert process.returncode == 128 + signal.SIGTERM
    assert output == "" and errors == ""


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ["embeding"],
            "family must be one of embedding, llm, or a registered model whose name ends",
        ),
        (["embedding"], "family must have a root, got 'embedding' without one in sqlite:"),
        (["embedding", "--uri", "sqlite:///absent.db"], "there is no such file"),
        (["llm", "--model-dir", "models"], "model_dir must be a folder with an exported llm"),
        (["embedding", "--port", "0"], "--port must be between 1 and 65535, got 0"),
        (["embedding", "--host", "203.0.113.7"], "--host must be an address of this machine"),
        (["embedding", "--max-texts", "0"], "--max-texts must be above 0, got 0"),
        (["embedding", "--poll-seconds", "nan"], "--poll-seconds must be above 0, got nan"),
    ],
)
def test_serve_refuses_what_it_cannot_serve(
    call_main: CallMain, workplace: Path, arguments: list[str], reason: str
) -> None:
    result = call_main("serve", "--uri", f"sqlite:///{workplace}/mlflow.db", *arguments)

    assert result.exit_code == 2
    assert result.error_line.startswith("error: ") and reason in result.error_line
