"""Tiny real models and stores that all tests share: built once, offline, in seconds."""

import contextlib
import functools
import gc
import logging
import os
import shutil
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads of tiny models only wait for each other

import hypothesis
import pytest

# rouge-score brings absl, whose log handler closes the stream that it finds at its import as soon as
# Hydra sets up logging: it must not be the one by which pytest captures what tests print.
with contextlib.redirect_stderr(sys.__stderr__):
    import absl.logging  # noqa: F401

from tests.commands import CallMain, CommandResult
from tests.packages import install

__all__ = ["install"]

# A busy machine is slow, not wrong: no test fails because of a timing. A test draws the same examples
# in every run, so a failure is of the change that was tested.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import the tests without collecting garbage: a million objects stay, and none is garbage.

    Afterwards it is collected less often than by default: among so many objects, a sixth of the time
    that it takes to compose a configuration went into it.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(50_000, 10, 10)
        gc.enable()


_MODULES = pytest.StashKey[int]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """After a file whose tests were the first to import a library, leave its objects alone as well.

    A training collects garbage before it measures memory: a tenth of a second among all of them.
    """
    try:
        return (yield)
    finally:
        imported, frozen = len(sys.modules), item.config.stash.get(_MODULES, 0)
        is_last_of_file = nextitem is None or nextitem.path != item.path
        if is_last_of_file and imported >= frozen + 100:
            gc.collect()
            gc.freeze()
            item.config.stash[_MODULES] = imported


@pytest.fixture(autouse=True)
def _close_mlflow_databases() -> Iterator[None]:
    """Close the connections that MLflow keeps: one engine for each store that a test makes.

    A worker of the whole suite would end with two thousand open files; many machines allow 1,024.
    """
    yield

    for room in ("jobs", "model_registry", "tracking"):
        module = sys.modules.get(f"mlflow.store.{room}.sqlalchemy_store")
        for store in vars(module).values() if module is not None else ():
            engines = vars(store).get("_engine_map", {}) if isinstance(store, type) else {}
            while engines:
                engines.popitem()[1].dispose()


CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|start|>' + message['role'] + '\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)


def _tokenizer(**special: str) -> Any:
    """A byte-level tokenizer: it reads any text and needs no vocabulary file."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*dict.fromkeys(special.values()), *alphabet]
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    named = {f"{role}_token": token for role, token in special.items()}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **named)


@pytest.fixture(scope="session")
def tiny_embedding_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a randomly initialised two-layer sentence-transformers model with 32 dimensions."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    tokenizer = _tokenizer(pad="<pad>", unk="<unk>")
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
    )
    BertModel(config).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"))
    model = SentenceTransformer(modules=[transformer, Pooling(32, "mean")], device="cpu")
    model.save_pretrained(str(folder / "embedding"), create_model_card=False)
    return str(folder / "embedding")


def _language_model(folder: Path, tokenizer: Any) -> str:
    """Write a randomly initialised two-layer Llama with 64 dimensions and a chat template."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer.chat_template = CHAT_TEMPLATE
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_language_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a randomly initialised two-layer Llama, each of whose tokens is a byte."""
    tokenizer = _tokenizer(eos="<|end|>", pad="<|end|>", bos="<|start|>")
    return _language_model(tmp_path_factory.mktemp("models") / "llm", tokenizer)


@pytest.fixture(scope="session")
def wordy_language_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same, but many of its tokens are words and parts of words."""
    from tokenizers import pre_tokenizers, trainers

    tokenizer = _tokenizer(eos="<|end|>", pad="<|end|>", bos="<|start|>")
    texts = [
        "the quick brown fox jumps over the lazy dog. No idea. None. It is Really. assistant"
    ] * 4
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<|end|>", "<|start|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.backend_tokenizer.train_from_iterator(texts, trainer)
    return _language_model(tmp_path_factory.mktemp("models") / "wordy", tokenizer)


@pytest.fixture(scope="session")
def _tracking_template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An MLflow database whose migrations have run: they take seconds, a copy takes milliseconds."""
    from mlflow.store.db import utils

    from tunetrail.config import TrackingConfig
    from tunetrail.stores.tracking.tracker import Tracker

    folder = tmp_path_factory.mktemp("tracking")
    Tracker(
        TrackingConfig(
            uri=f"sqlite:///{folder}/template.db",
            artifacts=str(folder / "none"),
            experiment="template",
        )
    )
    import sqlite3

    with sqlite3.connect(folder / "template.db") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()

    with pytest.MonkeyPatch.context() as patch:
        # Each store that is opened would import MLflow's 67 migrations, only to find the newest.
        newest_revision = functools.cache(utils._get_latest_schema_revision)
        patch.setattr(utils, "_get_latest_schema_revision", newest_revision)
        yield folder / "template.db"


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with all tables and no row: its migrations take as long as many a test."""
    from tunetrail.stores.database.connection import DatabaseConnection

    folder = tmp_path_factory.mktemp("database")
    database = DatabaseConnection(f"sqlite:///{folder}/empty.db")
    with database.transaction():
        pass
    database.close()
    return folder / "empty.db"


@pytest.fixture
def workplace(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    _tracking_template: Path,
) -> Iterator[Path]:
    """An empty folder to work in, with a fresh MLflow store `mlflow.db` and a cache in it.

    Tests of the real models use the user's cache, where the models are.
    """
    if "slow" not in request.keywords:
        monkeypatch.setenv("TUNETRAIL_CACHE", str(tmp_path / ".cache"))
    shutil.copy(_tracking_template, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    yield tmp_path

    # Hydra's log files would stay open and get in the way of later tests.
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def empty_database(workplace: Path, migrated_database: Path) -> None:
    """`tunetrail.db` in the workplace, where commands look for it, with all tables and no row."""
    shutil.copy(migrated_database, workplace / "tunetrail.db")


@pytest.fixture
def call_main(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> CallMain:
    """`tunetrail ARGUMENT ...` in this process and an empty folder.

    What a command sets in the environment is undone after the test.
    """
    from tunetrail.cli import main

    monkeypatch.setenv("TUNETRAIL_HOME", str(workplace))
    for variable in (
        "TUNETRAIL_SHIPPED",
        "HYDRA_FULL_ERROR",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR",
        "HF_HUB_DISABLE_PROGRESS_BARS",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT",
    ):
        monkeypatch.setenv(variable, "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.delenv("TUNETRAIL_DATABASE_URL", raising=False)
    monkeypatch.delenv("TUNETRAIL_DEBUG", raising=False)

    def call(*arguments: str) -> CommandResult:
        names_store = any(argument.startswith("tracking.uri=") for argument in arguments)
        if arguments[:1] == ("train",) and not names_store:
            # MLflow keeps one open store for each URI: the relative default would be the store
            # of an earlier test's folder.
            arguments = (*arguments, f"tracking.uri=sqlite:///{workplace}/mlflow.db")

        exit_code = main(arguments)
        printed = capsys.readouterr()
        return CommandResult(exit_code, printed.out, printed.err)

    return call
