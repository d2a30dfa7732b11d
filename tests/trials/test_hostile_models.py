"""Model folders of a hostile or careless hand: refused in one line with file and field."""

import json
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tunetrail.errors import BrokenModelError, SampleError
from tunetrail.learning.embedding.reader import load_embedding_model
from tunetrail.learning.language_model.module import load_language_model, load_tokenizer
from tunetrail.learning.models.folders import check_model_folder
from tunetrail.learning.tokens import bounded_rendering
from tunetrail.learning.tokens.rendering import render_chat

CHAT = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]


def changed(folder: Path, file: str, **values: Any) -> None:
    """Set fields of a JSON file; None removes one."""
    path = folder / file
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.fixture
def language_model(tiny_language_model: str, tmp_path: Path) -> Path:
    """Return a copy of the tiny language model."""
    return Path(shutil.copytree(tiny_language_model, tmp_path / "llm"))


@pytest.fixture
def embedding_model(tiny_embedding_model: str, tmp_path: Path) -> Path:
    """Return a copy of the tiny embedding model."""
    return Path(shutil.copytree(tiny_embedding_model, tmp_path / "embedding"))


def pipe(name: str) -> Callable[[Path], None]:
    return lambda folder: os.mkfifo(folder / name)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"weight": torch.ones(1)}, folder / "pytorch_model.bin")


def pickle_by_another_name(folder: Path) -> None:
    torch.save({"weight": torch.ones(1)}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (pipe("x.safetensors"), r"must hold files only, got x\.safetensors, a pipe"),
        (pipe("x.json"), r"must hold files only, got x\.json"),
        (
            lambda folder: (folder / "more.safetensors").symlink_to("/nowhere"),
            r"got more\.safetensors, a pipe, a device or a link to nothing",
        ),
        (
            lambda folder: changed(folder, "config.json", num_hidden_layers=1_000_000),
            r"config\.json: num_hidden_layers must be a number from 1 to 2,000, got 1000000",
        ),
        (
            lambda folder: changed(folder, "config.json", hidden_size="64"),
            r"config\.json: hidden_size must be a number",
        ),
        (
            lambda folder: changed(folder, "config.json", vocab_size=-1),
            r"config\.json: vocab_size must be a number from 1",
        ),
        (
            lambda folder: changed(folder, "tokenizer_config.json", model_max_length=-5),
            r"tokenizer_config\.json: model_max_length must be a number from 1",
        ),
        (pickled, r"must hold \*\.safetensors: other weight files can run code"),
    ],
)
def test_a_folder_is_checked_before_anything_is_loaded(
    language_model: Path, damage: Callable[[Path], None], message: str
) -> None:
    check_model_folder(language_model)
    damage(language_model)

    with pytest.raises(BrokenModelError, match=message) as caught:
        check_model_folder(language_model)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        pickle_by_another_name,
        lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 100),
        lambda folder: (folder / "model.safetensors").write_bytes(b""),
        lambda folder: changed(folder, "config.json", model_type="evil", auto_map={"x": "evil.X"}),
        lambda folder: changed(folder, "config.json", model_type=None),
        lambda folder: changed(folder, "config.json", num_attention_heads=3),
    ],
)
def test_a_broken_language_model_is_named(
    language_model: Path, damage: Callable[[Path], None]
) -> None:
    (language_model / "evil.py").write_text("raise SystemExit('run')")
    damage(language_model)

    with pytest.raises(BrokenModelError, match=r"can't be loaded: .*Download it again") as caught:
        load_language_model(str(language_model))
    assert str(language_model) in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "tokenizer.json").unlink(),
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        lambda folder: (folder / "tokenizer.json").write_text("x"),
    ],
)
def test_a_broken_tokenizer_is_named(language_model: Path, damage: Callable[[Path], None]) -> None:
    damage(language_model)

    with pytest.raises(BrokenModelError, match="can't be loaded"):
        load_tokenizer(str(language_model))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model.safetensors").write_bytes(b"x"),
        lambda folder: (folder / "1_Pooling/config.json").write_text("{}"),
        lambda folder: (folder / "modules.json").write_text("[]"),
    ],
)
def test_a_broken_embedding_model_is_named(
    embedding_model: Path, damage: Callable[[Path], None]
) -> None:
    damage(embedding_model)

    with pytest.raises(BrokenModelError, match="can't be loaded"):
        load_embedding_model(str(embedding_model))


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{{ messages.append(1) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ raise_exception('no') }}",
    ],
)
def test_a_template_that_reaches_out_is_refused_by_row(language_model: Path, template: str) -> None:
    (language_model / "chat_template.jinja").write_text(template)
    tokenizer = load_tokenizer(str(language_model))

    with pytest.raises(SampleError, match="messages") as caught:
        render_chat(tokenizer, CHAT)
    assert "\n" not in str(caught.value)


ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
GROWING = (
    "{% set text = namespace(value='x') %}"
    "{% for i in range(40) %}{% set text.value = text.value + text.value %}{% endfor %}"
)
LONG = "{% for i in range(99999) %}{{ messages[0].content }} and some more of it{% endfor %}"


@pytest.mark.parametrize(
    ("template", "rule"),
    [
        (ENDLESS, r"must render a conversation within 0\.3 s"),
        (GROWING, r"must render a conversation within 0\.0625 GiB"),
        (LONG, r"must write at most 1,0\d\d,\d\d\d characters"),
        # It takes the short conversation with which a template is tried, and not a longer one.
        ("{% if messages | length > 3 %}" + ENDLESS + "{% endif %}", r"within 0\.3 s"),
    ],
)
def test_a_template_without_an_end_ends_in_one_line(
    language_model: Path, monkeypatch: pytest.MonkeyPatch, template: str, rule: str
) -> None:
    monkeypatch.setattr(bounded_rendering, "SECONDS", 0.3)
    monkeypatch.setattr(bounded_rendering, "MEMORY_BYTES", 2**26)
    (language_model / "chat_template.jinja").write_text(template)
    limits = resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGVTALRM)

    with pytest.raises(BrokenModelError, match=rule) as caught:
        render_chat(load_tokenizer(str(language_model)), [*CHAT, *CHAT])

    assert str(language_model) in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
    assert (
        resource.getrlimit(resource.RLIMIT_AS),
        signal.getsignal(signal.SIGVTALRM),
    ) == limits


def test_weights_of_other_shapes_are_refused(language_model: Path) -> None:
    weights = load_file(language_model / "model.safetensors")
    name = next(iter(weights))
    weights[name] = torch.ones(3, 3)
    save_file(weights, language_model / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(BrokenModelError, match="can't be loaded"):
        load_language_model(str(language_model))
