"""Root in an application: loaded in Python, and served over HTTP by MLflow."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import transformers
from tests.families import language_folder

import tunetrail
from tunetrail.config import DatabaseConfig, Settings, TrackingConfig
from tunetrail.deployment.export import staged_root
from tunetrail.deployment.flavors import EmbeddingFlavor, LanguageModelFlavor
from tunetrail.deployment.registry import Registry
from tunetrail.errors import ConfigError, DeploymentError, SampleError, UserError
from tunetrail.learning.embedding.reader import load_embedding_model
from tunetrail.learning.language_model.model import LanguageModel
from tunetrail.learning.language_model.module import load_language_model, load_tokenizer
from tunetrail.stores.database.manager import DatabaseManager, PromotionRecord
from tunetrail.stores.tracking.tracker import Tracker

TEXTS = ["a short text", "another one", "déjà vu"]
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def store(workplace: Path) -> str:
    return f"sqlite:///{workplace}/mlflow.db"


@pytest.fixture
def tracker(workplace: Path, store: str) -> Tracker:
    return Tracker(TrackingConfig(uri=store, artifacts=str(workplace / "mlartifacts")))


@pytest.fixture
def embedding_root(tracker: Tracker, tiny_embedding_model: str) -> Any:
    """The model of which version 1 is root."""
    model = load_embedding_model(tiny_embedding_model).eval()
    make_root(Registry(tracker, "embedding", EmbeddingFlavor()), model)
    return model


@pytest.fixture
def llm_root(tracker: Tracker, tmp_path: Path) -> LanguageModel:
    """The model of which version 1 is root; its weights are drawn so that it repeats no token."""
    folder = language_folder(tmp_path / "language-model", "qwen2")
    network: Any = load_language_model(folder)
    model = LanguageModel(model=network.eval(), tokenizer=load_tokenizer(folder))
    make_root(Registry(tracker, "llm", LanguageModelFlavor()), model)
    return model


def make_root(registry: Registry, model: Any) -> None:
    run = registry.tracker.start_run(registry.name)
    version = registry.writer.write(model, run, base_model="tiny", probes=TEXTS, tags={})
    registry.move_root(version, None, {})


def export(workplace: Path, name: str, model: Any) -> Path:
    """Export a model as version 1, and return the path of root."""

    def save(folder: Path) -> None:
        if name == "embedding":
            model.save_pretrained(str(folder), create_model_card=False)
        else:
            model.model.save_pretrained(folder)
            model.tokenizer.save_pretrained(folder)

    with staged_root(workplace / "models", name, save) as point_root:
        return point_root("1")


def test_load_root_returns_the_registered_model(
    embedding_root: Any, llm_root: LanguageModel, store: str
) -> None:
    embedding = tunetrail.load_root("embedding", tracking_uri=store)
    llm = tunetrail.load_root("llm", tracking_uri=store)

    assert np.array_equal(embedding.encode(TEXTS), embedding_root.encode(TEXTS))
    assert llm.tokenizer.chat_template == llm_root.tokenizer.chat_template
    answer = llm.chat(MESSAGES, max_new_tokens=8)
    assert answer and answer == llm.generate(MESSAGES[0]["content"], max_new_tokens=8)
    assert answer == llm.chat(MESSAGES, max_new_tokens=8)


def test_load_root_shows_no_bar_of_a_library(
    embedding_root: Any,
    llm_root: LanguageModel,
    store: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    # As in a notebook that has imported the library itself.
    monkeypatch.setattr(transformers.utils.logging, "_tqdm_active", True)
    capfd.readouterr()

    for family in ("embedding", "llm"):
        tunetrail.load_root(family, tracking_uri=store)

    printed = capfd.readouterr()
    assert printed.out == "" and "Loading weights" not in printed.err
    # The application's own models have their bars again.
    assert transformers.utils.logging.is_progress_bar_enabled()


def test_load_root_reads_an_exported_folder_without_a_store(
    embedding_root: Any, llm_root: LanguageModel, workplace: Path
) -> None:
    for name, model in (("embedding", embedding_root), ("llm", llm_root)):
        export(workplace, name, model)
    (workplace / "mlflow.db").unlink()

    embedding = tunetrail.load_root("embedding", model_dir="models")
    llm = tunetrail.load_root("llm", model_dir=workplace / "models")

    assert np.array_equal(embedding.encode(TEXTS), embedding_root.encode(TEXTS))
    weights = LanguageModelFlavor().weights(llm)
    expected = LanguageModelFlavor().weights(llm_root)
    assert all(np.array_equal(weights[name], expected[name]) for name in expected)


def test_load_root_takes_the_settings_of_a_node(
    tracker: Tracker, tiny_embedding_model: str, store: str, workplace: Path
) -> None:
    model = load_embedding_model(tiny_embedding_model).eval()
    make_root(Registry(tracker, "shop-embedding", EmbeddingFlavor()), model)
    settings = Settings(
        tracking=TrackingConfig(uri=store, prefix="shop-"),
        database=DatabaseConfig(url=f"sqlite:///{workplace}/absent.db"),
    )

    root = tunetrail.load_root("embedding", settings=settings)

    assert np.array_equal(root.encode(TEXTS), model.encode(TEXTS))
    assert not (workplace / "absent.db").exists()
    with pytest.raises(UserError, match="got 'llm' without one"):
        tunetrail.load_root("llm", settings=Settings(tracking=TrackingConfig(uri=store)))
    with pytest.raises(ConfigError, match="settings must be a tunetrail"):
        tunetrail.load_root("embedding", settings={"tracking": {}})  # type: ignore[arg-type]


def test_load_root_with_settings_compares_with_the_ledger(
    tracker: Tracker, embedding_root: Any, store: str, workplace: Path
) -> None:
    version = tracker.client.get_model_version("embedding", "1")
    settings = Settings(
        tracking=TrackingConfig(uri=store),
        database=DatabaseConfig(url=f"sqlite:///{workplace}/tunetrail.db"),
    )
    with DatabaseManager(settings.database.url) as database:
        database.record_promotion(
            PromotionRecord(
                model_name="embedding",
                version="1",
                previous_version=None,
                decision="promoted",
                reason="better",
                mlflow_run_id=version.run_id,
                digest="0" * 64,
            )
        )

    with pytest.raises(DeploymentError, match="must be those that were registered, got others"):
        tunetrail.load_root("embedding", settings=settings)
    tunetrail.load_root("embedding", tracking_uri=store)


def test_load_root_refuses_an_exported_folder_that_was_changed(
    embedding_root: Any, workplace: Path
) -> None:
    root = export(workplace, "embedding", embedding_root)
    config = root / "1_Pooling/config.json"
    config.write_text(config.read_text().replace("mean", "cls"))

    with pytest.raises(
        DeploymentError,
        match=r"models/embedding/root must be those that were exported, got others "
        r"\(changed: 1_Pooling/config.json\)",
    ):
        tunetrail.load_root("embedding", model_dir="models")


def test_load_root_says_what_is_missing(tracker: Tracker, store: str, workplace: Path) -> None:
    with pytest.raises(UserError, match="family must have a root, got 'embedding' without one"):
        tunetrail.load_root("embedding", tracking_uri=store)
    with pytest.raises(ConfigError, match="Did you mean 'embedding'"):
        tunetrail.load_root("embeding", tracking_uri=store)
    with pytest.raises(UserError, match="there is no such file"):
        tunetrail.load_root("llm", tracking_uri=f"sqlite:///{workplace}/none.db")
    with pytest.raises(UserError, match="model_dir must be a folder with an exported llm model"):
        tunetrail.load_root("llm", model_dir="models")


def test_a_chat_that_the_template_has_no_form_for_is_refused(
    llm_root: LanguageModel, store: str
) -> None:
    llm = tunetrail.load_root("llm", tracking_uri=store)
    llm.tokenizer.chat_template = "{{ raise_exception('only one turn') }}"

    with pytest.raises(SampleError, match="only one turn"):
        llm.chat(MESSAGES)


@pytest.mark.usefixtures("embedding_root", "llm_root")
def test_the_documented_lines_run() -> None:
    document = Path(__file__).parents[2] / "docs/deployment.md"
    (snippet,) = re.findall(
        r"^```python\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL
    )

    variables: dict[str, Any] = {}
    exec(compile(snippet, "deployment.md", "exec"), variables)  # noqa: S102 - our own text

    assert variables["vectors"].shape == (1, 32)
    assert isinstance(variables["answer"], str) and variables["answer"]


@contextlib.contextmanager
def served(name: str, store: str, log: Path) -> Iterator[str]:
    """Serve root as the documentation says, and yield the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    command = ["models", "serve", "-m", f"models:/{name}@root", *options]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": store}
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command],
            stdout=file,
            stderr=file,
            env=environment,
            # Its server is a process of its own, which has to end as well.
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        while not is_up(address):
            assert process.poll() is None, log.read_text()
            time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait()


def is_up(address: str) -> bool:
    try:
        return requests.get(f"{address}/ping", timeout=10).ok
    except requests.ConnectionError:
        return False


def invoke(address: str, content: dict[str, Any]) -> Any:
    response = requests.post(f"{address}/invocations", json=content, timeout=60)
    assert response.ok, response.text
    return response.json()


@pytest.mark.slow
def test_served_vectors_are_those_of_the_local_model(
    embedding_root: Any, store: str, workplace: Path
) -> None:
    with served("embedding", store, workplace / "serve.log") as address:
        vectors = invoke(address, {"inputs": TEXTS})["predictions"]

    local = tunetrail.load_root("embedding", tracking_uri=store).encode(TEXTS)
    assert np.abs(np.asarray(vectors) - local).max() < 1e-6


@pytest.mark.slow
def test_served_chats_are_answered_as_by_the_local_model(
    llm_root: LanguageModel, store: str, workplace: Path
) -> None:
    with served("llm", store, workplace / "serve.log") as address:
        completion = invoke(address, {"messages": MESSAGES, "max_tokens": 8})

    (choice,) = completion[0]["choices"]
    llm = tunetrail.load_root("llm", tracking_uri=store)
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"].strip() == llm.chat(MESSAGES, max_new_tokens=8)
