"""`tunetrail export`: each form is read by the program that it is for, and refused where it can't be."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.commands import CallMain, CommandResult
from tests.families import language_folder

from tunetrail.config import TrackingConfig
from tunetrail.deployment.digests import digest_folder, read_listing
from tunetrail.deployment.flavors import EmbeddingFlavor, LanguageModelFlavor
from tunetrail.deployment.registry import Registry
from tunetrail.learning.embedding.reader import load_embedding_model
from tunetrail.learning.exporting.agreement import PROBES
from tunetrail.learning.language_model.adapters import merged, with_adapter
from tunetrail.learning.language_model.model import LanguageModel, last_logits
from tunetrail.learning.language_model.module import load_language_model, load_tokenizer
from tunetrail.stores.tracking.tracker import Tracker

TEXTS = ["a short text", "another one of other words", "déjà vu"]
Register = Callable[..., str]


def needs(*packages: str) -> pytest.MarkDecorator:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{missing} of the extra `export`")


@pytest.fixture
def register(workplace: Path) -> Register:
    """Register a model as the next version, make it root, and return the store."""
    uri = f"sqlite:///{workplace}/mlflow.db"
    tracker = Tracker(TrackingConfig(uri=uri, artifacts=str(workplace / "mlartifacts")))

    def register(name: str, model: Any, base_model: str = "tiny") -> str:
        flavor = LanguageModelFlavor() if isinstance(model, LanguageModel) else EmbeddingFlavor()
        registry = Registry(tracker, name, flavor)
        run = tracker.start_run(name)
        version = registry.writer.write(model, run, base_model=base_model, probes=TEXTS, tags={})
        registry.move_root(version, registry.root(), {})
        return uri

    return register


def last_line(result: CommandResult) -> str:
    """Return the error; libraries have written before it while the test registered a model."""
    return result.err.strip().splitlines()[-1]


def language_model(folder: str) -> LanguageModel:
    network: Any = load_language_model(folder)
    return LanguageModel(model=network.eval(), tokenizer=load_tokenizer(folder))


@needs("onnx", "onnxscript", "onnxruntime", "openvino")
@pytest.mark.processes
def test_graphs_give_the_vectors_of_the_model(
    register: Register, call_main: CallMain, tiny_embedding_model: str, workplace: Path
) -> None:
    import onnxruntime
    from transformers import AutoTokenizer

    model = load_embedding_model(tiny_embedding_model).eval()
    expected = model.encode(TEXTS, normalize_embeddings=True)
    uri = register("embedding", model)

    for kind in ("onnx", "openvino"):
        result = call_main(
            "export", "embedding", "--to", kind, "--output", f"exported/{kind}", "--uri", uri
        )
        assert result.exit_code == 0, result.err
        assert f"embedding/1 as {kind} in exported/{kind} (least cosine " in result.out

    # As somebody without tunetrail and sentence-transformers would.
    folder = workplace / "exported/onnx"
    tokens = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="np")
    session = onnxruntime.InferenceSession(str(folder / "onnx/model.onnx"))
    names = [feature.name for feature in session.get_inputs()]
    (vectors,) = session.run(["sentence_embedding"], {name: tokens[name] for name in names})
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert (vectors * expected).sum(axis=1).min() > 0.9999
    assert sorted(path.name for path in (workplace / "exported/openvino/openvino").iterdir()) == [
        "openvino_model.bin",
        "openvino_model.xml",
    ]
    assert not list(workplace.rglob("exported/**/*.safetensors"))
    assert "openvino_telemetry" not in {name for name in sys.modules if sys.modules[name]}


def test_a_merged_embedding_model_is_the_registered_one(
    register: Register, call_main: CallMain, tiny_embedding_model: str, workplace: Path
) -> None:
    model = load_embedding_model(tiny_embedding_model).eval()
    uri = register("embedding", model)

    result = call_main(
        "export", "embedding", "--to", "merged", "--output", "out", "--uri", uri, "--json"
    )

    printed = json.loads(result.out)
    assert printed["version"] == "embedding/1" and printed["to"] == "merged"
    exported = load_embedding_model(str(workplace / "out")).eval()
    assert np.array_equal(exported.encode(TEXTS), model.encode(TEXTS))
    description = json.loads((workplace / "out/export.json").read_text())
    assert description["version"] == "embedding/1" and description["base_model"] == "tiny"
    assert digest_folder(workplace / "out").difference(read_listing(workplace / "out") or "") == ""


@needs("gguf")
@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("precision", ["f32", "f16"])
def test_a_gguf_file_gives_the_logits_of_the_model(
    register: Register,
    call_main: CallMain,
    tmp_path: Path,
    workplace: Path,
    family: str,
    precision: str,
) -> None:
    import gguf
    from transformers import AutoModelForCausalLM

    model = language_model(language_folder(tmp_path / family, family))
    expected = last_logits(model, PROBES)
    uri = register("llm", model)

    arguments = ["export", "llm", "--to", "gguf", "--precision", precision, "--output", "out"]
    result = call_main(*arguments, "--uri", uri)

    assert result.exit_code == 0, result.err
    reader = gguf.GGUFReader(workplace / "out/llm-1.gguf")
    assert reader.fields["general.architecture"].contents() == family
    assert reader.fields["tokenizer.ggml.tokens"].contents()[:4] == [
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
    ]
    types = {tensor.tensor_type.name for tensor in reader.tensors}
    assert types == ({"F32"} if precision == "f32" else {"F32", "F16"})
    read: Any = AutoModelForCausalLM.from_pretrained(
        workplace / "out", gguf_file="llm-1.gguf", dtype=torch.float32
    )
    logits = last_logits(LanguageModel(model=read.eval(), tokenizer=model.tokenizer), PROBES)
    assert np.abs(logits - expected).max() < 1e-2


@needs("gguf")
def test_a_model_that_gguf_has_no_form_for_here_is_refused_by_name(
    register: Register, call_main: CallMain, tmp_path: Path, workplace: Path
) -> None:
    uri = register("llm", language_model(language_folder(tmp_path / "gpt2", "gpt2")))

    result = call_main("export", "llm", "--to", "gguf", "--output", "out", "--uri", uri)

    assert result.exit_code == 2 and not (workplace / "out").exists()
    assert last_line(result) == (
        "error: --to gguf needs a model of the kind llama, mistral, qwen2, got gpt2. "
        "Export it with --to merged."
    )


def test_a_merged_language_model_is_the_registered_one(
    register: Register, call_main: CallMain, tiny_language_model: str, workplace: Path
) -> None:
    model = language_model(tiny_language_model)
    uri = register("shop-llm", model)

    result = call_main("export", "shop-llm", "--to", "merged", "--output", "out", "--uri", uri)

    assert result.exit_code == 0, result.err
    exported = language_model(str(workplace / "out"))
    assert np.array_equal(last_logits(exported, TEXTS), last_logits(model, TEXTS))
    assert exported.tokenizer.chat_template == model.tokenizer.chat_template


def adapted(base: str, kind: str, **options: Any) -> LanguageModel:
    """Return a model as a training with adapters leaves it."""
    torch.manual_seed(0)
    network = with_adapter(
        load_language_model(base), kind=kind, rank=4, alpha=8, dropout=0.0, **options
    )
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    model: Any = merged(network)
    return LanguageModel(model=model.eval(), tokenizer=load_tokenizer(base))


@pytest.mark.parametrize("kind", ["lora", "rslora"])
def test_an_adapter_on_the_base_model_gives_the_logits_of_the_model(
    register: Register, call_main: CallMain, tiny_language_model: str, workplace: Path, kind: str
) -> None:
    from peft import PeftModel

    model = adapted(tiny_language_model, kind)
    uri = register("llm", model, base_model=tiny_language_model)

    result = call_main("export", "llm", "--to", "adapter", "--output", "out", "--uri", uri)

    assert result.exit_code == 0, result.err
    config = json.loads((workplace / "out/adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 4
    assert config["base_model_name_or_path"] == tiny_language_model
    base = language_model(tiny_language_model)
    read: Any = PeftModel.from_pretrained(base.model, workplace / "out")
    logits = last_logits(LanguageModel(model=read.eval(), tokenizer=base.tokenizer), TEXTS)
    assert np.abs(logits - last_logits(model, TEXTS)).max() < 1e-4
    assert np.abs(logits - last_logits(language_model(tiny_language_model), TEXTS)).max() > 1e-2


def test_a_version_that_was_trained_without_adapters_gives_none(
    register: Register, call_main: CallMain, tiny_language_model: str, workplace: Path
) -> None:
    everywhere, in_layers = (language_model(tiny_language_model) for _ in range(2))
    with torch.no_grad():
        for weight in everywhere.model.parameters():
            weight.add_(0.01)
        for name, weight in in_layers.model.named_parameters():
            if "proj" in name:
                weight.add_(torch.randn_like(weight), alpha=0.01)

    for model, reason in (
        (everywhere, "got another model.embed_tokens.weight: was it trained "),
        (in_layers, "of a rank above "),
    ):
        uri = register("llm", model, base_model=tiny_language_model)
        result = call_main("export", "llm", "--to", "adapter", "--output", "out", "--uri", uri)
        assert result.exit_code == 2 and not (workplace / "out").exists()
        assert reason in last_line(result) and "Export the model with --to merged" in result.err


def test_a_folder_with_something_in_it_stays(
    register: Register, call_main: CallMain, tiny_embedding_model: str, workplace: Path
) -> None:
    uri = register("embedding", load_embedding_model(tiny_embedding_model).eval())
    command = ["export", "embedding", "--to", "merged", "--uri", uri, "--output"]
    (workplace / "mine").mkdir()
    (workplace / "mine/notes.txt").write_text("mine")
    assert call_main(*command, "out").exit_code == 0
    (workplace / "out/stale").touch()

    again = call_main(*command, "out")
    forced = call_main(*command, "out", "--force")
    mine = call_main(*command, "mine", "--force")
    file = call_main(*command, "mine/notes.txt", "--force")

    assert again.exit_code == 2 and "add --force to replace it" in last_line(again)
    assert forced.exit_code == 0 and not (workplace / "out/stale").exists()
    assert mine.exit_code == 2 and "which has other files in it" in last_line(mine)
    assert file.exit_code == 2 and "which is none" in last_line(file)
    assert (workplace / "mine/notes.txt").read_text() == "mine"
    assert not list(workplace.glob(".writing-*"))


def test_a_version_with_other_files_than_registered_is_not_exported(
    register: Register, call_main: CallMain, tiny_embedding_model: str, workplace: Path
) -> None:
    uri = register("embedding", load_embedding_model(tiny_embedding_model).eval())
    (config,) = (workplace / "mlartifacts").rglob("1_Pooling/config.json")
    config.write_text(config.read_text().replace("mean", "cls"))

    result = call_main("export", "embedding", "--to", "merged", "--output", "out", "--uri", uri)

    assert result.exit_code == 1 and not (workplace / "out").exists()
    assert "must be those that were registered, got others (changed: " in last_line(result)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["embedding", "--to", "gguf"], "--to must be one of onnx, openvino, merged for embedding"),
        (["llm", "--to", "onnx"], "--to must be one of gguf, merged, adapter for llm, got 'onnx'"),
        (
            ["embeding", "--to", "onnx"],
            "family must be one of embedding, llm, or a registered model",
        ),
        (["embedding", "--to", "merged"], "family must have a root, got 'embedding'"),
        (["embedding", "--to", "merged", "--version", "7"], "--version must be a version of embed"),
        (
            ["embedding", "--to", "merged", "--version", "llm/1"],
            "--version must be a version of em",
        ),
        (
            ["llm", "--to", "merged", "--precision", "f16"],
            "--precision must be f32 with --to merged",
        ),
    ],
)
def test_export_refuses_what_it_cannot_write(
    call_main: CallMain, workplace: Path, arguments: list[str], reason: str
) -> None:
    uri = f"sqlite:///{workplace}/mlflow.db"

    result = call_main("export", *arguments, "--output", "out", "--uri", uri)

    assert result.exit_code == 2 and reason in result.error_line
    assert not (workplace / "out").exists()


@pytest.mark.processes
@pytest.mark.parametrize(("kind", "package"), [("onnx", "onnxscript"), ("gguf", "gguf")])
def test_a_missing_package_is_named_with_its_extra(
    workplace: Path, kind: str, package: str
) -> None:
    hidden = workplace / "hidden"
    hidden.mkdir()
    # A finder that knows nothing of the package, in front of those that do.
    (hidden / "sitecustomize.py").write_text(
        "import importlib.util\n"
        "find_spec = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda name, *rest: None if name == {package!r} else "
        "find_spec(name, *rest)\n"
    )
    command = [sys.executable, "-m", "tunetrail", "export", "embedding", "--to", kind]
    source = Path(__file__).parents[2] / "src"

    done = subprocess.run(
        [*command, "--output", "out"],
        env={"PYTHONPATH": f"{hidden}:{source}", "PATH": "/usr/bin:/bin", "HOME": str(workplace)},
        cwd=workplace,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == (
        f"error: --to {kind} needs packages that aren't installed: {package}. "
        "Run `pip install 'tunetrail[export]'`."
    )
