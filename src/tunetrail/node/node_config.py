"""What a node trains: the settings, and short ways to set some of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tunetrail.config import Settings


@dataclass(kw_only=True)
class NodeConfig:
    """What a ModelTrainingNode trains, with what, and where the result goes.

    Raises:
        ConfigError: A key is unknown (the message names the nearest known one), or a value has the
            wrong type or is out of range.
    """

    model_dir: str | None = None
    """Folder of the exported root models; None for `settings.model_dir`."""

    embedding_model: str | None = None
    """Short name, hub id or folder; None for `settings.embedding.model`."""

    llm_model: str | None = None
    """Short name, hub id or folder; None for `settings.llm.model`."""

    pipeline_config: Mapping[str, Any] | None = None
    """Any of `output_dir`, `n_splits`, `random_state` and `models_root_dir`; they replace
    `settings.output_dir`, `settings.cross_validation.n_splits`, `settings.seed` and
    `settings.model_dir`."""

    training_config: Mapping[str, Mapping[str, Any]] | None = None
    """For `embedding` and `llm`, any of `batch_size`, `learning_rate`, `num_epochs`,
    `warmup_steps`, `weight_decay`, `use_mixed_precision`, `max_grad_norm`,
    `early_stopping_patience` and `logging_steps`; they replace the values in
    `settings.TYPE.training`.
    """

    settings: Settings = field(default_factory=Settings)
    """Everything else; after construction, with all of the above applied."""

    def __post_init__(self) -> None:
        settings = self.settings.with_short_configs(self.pipeline_config, self.training_config)

        # The settings are replaced, not changed: the caller may use them for another node.
        if self.model_dir is not None:
            settings = replace(settings, model_dir=str(self.model_dir))
        if self.embedding_model is not None:
            embedding = replace(settings.embedding, model=self.embedding_model)
            settings = replace(settings, embedding=embedding)
        if self.llm_model is not None:
            settings = replace(settings, llm=replace(settings.llm, model=self.llm_model))

        self.settings = settings
