from pathlib import Path

import numpy as np
from mlflow.models import Model

from tunetrail.config import EmbeddingConfig
from tunetrail.deployment.flavors import EmbeddingFlavor
from tunetrail.learning.embedding.learner import EmbeddingLearner


def test_embedding_flavor_keeps_the_prompts(tiny_embedding_model: str, tmp_path: Path) -> None:
    config = EmbeddingConfig(query_prompt="query: ", document_prompt="passage: ")
    model = EmbeddingLearner(config=config, shape="pair", seed=0).load(tiny_embedding_model)
    EmbeddingFlavor().save(model, tmp_path / "saved", Model())
    loaded = EmbeddingFlavor().load(str(tmp_path / "saved"))

    # The card of a version is tunetrail's own.
    assert not list((tmp_path / "saved").rglob("README.md"))
    assert (
        loaded.prompts == {"query": "query: ", "document": "passage: "}
        and loaded.default_prompt_name is None
    )
    for before, after in (
        (model.encode_query, loaded.encode_query),
        (model.encode_document, loaded.encode_document),
        (model.encode, loaded.encode),
    ):
        np.testing.assert_allclose(after(["a text"]), before(["a text"]), atol=1e-6)
    assert not np.allclose(
        loaded.encode_query(["a text"]), loaded.encode_document(["a text"]), atol=1e-4
    )
