"""The models that write, translate and compare rows for augmentation, loaded at first use."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tunetrail.config import BASE, Settings
from tunetrail.data.augmentation.augmentation import AugmentationTools
from tunetrail.deployment.registry import Registry
from tunetrail.learning.devices import computing_device
from tunetrail.learning.language_model.model import LanguageModel
from tunetrail.learning.models.catalog import resolve_model
from tunetrail.learning.models.generation import TextWriter
from tunetrail.learning.models.translation import Translator, load_translation_model
from tunetrail.pipeline.families import EMBEDDING, LLM
from tunetrail.pipeline.model_loader import ModelLoader
from tunetrail.stores.tracking.tracker import Tracker

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AugmentationModels:
    """Models by purpose.

    Attributes:
        settings: All that can be set.
        tracker: The store in which the root of the language models is registered.
        models: Loads base models; the run may have loaded them before.
    """

    settings: Settings
    tracker: Tracker
    models: ModelLoader

    def tools(self) -> AugmentationTools:
        """Return the functions that the configured methods need."""
        config = self.settings.augmentation
        writes = bool({"generated_query", "paraphrase"} & set(config.methods))
        translates = "back_translation" in config.methods and bool(config.translation_models)
        # No function, no model: what the methods don't call is never loaded. Vectors judge whether
        # a written text still means what its source says.
        return AugmentationTools(
            write=self._write if writes else None,
            translate=self._translate if translates else None,
            vectors=self._vectors if writes else None,
        )

    def _write(self, instruction: str, texts: Sequence[str], opening: str) -> list[str]:
        return self._writer.write(instruction, texts, opening)

    def _translate(self, texts: Sequence[str]) -> list[str]:
        return self._translator.back_translated(texts)

    def _vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        # No shape and no cache: the learner only encodes, it trains nothing.
        learner = EMBEDDING.learner(self.settings, "", None)
        model = self.models.load(EMBEDDING, EMBEDDING.resolve_base(self.settings).path)
        return EMBEDDING.row_vectors(learner, model, texts)

    @cached_property
    def _writer(self) -> TextWriter:
        config = self.settings.augmentation
        return TextWriter(
            model=self._load_generator(config.generator),
            seed=self.settings.seed,
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            device=computing_device(self.settings.trainer),
        )

    def _load_generator(self, generator: str) -> LanguageModel:
        """Load root (the base model before there is one), the base model, or a model by name."""
        # The writer is a language model, whichever family's rows are augmented.
        registry = Registry(self.tracker, LLM.name, LLM.flavor)
        root = registry.root() if generator == "root" else None
        if root is not None:
            logger.info("%s writes rows", root.uri)
            # The run's language model, if any, isn't needed next to the writer.
            self.models.release(LLM)
            model: LanguageModel = registry.load(root)
            return model

        name = self.settings.llm.model if generator in ("root", BASE) else generator
        logger.info("%s writes rows", name)
        base: LanguageModel = self.models.load(LLM, resolve_model(name, LLM.catalog).path)
        return base

    @cached_property
    def _translator(self) -> Translator:
        # Nor is it needed next to the translators.
        self.models.release(LLM)
        there, back = map(load_translation_model, self.settings.augmentation.translation_models)
        device = computing_device(self.settings.trainer)
        return Translator(there=there, back=back, device=device)
