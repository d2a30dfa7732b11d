import gc
import weakref

from tunetrail.config import EmbeddingConfig, LanguageModelConfig, Settings
from tunetrail.pipeline.families import EMBEDDING, LLM
from tunetrail.pipeline.model_loader import ModelLoader


def loader(embedding_model: str, language_model: str) -> ModelLoader:
    return ModelLoader(
        settings=Settings(
            embedding=EmbeddingConfig(model=embedding_model, max_length=16, query_prompt="q: "),
            llm=LanguageModelConfig(model=language_model),
        )
    )


def test_load_returns_the_same_model_until_it_is_released(
    tiny_embedding_model: str, tiny_language_model: str
) -> None:
    models = loader(tiny_embedding_model, tiny_language_model)

    embedding_model = models.load(EMBEDDING, tiny_embedding_model)
    language_model = models.load(LLM, tiny_language_model)

    # Loaded as the settings say, whatever the stage that asks.
    assert (embedding_model.max_seq_length, embedding_model.prompts["query"]) == (16, "q: ")
    assert models.load(EMBEDDING, tiny_embedding_model) is embedding_model
    models.release(LLM)
    assert models.load(EMBEDDING, tiny_embedding_model) is embedding_model
    assert models.load(LLM, tiny_language_model) is not language_model


def test_load_of_another_folder_and_release_leave_nothing_in_memory(
    tiny_embedding_model: str, tiny_language_model: str
) -> None:
    models = loader(tiny_embedding_model, tiny_language_model)
    first = weakref.ref(models.load(EMBEDDING, tiny_embedding_model))

    second = weakref.ref(models.load(EMBEDDING, f"{tiny_embedding_model}/"))
    gc.collect()
    assert first() is None and second() is not None

    models.release()
    gc.collect()
    assert second() is None
