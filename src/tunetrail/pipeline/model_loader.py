"""ModelLoader: loads the base models of a run once, for all stages that only apply them."""

from dataclasses import dataclass, field
from typing import Any

from tunetrail.config import Settings
from tunetrail.pipeline.model_family import ModelFamily


@dataclass(frozen=True, kw_only=True)
class ModelLoader:
    """Loads models for one run, and keeps one of each family until it is released.

    A training changes the weights and may run in another process, so it loads a copy of its own.

    Attributes:
        settings: All that can be set.
    """

    settings: Settings
    _loaded: dict[str, tuple[str, Any]] = field(default_factory=dict, init=False, repr=False)

    def load(self, family: ModelFamily, path: str) -> Any:
        """Return the model of a folder; it is loaded unless it is the family's last one."""
        if self._loaded.get(family.name, ("",))[0] != path:
            # Released first: two models of a family would need the memory of both.
            self.release(family)
            model = family.reading(self.settings).load(path)
            self._loaded[family.name] = path, model
        return self._loaded[family.name][1]

    def release(self, family: ModelFamily | None = None) -> None:
        """Let go of a family's model, or of all models."""
        if family is None:
            self._loaded.clear()
        else:
            self._loaded.pop(family.name, None)
