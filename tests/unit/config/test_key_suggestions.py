"""What users type by mistake or by habit, and what share of it leads to the right key."""

import random
import string
from collections.abc import Iterator

import pytest

from tunetrail.cli.conf_groups import groups
from tunetrail.cli.override_keys import check_keys
from tunetrail.config.key_suggestions import did_you_mean_key, is_known_key, suggest_keys
from tunetrail.config.keys import all_settings
from tunetrail.config.synonyms import KEYS
from tunetrail.errors import ConfigError

KEYS_WITH_A_VALUE = [key for key, setting in all_settings().items() if not setting.is_section]
LETTERS = string.ascii_lowercase + string.digits + "_"
RIGHT_SHARE = 0.95

# What first users typed, and what Lightning (L), Transformers (H), TRL (T), PEFT (P) and sentence-transformers (S)
# call it. `training.` stands for either model's.
GUESSES = {
    "lr": "training.learning_rate",
    "lora.r": "llm.adapter.rank",
    "fp16": "training.precision=16-mixed",
    "bf16": "training.precision=bf16-mixed",
    "max_epochs": "training.num_epochs",
    "devices": "trainer.devices",
    "gradient_accumulation_steps": "training.batches.accumulate",
    "per_device_train_batch_size": "training.batch_size",
    "report_to": "logger",
    "data": "session_id",
    # L
    "trainer.max_epochs": "training.num_epochs",
    "trainer.max_steps": "training.max_steps",
    "trainer.precision": "training.precision",
    "trainer.accumulate_grad_batches": "training.batches.accumulate",
    "trainer.gradient_clip_val": "training.max_grad_norm",
    "trainer.log_every_n_steps": "training.logging_steps",
    "trainer.val_check_interval": "training.validations_per_epoch",
    "trainer.check_val_every_n_epoch": "training.validations_per_epoch",
    "trainer.default_root_dir": "output_dir",
    "trainer.gpus": "trainer.devices",
    "gpus": "trainer.devices",
    "accelerator": "trainer.accelerator",
    "strategy": "trainer.strategy",
    "num_nodes": "trainer.num_nodes",
    "seed_everything": "seed",
    "datamodule.batch_size": "training.batch_size",
    "datamodule.num_workers": "training.batches.workers",
    "model.lr": "training.learning_rate",
    "optimizer.lr": "training.learning_rate",
    "optimizer.weight_decay": "training.weight_decay",
    "optimizer.betas": "training.optimizer.beta1",
    "optimizer.eps": "training.optimizer.epsilon",
    "early_stopping.patience": "training.early_stopping_patience",
    "patience": "training.early_stopping_patience",
    "checkpoint.monitor": "training.monitor",
    "auto_lr_find": "training.learning_rate=auto",
    # H
    "learning_rate": "training.learning_rate",
    "num_train_epochs": "training.num_epochs",
    "per_device_eval_batch_size": "evaluation.batch_size",
    "warmup_ratio": "training.warmup_ratio",
    "num_warmup_steps": "training.warmup_steps",
    "lr_scheduler_type": "training.schedule",
    "max_grad_norm": "training.max_grad_norm",
    "weight_decay": "training.weight_decay",
    "adam_beta1": "training.optimizer.beta1",
    "adam_beta2": "training.optimizer.beta2",
    "adam_epsilon": "training.optimizer.epsilon",
    "optim": "training.optimizer.name",
    "save_steps": "training.checkpoints.every_steps",
    "eval_steps": "training.validations_per_epoch",
    "eval_strategy": "training.validations_per_epoch",
    "metric_for_best_model": "training.monitor",
    "gradient_checkpointing": "training.memory.gradient_checkpointing",
    "torch_compile": "training.memory.compile",
    "torch_dtype": "training.precision",
    "dataloader_num_workers": "training.batches.workers",
    "group_by_length": "training.batches.padding_free",
    "auto_find_batch_size": "training.batch_size=auto",
    "neftune_noise_alpha": "llm.neftune_alpha",
    "logging_dir": "output_dir",
    "data_seed": "seed",
    "model_name_or_path": "model",
    "train_file": "session_id",
    "max_seq_length": "max_length",
    "load_in_4bit": "llm.adapter.kind=qlora",
    # T and P
    "packing": "training.batches.padding_free",
    "beta": "llm.preference.beta",
    "loss_type": "llm.preference.loss_type",
    "rpo_alpha": "llm.preference.supervised_weight",
    "desirable_weight": "llm.kto.desirable_weight",
    "dataset_name": "session_id",
    "lora_r": "llm.adapter.rank",
    "lora_alpha": "llm.adapter.alpha",
    "lora_dropout": "llm.adapter.dropout",
    "lora_target_modules": "llm.adapter.target_modules",
    "target_modules": "llm.adapter.target_modules",
    "lora.alpha": "llm.adapter.alpha",
    "peft_config.r": "llm.adapter.rank",
    "use_peft": "llm.adapter.kind",
    "use_dora": "llm.adapter.kind=dora",
    "use_rslora": "llm.adapter.kind=rslora",
    "init_lora_weights": "llm.adapter.initialisation",
    # S
    "loss": "embedding.loss",
    "loss.scale": "embedding.loss_options.scale",
    "matryoshka_dims": "embedding.matryoshka_dimensions",
    "mini_batch_size": "embedding.mini_batch_size",
    "mine_hard_negatives": "feature_engineering.hard_negatives.enabled",
    "range_max": "feature_engineering.hard_negatives.candidates",
    "prompts": "embedding.query_prompt",
    "similarity_fct": "embedding.loss_options.similarity",
    "similarity_fn_name": "embedding.loss_options.similarity",
    "guide": "embedding.teacher",
    # others
    "test_size": "split.test_share",
    "val_split": "split.validation_share",
    "n_folds": "cross_validation.n_splits",
    "random_state": "seed",
    "epochs": "training.num_epochs",
    "experiment_name": "tracking.experiment",
    "mlflow_tracking_uri": "tracking.uri",
    "n_trials": "hydra.sweeper.n_trials",
    "Learning_Rate": "training.learning_rate",
}  # fmt: skip


def typos(key: str, letters: str = LETTERS) -> list[str]:
    """Return every deletion, substitution, transposition and insertion of one character."""
    words: dict[str, None] = {}
    for index in range(len(key)):
        before, after = key[:index], key[index + 1 :]
        words[before + after] = None
        words |= dict.fromkeys(f"{before}{letter}{after}" for letter in letters)
        words[before + after[:1] + key[index] + after[1:]] = None
    for index in range(len(key) + 1):
        words |= dict.fromkeys(f"{key[:index]}{letter}{key[index:]}" for letter in letters)
    return [word for word in words if word and word != key]


def sampled(count: int) -> Iterator[tuple[str, str]]:
    for key in KEYS_WITH_A_VALUE:
        words = typos(key)
        for word in random.Random(key).sample(words, min(count, len(words))):
            yield key, word


def check_typos(pairs: list[tuple[str, str]]) -> None:
    known_groups = tuple(groups())
    accepted = [word for _, word in pairs if is_known_key(word, known_groups)]
    wrong = [pair for pair in pairs if suggest_keys(pair[1], known_groups)[:1] != [pair[0]]]

    print(f"{1 - len(wrong) / len(pairs):.4f} of {len(pairs)} typing errors lead to the key first")
    assert accepted == []
    assert len(wrong) <= (1 - RIGHT_SHARE) * len(pairs), wrong[:20]


def test_single_typos_of_every_key_are_refused_with_the_right_suggestion_first() -> None:
    check_typos(list(sampled(3)))


def neighbours_of_typos(known: list[str]) -> dict[str, set[str]]:
    """Return each word that is a typing error of some known key, with all keys that it may mean."""
    neighbours: dict[str, set[str]] = {}
    for key in known:
        for word in typos(key, LETTERS + "."):
            neighbours.setdefault(word, set()).add(key)
    return neighbours


# A word that one key alone may mean leads to it, whatever else it looks like: looking all of them up
# takes seconds where asking for each takes minutes. A sample is asked for nevertheless.
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_all_single_typos_of_every_key_are_refused_with_the_right_suggestion_first() -> None:
    known_groups = tuple(groups())
    neighbours = neighbours_of_typos([*all_settings(), *known_groups])
    pairs = [(key, word) for key in KEYS_WITH_A_VALUE for word in typos(key)]
    certain = [pair for pair in pairs if neighbours[pair[1]] == {pair[0]}]
    asked = [pair for pair in pairs if neighbours[pair[1]] != {pair[0]}]
    asked_words = {word for _, word in asked}

    accepted = [word for _, word in pairs if is_known_key(word, known_groups)]
    suggested = {word: suggest_keys(word, known_groups)[:1] for word in asked_words}
    wrong = [pair for pair in asked if suggested[pair[1]] != [pair[0]]]
    print(f"{1 - len(wrong) / len(pairs):.5f} of {len(pairs)} typing errors lead to the key first")

    # Such as beta2 for beta1.
    assert set(accepted) <= {*all_settings(), *known_groups}
    assert len(wrong) <= (1 - RIGHT_SHARE) * len(pairs), wrong[:20]
    for key, word in random.Random(0).sample(certain, 5_000):
        assert suggest_keys(word, known_groups) == [key]


def test_guesses_of_other_libraries_users_lead_to_the_right_key() -> None:
    known_groups = tuple(groups())
    wrong = {}
    for guess, meant in GUESSES.items():
        suggestions = suggest_keys(guess, known_groups)
        first = suggestions[0].removeprefix("embedding.") if suggestions else None
        if meant not in (first, *suggestions[:1]):
            wrong[guess] = suggestions

    print(f"{1 - len(wrong) / len(GUESSES):.4f} of {len(GUESSES)} guesses lead to the right key")
    assert len(GUESSES) >= 70
    assert len(wrong) <= (1 - RIGHT_SHARE) * len(GUESSES), wrong


def test_synonyms_mean_keys_that_exist_and_are_none_themselves() -> None:
    known = {*KEYS_WITH_A_VALUE, *groups()}
    for guess, meaning in KEYS.items():
        key = meaning.partition("=")[0].replace("*.", "llm.")
        assert key in known, guess
        assert guess not in known and guess == guess.casefold()


@pytest.mark.parametrize(
    ("key", "model_type", "suggestions"),
    [
        ("lr", "llm", ["llm.training.learning_rate"]),
        ("embedding.lr", "llm", ["embedding.training.learning_rate"]),
        ("embeding.training.lr", "", ["embedding.training.learning_rate"]),
        ("max_epohcs", "llm", ["llm.training.num_epochs"]),
        ("embedding.loss.name", "", ["embedding.loss"]),
        ("trainer.loger.run._target_", "", ["trainer.logger.run._target_"]),
        ("Seed", "", ["seed"]),
        ("model-dir", "", ["model_dir"]),
        ("zzz", "", []),
    ],
)
def test_suggestions(key: str, model_type: str, suggestions: list[str]) -> None:
    assert suggest_keys(key, (), model_type) == suggestions


def test_a_suggestion_names_both_models_or_nothing() -> None:
    question = "Did you mean 'embedding.training.learning_rate' or 'llm.training.learning_rate'?"
    assert did_you_mean_key("lr") == f" {question}"
    assert did_you_mean_key("zzz") == ""


@pytest.mark.parametrize(
    "override",
    [
        "seed=1", "optimizer=sgd", "+experiments=quick", "~trainer.callbacks.x", "hydra.run.dir=x", "hydra/launcher=joblib",
        "+trainer.callbacks.mine._target_=Timer", "embedding@llm=x", "++seed=2", "seed", "",
    ],
)  # fmt: skip
def test_check_keys_leaves_known_keys_and_what_belongs_to_hydra(override: str) -> None:
    check_keys([override])


@pytest.mark.parametrize(
    "override",
    [
        "hydra.job_logging.handlers.x={'()': os.getcwd}",
        "+hydra.job_logging.handlers.x.class=subprocess.Popen",
        "+hydra.hydra_logging.filters.f={class: x.Y}",
        "++hydra.job_logging.formatters.f._target_=os.system",
    ],
)
def test_check_keys_refuses_code_in_the_configuration_of_the_log(override: str) -> None:
    with pytest.raises(ConfigError, match=r"^hydra\.(job|hydra)_logging\S+ must name no function"):
        check_keys(["seed=1", override])
    check_keys(["hydra.job_logging.root.level=DEBUG", "hydra/job_logging=none"])


@pytest.mark.parametrize("value", ["3", "null", "{a: 1}", ""])
def test_check_keys_refuses_a_verbosity_that_hydra_asserts_against(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^hydra\.verbose must be true, false, or names of logg"):
        check_keys([f"hydra.verbose={value}"])
    for allowed in ("true", "False", "[a, b]", "tunetrail.node", "'x'"):
        check_keys([f"hydra.verbose={allowed}"])


@pytest.mark.parametrize("override", ["lora.r=8", "+lora.r=8", "~lora.r", "++lora.r={a: 1}"])
def test_check_keys_refuses_what_hydra_would_name_in_its_own_words(override: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^there is no key lora\.r\. Did you mean 'llm\.adapter\.rank'\?"
    ):
        check_keys(["seed=1", override])
