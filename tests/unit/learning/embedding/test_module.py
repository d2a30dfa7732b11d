from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from tunetrail.config import TrainingConfig
from tunetrail.errors import BrokenModelError, ModelError
from tunetrail.learning.embedding.data import EmbeddingDataModule
from tunetrail.learning.embedding.module import EmbeddingModule
from tunetrail.learning.embedding.reader import load_embedding_model
from tunetrail.learning.fitting import fit, optimization_settings
from tunetrail.learning.training_plan import TrainingPlan

PAIRS = [{"anchor": f"question {n}", "positive": f"the answer is {n * 7}"} for n in range(8)]


def trained(path: str, folder: Path) -> EmbeddingModule:
    training = TrainingConfig(
        num_epochs=1, warmup_steps=0, validations_per_epoch=1, learning_rate=1e-3, weight_decay=0.2
    )
    module = EmbeddingModule(
        model=path,
        shape="pair",
        mini_batch_size=3,
        optimization=optimization_settings(training),
        seed=7,
    )
    data = EmbeddingDataModule(train=PAIRS, validation=PAIRS, shape="pair", batch_size=4)
    fit(
        module,
        data,
        training,
        TrainingPlan(folder=folder, on_metrics=lambda metrics, step: None),
        seed=0,
    )
    return module


def plain_types(value: Any) -> set[type]:
    """Return the types of the values in nested dicts and sequences."""
    if isinstance(value, dict | list | tuple):
        return set().union(*map(plain_types, value.values() if isinstance(value, dict) else value))
    return {type(value)}


def test_module_checkpoint_loads_without_unpickling(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    module = trained(tiny_embedding_model, tmp_path)
    checkpoint = tmp_path / "checkpoints" / "best.ckpt"
    plain = torch.load(checkpoint, weights_only=True)
    assert plain_types(plain["hyper_parameters"]) <= {str, int, float, bool, type(None)}
    loaded = EmbeddingModule.load_from_checkpoint(checkpoint, weights_only=True)
    assert dict(loaded.hparams) == dict(module.hparams)
    expected, found = module.state_dict(), loaded.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    original = load_embedding_model(tiny_embedding_model).state_dict()
    assert any(
        not torch.equal(original[name.removeprefix("model.")], found[name]) for name in found
    )


def test_module_state_holds_each_weight_once(tiny_embedding_model: str) -> None:
    module = EmbeddingModule(model=tiny_embedding_model, shape="pair")
    assert set(module.state_dict()) == {f"model.{name}" for name in module.model.state_dict()}


def test_module_optimizer_decays_neither_biases_nor_norms(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    module = trained(tiny_embedding_model, tmp_path)
    groups = module.trainer.optimizers[0].param_groups
    decay = {
        id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]
    }
    # BERT's pooler isn't trained: pooling reads the tokens' vectors.
    named = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
    assert set(decay) == {id(parameter) for parameter in named.values()}
    for name, parameter in named.items():
        assert decay[id(parameter)] == (
            0.0 if name.endswith("bias") or "LayerNorm" in name else 0.2
        ), name


@pytest.mark.parametrize(("asked", "used"), [(16, 16), (None, 512), (10_000, 512)])
def test_load_limits_the_length_to_what_the_model_can_read(
    tiny_embedding_model: str, asked: int | None, used: int
) -> None:
    model = load_embedding_model(tiny_embedding_model, asked)
    assert model.max_seq_length == used
    assert model.preprocess(["word " * 3000])["input_ids"].shape == (1, used)
    assert model.encode("word " * 3000, show_progress_bar=False).shape == (32,)


def test_load_refuses_pickled_weights(tiny_embedding_model: str, tmp_path: Path) -> None:
    model = load_embedding_model(tiny_embedding_model)
    model.save_pretrained(str(tmp_path), create_model_card=False)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model[0].auto_model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(BrokenModelError, match=r"no file named model\.safetensors"):
        load_embedding_model(str(tmp_path))


def test_load_refuses_a_model_without_a_transformer(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    tokenizer = load_embedding_model(tiny_embedding_model).tokenizer.backend_tokenizer
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu")
    model.save(str(tmp_path))
    with pytest.raises(
        ModelError,
        match=r"must be a model with a transformer, got StaticEmbedding\. Choose another",
    ):
        load_embedding_model(str(tmp_path))


def test_rows_are_diagnosed_in_the_pieces_that_they_are_trained_in(
    tiny_embedding_model: str,
) -> None:
    module = EmbeddingModule(model=tiny_embedding_model, shape="pair", mini_batch_size=3)
    data = EmbeddingDataModule(train=PAIRS, validation=[], shape="pair", batch_size=8)
    batch = next(iter(data.train_dataloader())).batch
    looked_up: list[int] = []
    table = next(each for each in module.model.modules() if isinstance(each, torch.nn.Embedding))
    table.register_forward_pre_hook(lambda layer, inputs: looked_up.append(inputs[0].numel()))
    assert module.is_finite(batch)
    whole = sum(looked_up)
    assert len(looked_up) == 3 and max(looked_up) < whole / 2
