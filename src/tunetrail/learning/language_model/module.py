"""LanguageModelModule: a causal language model, whole or with low-rank adapters, that Lightning trains."""

import warnings
from typing import Any

import pytorch_lightning as lightning
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from tunetrail.learning.tokens.chat import IGNORED
from tunetrail.learning.training.optimization import configure_adamw


def load_language_model(path: str) -> PreTrainedModel:
    """Load a local causal language model in float32, from safetensors only and without remote code."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        path, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
    )
    return model


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """Load a local tokenizer; a model without a padding token pads with its end-of-sequence token."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        path, local_files_only=True, trust_remote_code=False
    )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def supervised_nats(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Return the negative log-likelihood, in nats, of each token; 0 where nothing is learnt.

    Logits are computed only at the positions where some row of the batch has a label.

    Args:
        model: A causal language model of transformers, or a PEFT model around one.
        batch: `input_ids`, `attention_mask` and `labels`, each [batch, tokens].

    Returns:
        Tensor [batch, positions]; its sum over positions is each row's negative log-likelihood.
    """
    targets = batch["labels"][:, 1:]
    positions = (targets != IGNORED).any(dim=0).nonzero().flatten()
    logits = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        logits_to_keep=positions,
        use_cache=False,
    ).logits
    targets = targets[:, positions]
    supervised = targets != IGNORED
    chosen = logits[supervised].float()
    # logsumexp - logit: two digits more exact in float32 than torch's cross_entropy
    nats = chosen.logsumexp(dim=-1) - chosen.gather(1, targets[supervised][:, None]).squeeze(1)
    return torch.zeros(targets.shape, device=nats.device).masked_scatter(supervised, nats)


class LanguageModelModule(lightning.LightningModule):
    """Fine-tunes a causal language model; the loss is the mean over the supervised tokens.

    Hyper-parameters are plain Python values, so checkpoints load with `weights_only=True`. With adapters, checkpoints
    hold the trained weights only.

    Args:
        model: Folder of the model that training starts from.
        adapter: `lora` (all linear layers, through PEFT) or `none` (all weights are trained).
        rank: Of the adapters.
        alpha: The adapters' scale is alpha / rank.
        dropout: On the adapters' input.
        learning_rate: Peak of the schedule.
        weight_decay: Of the matrices; biases and norms never decay.
        warmup_steps: Steps of linear warm-up.
        schedule: `linear`, `cosine` or `constant` after the warm-up.
    """

    def __init__(
        self,
        *,
        model: str,
        adapter: str = "lora",
        rank: int = 16,
        alpha: int = 32,
        dropout: float = 0.05,
        learning_rate: float = 1e-5,
        weight_decay: float = 0.01,
        warmup_steps: int = 0,
        schedule: str = "linear",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model: PreTrainedModel | PeftModel = load_language_model(model)
        if adapter == "lora":
            lora = LoraConfig(
                r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM"
            )
            with warnings.catch_warnings():  # PEFT 0.21 asks transformers 5.23 for an attribute under its old name
                warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
                self.model = get_peft_model(self.model, lora)
            self.strict_loading = False

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        """Return the mean negative log-likelihood of the batch's supervised tokens."""
        return self._loss(batch, "train/loss")

    def validation_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        """Log the loss of one validation batch, weighted by its supervised tokens."""
        self._loss(batch, "val/loss")

    def _loss(self, batch: dict[str, Tensor], name: str) -> Tensor:
        tokens = int((batch["labels"][:, 1:] != IGNORED).sum())
        loss = supervised_nats(self.model, batch).sum() / max(tokens, 1)
        validating = name == "val/loss"
        self.log(
            name, loss, batch_size=max(tokens, 1), on_epoch=validating, on_step=not validating, prog_bar=validating
        )
        return loss

    def configure_optimizers(self) -> Any:
        """Return AdamW and the schedule over the trainer's estimated steps."""
        return configure_adamw(
            self,
            learning_rate=self.hparams["learning_rate"],
            weight_decay=self.hparams["weight_decay"],
            warmup_steps=self.hparams["warmup_steps"],
            schedule=self.hparams["schedule"],
            total_steps=int(self.trainer.estimated_stepping_batches),
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only the trained weights: the frozen ones lie unchanged in the model's folder."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        if self.hparams["adapter"] == "lora":
            checkpoint["state_dict"] = {
                name: value for name, value in checkpoint["state_dict"].items() if name in trained
            }

    def merged(self) -> PreTrainedModel:
        """Return the plain model with the adapters added into its weights; the module can't be trained afterwards."""
        if isinstance(self.model, PeftModel):
            return self.model.merge_and_unload()  # type: ignore[no-any-return]
        return self.model
