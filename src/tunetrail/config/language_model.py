"""The language model, its adapter and its training."""

from dataclasses import dataclass, field

from tunetrail.config.checks import check, check_choice
from tunetrail.config.model_types import check_start
from tunetrail.config.training import TrainingConfig


@dataclass(kw_only=True)
class AdapterConfig:
    """What is trained of a language model: all (`none`) or low-rank adapters (`lora`, PEFT), merged when registered."""

    kind: str = "lora"
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05

    def __post_init__(self) -> None:
        check_choice("llm.adapter.kind", self.kind, ("lora", "none"))
        check(self.rank >= 1, "llm.adapter.rank", "at least 1", self.rank)
        check(self.alpha >= 1, "llm.adapter.alpha", "at least 1", self.alpha)
        check(0.0 <= self.dropout < 1.0, "llm.adapter.dropout", "at least 0 and below 1", self.dropout)


@dataclass(kw_only=True)
class LanguageModelConfig:
    """The language model, its adapter and its training."""

    model: str = "smollm2-135m"
    max_length: int = 512
    start_from: str = "root"
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(batch_size=8, learning_rate=2e-4))

    def __post_init__(self) -> None:
        check(self.max_length >= 8, "llm.max_length", "at least 8 tokens", self.max_length)
        check_start("llm", self.start_from)
