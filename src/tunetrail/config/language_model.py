"""The language model, its adapter, what it learns from preferences, and its training."""

import math
from dataclasses import dataclass, field

from tunetrail.config.checks import check, check_choice
from tunetrail.config.model_types import check_start
from tunetrail.config.training import AUTO, TrainingConfig
from tunetrail.samples import SampleKind, shapes_of_kind

ADAPTERS = ("lora", "rslora", "dora", "qlora", "none")
ALL_LINEAR = "all-linear"
INITIALISATIONS = ("default", "orthogonal", "pissa", "olora")
PREFERENCE_LOSSES = ("sigmoid", "ipo")
OBJECTIVES = tuple(dict.fromkeys(shape.objective for shape in shapes_of_kind(SampleKind.LLM)))


@dataclass(kw_only=True)
class AdapterConfig:
    """What is trained of a language model: all (`none`) or low-rank adapters (PEFT), merged when registered.

    `lora` scales the adapter by alpha / rank, `rslora` by alpha / sqrt(rank); `dora` learns how large the weights are
    apart; `qlora` is `lora` on weights in 4 bits (bitsandbytes and an NVIDIA GPU). `target_modules` are names of linear
    layers, or `all-linear`. With `initialisation` `pissa` or `olora` the adapter begins as each weight's leading part.
    """

    kind: str = "lora"
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    target_modules: list[str] = field(default_factory=lambda: [ALL_LINEAR])
    initialisation: str = "default"

    def __post_init__(self) -> None:
        check_choice("llm.adapter.kind", self.kind, ADAPTERS)
        check(self.rank >= 1, "llm.adapter.rank", "at least 1", self.rank)
        check(self.alpha >= 1, "llm.adapter.alpha", "at least 1", self.alpha)
        check(
            0.0 <= self.dropout < 1.0, "llm.adapter.dropout", "at least 0 and below 1", self.dropout
        )
        targets = self.target_modules
        check(
            bool(targets) and all(targets) and (ALL_LINEAR not in targets or len(targets) == 1),
            "llm.adapter.target_modules",
            f"[{ALL_LINEAR}] or names of linear layers",
            targets,
            "llm.adapter.kind=none trains all weights." if not targets else "",
        )
        check(
            len(set(targets)) == len(targets),
            "llm.adapter.target_modules",
            "all different",
            targets,
        )
        check_choice("llm.adapter.initialisation", self.initialisation, INITIALISATIONS)
        self._check_initialisation()

    def _check_initialisation(self) -> None:
        """Check what goes with the initialisation: dropout would drop the weights' own leading part, for example."""
        if self.kind == "none":
            return
        given = f"with initialisation={self.initialisation}"
        if self.initialisation in ("pissa", "olora"):
            check(self.dropout == 0.0, "llm.adapter.dropout", f"0 {given}", self.dropout)
            check(
                self.kind != "qlora", "llm.adapter.kind", f"lora, rslora or dora {given}", self.kind
            )
        if self.initialisation == "orthogonal":
            check(self.rank % 2 == 0, "llm.adapter.rank", f"even {given}", self.rank)


@dataclass(kw_only=True)
class PreferenceConfig:
    """How rows of `prompt, chosen, rejected` are learnt from, against the model that training starts from.

    `beta` is the weight of staying near that model; `loss_type` is `sigmoid` (DPO) or `ipo`. `supervised_weight` above
    0 adds that much of the chosen answer's supervised loss.
    """

    beta: float = 0.1
    loss_type: str = "sigmoid"
    supervised_weight: float = 0.0

    def __post_init__(self) -> None:
        check(
            self.beta > 0.0 and math.isfinite(self.beta),
            "llm.preference.beta",
            "above 0 and finite",
            self.beta,
        )
        check_choice("llm.preference.loss_type", self.loss_type, PREFERENCE_LOSSES)
        check(
            self.supervised_weight >= 0.0 and math.isfinite(self.supervised_weight),
            "llm.preference.supervised_weight",
            "at least 0 (0: off) and finite",
            self.supervised_weight,
        )


@dataclass(kw_only=True)
class LanguageModelConfig:
    """The language model, its adapter and its training.

    `objective` chooses the samples of a session that holds preferences and others: `supervised` learns from texts,
    `preference` from preferences, `auto` from what there is.

    `neftune_alpha` above 0 adds noise of that size to the embeddings in training (NEFTune; 5 is usual).
    """

    model: str = "smollm2-135m"
    max_length: int = 512
    start_from: str = "root"
    objective: str = AUTO
    neftune_alpha: float = 0.0
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    preference: PreferenceConfig = field(default_factory=PreferenceConfig)
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(batch_size=8, learning_rate=2e-4)
    )

    def __post_init__(self) -> None:
        check(self.max_length >= 8, "llm.max_length", "at least 8 tokens", self.max_length)
        check(
            self.neftune_alpha >= 0.0 and math.isfinite(self.neftune_alpha),
            "llm.neftune_alpha",
            "at least 0 (0: off) and finite",
            self.neftune_alpha,
        )
        check_start("llm", self.start_from)
        check_choice("llm.objective", self.objective, (AUTO, *OBJECTIVES))
