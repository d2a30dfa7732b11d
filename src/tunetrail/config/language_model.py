"""Settings of the language model: what is trained of it, and what it learns from."""

from dataclasses import dataclass, field

from tunetrail.config.checks import (
    POSITIVE,
    ZERO_TO_BELOW_ONE,
    Rule,
    at_least,
    check,
    check_different,
    check_settings,
    one_of,
    setting,
)
from tunetrail.config.training import AUTO, START, TrainingConfig
from tunetrail.samples import SampleKind, shapes_of_kind

ADAPTERS = ("lora", "rslora", "dora", "qlora", "none")
ALL_LINEAR = "all-linear"
INITIALISATIONS = ("default", "orthogonal", "pissa", "olora")
KEEP, STRIP, EMPTY = "keep", "strip", "empty"
PREFERENCE_LOSSES = ("sigmoid", "ipo")
# Several shapes share an objective; a dict drops the repetitions and keeps the order.
OBJECTIVES = tuple(dict.fromkeys(shape.objective for shape in shapes_of_kind(SampleKind.LLM)))

_SIZE = at_least(0, " (0: off) and finite")


@dataclass(kw_only=True)
class AdapterConfig:
    """What is trained of a language model: low-rank adapters, or all weights."""

    kind: str = setting("lora", one_of(*ADAPTERS))
    """`lora` adds low-rank adapters scaled by alpha / rank (Hu et al. 2021,
    https://arxiv.org/abs/2106.09685), `rslora` scales them by alpha / sqrt(rank)
    (Kalajdzievski 2023, https://arxiv.org/abs/2312.03732), `dora` also learns the magnitude
    of the weights (Liu et al. 2024, https://arxiv.org/abs/2402.09353), `qlora` is `lora` on
    weights in 4 bits (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314; needs
    bitsandbytes and an NVIDIA GPU), and `none` trains all weights: set
    `llm.training.learning_rate=2e-5` with it. Adapters are merged into the weights before
    the model is scored."""

    rank: int = setting(16, at_least(1))
    """Rank of the adapters' matrices."""

    alpha: int = setting(32, at_least(1))
    """Scale of the adapters, in relation to their rank (see `kind`)."""

    dropout: float = setting(0.05, ZERO_TO_BELOW_ONE)
    """Share of the adapters' inputs that are dropped in training."""

    target_modules: list[str] = field(default_factory=lambda: [ALL_LINEAR])
    """Layers that get an adapter: `[all-linear]`, or names of linear layers such as
    `[q_proj, v_proj]`."""

    initialisation: str = setting("default", one_of(*INITIALISATIONS))
    """How adapters begin: `default` with no effect on the model; `orthogonal` likewise,
    with orthogonal matrices (an even rank); `pissa` (Meng et al. 2024,
    https://arxiv.org/abs/2404.02948) or `olora` (Büyükakyüz 2024,
    https://arxiv.org/abs/2406.01775) with the principal part of each weight, which needs
    `dropout=0`."""

    def __post_init__(self) -> None:
        check_settings("llm.adapter", self)

        targets = self.target_modules
        # Next to `all-linear`, a name would add nothing that isn't covered.
        is_alone = ALL_LINEAR not in targets or len(targets) == 1
        name, rule = "llm.adapter.target_modules", f"[{ALL_LINEAR}] or names of linear layers"
        advice = "" if targets else "llm.adapter.kind=none trains all weights."
        check(bool(targets) and all(targets) and is_alone, name, rule, targets, advice)
        check_different(name, targets)

        # Without an adapter the key is ignored, so that a sweep over kinds can include `none`.
        if self.kind != "none":
            self._check_initialisation()

    def _check_initialisation(self) -> None:
        setting_text = f"with initialisation={self.initialisation}"
        if self.initialisation in ("pissa", "olora"):
            # The adapter holds the principal part of the weights: dropout would drop it, and
            # quantised weights can't have it taken out of them.
            check(self.dropout == 0.0, "llm.adapter.dropout", f"0 {setting_text}", self.dropout)
            rule = f"lora, rslora or dora {setting_text}"
            check(self.kind != "qlora", "llm.adapter.kind", rule, self.kind)
        if self.initialisation == "orthogonal":
            # Each of the adapter's two matrices is made from half the rows of an orthogonal one.
            check(self.rank % 2 == 0, "llm.adapter.rank", f"even {setting_text}", self.rank)


@dataclass(kw_only=True)
class PreferenceConfig:
    """How the model learns from rows of `prompt, chosen, rejected`."""

    beta: float = setting(0.1, Rule("above 0 and finite", POSITIVE.allows))
    """Weight of staying near the model that training starts from: the beta of DPO and
    IPO."""

    loss_type: str = setting("sigmoid", one_of(*PREFERENCE_LOSSES))
    """`sigmoid` is direct preference optimisation (DPO, Rafailov et al. 2023,
    https://arxiv.org/abs/2305.18290), `ipo` its bounded relative (Azar et al. 2023,
    https://arxiv.org/abs/2310.12036)."""

    supervised_weight: float = setting(0.0, _SIZE)
    """Weight of the supervised loss of the chosen answer, per token, that is added (Pang et
    al. 2024, https://arxiv.org/abs/2404.19733); 0 adds none."""

    def __post_init__(self) -> None:
        check_settings("llm.preference", self)


@dataclass(kw_only=True)
class KtoConfig:
    """How the model learns from rows of `prompt, completion, accepted`: by KTO.

    Kahneman-Tversky optimisation: Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306.
    """

    beta: float = setting(0.1, Rule("above 0 and finite", POSITIVE.allows))
    """Weight of staying near the model that training starts from."""

    desirable_weight: float = setting(1.0, Rule("above 0 and finite", POSITIVE.allows))
    """Weight of the accepted answers. The paper advises a value at which this weight times
    the number of accepted rows is 1 to 4/3 of the same product of the rejected rows."""

    undesirable_weight: float = setting(1.0, Rule("above 0 and finite", POSITIVE.allows))
    """Weight of the rejected answers."""

    def __post_init__(self) -> None:
        check_settings("llm.kto", self)


@dataclass(kw_only=True)
class LanguageModelConfig:
    """The language model, its adapter and its training."""

    model: str = "smollm2-135m"
    """Short name from the catalog, hub id or folder of the base model. The group `llm=NAME`
    also sets what suits the model; this key changes the weights only."""

    max_length: int = setting(512, at_least(8, " tokens"))
    """Tokens of an example that the model reads; the rest is cut off."""

    start_from: str = setting("root", START)
    """`root` continues from the current root version if it was made from the same base
    model; `base` always starts from the base model."""

    objective: str = setting(AUTO, one_of(AUTO, *OBJECTIVES))
    """`supervised` learns from texts, `preference` from preferences, `kto` from verdicts on
    single answers; `auto` takes what the session has. If it has several, `auto` takes the texts
    and names in a warning what isn't learnt."""

    thoughts: str = setting(KEEP, one_of(KEEP, STRIP, EMPTY))
    """What becomes of the thoughts (`<think>...</think>`) at the beginning of answers. `keep`
    learns them, since nothing that was collected is dropped by default; an answer without
    thoughts is learnt as the chat template writes it. `strip` takes them out. `empty` lets
    each answer begin with empty thoughts, so that a reasoning model learns to answer at once
    in its own notation. If the template's prompt opens thoughts (DeepSeek-R1), an answer
    without thoughts closes them first in each case."""

    neftune_alpha: float = setting(0.0, _SIZE)
    """Size of the noise on the token embeddings in training (NEFTune, Jain et al. 2023,
    https://arxiv.org/abs/2310.05914); 5 is usual, 0 adds none."""

    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    """What is trained of the model."""

    preference: PreferenceConfig = field(default_factory=PreferenceConfig)
    """Learning from preferences."""

    kto: KtoConfig = field(default_factory=KtoConfig)
    """Learning from verdicts on single answers."""

    # Adapters take about ten times the learning rate of full fine-tuning.
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(batch_size=8, learning_rate=2e-4)
    )
    """Hyperparameters of the training."""

    def __post_init__(self) -> None:
        check_settings("llm", self)
