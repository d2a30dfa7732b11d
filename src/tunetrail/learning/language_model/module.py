"""LanguageModelModule: trains a causal language model, all of it or its low-rank adapters."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tunetrail.config import KtoConfig, PreferenceConfig
from tunetrail.learning.cpu_layers import optimise, optimise_for_training, restore
from tunetrail.learning.devices import to_device
from tunetrail.learning.flops import token_cost
from tunetrail.learning.language_model.adapters import merged, quantization_config, with_adapter
from tunetrail.learning.language_model.data import (
    Batch,
    LanguageBatch,
    PreferenceBatch,
    VerdictBatch,
)
from tunetrail.learning.language_model.forward import (
    build_forward,
    causal_model,
    head_of,
    probe_examples,
)
from tunetrail.learning.language_model.kto import kto_loss, on_right_side, reference_point
from tunetrail.learning.language_model.preference import (
    PairLogProbabilities,
    implicit_rewards,
    preference_loss,
)
from tunetrail.learning.load_errors import naming_broken_model
from tunetrail.learning.padding_free.attention import SEGMENT_ATTENTION
from tunetrail.learning.tokens.chat import TokenizedExample, example_lengths, supervised_counts
from tunetrail.learning.tokens.templates import prepare_template
from tunetrail.learning.torch_internals import undo_compile
from tunetrail.learning.training.micro_batches import SharedBatch
from tunetrail.learning.training.module import ComputeCost, TrainedModule
from tunetrail.learning.training.sharding import is_sharded, shard, unsharded

# Difference in nats per token below which float32 leaves open which answer is likelier.
_TIE = 1e-6


def load_language_model(path: str, **settings: Any) -> PreTrainedModel:
    """Load a local causal language model in float32, only from safetensors."""
    model: PreTrainedModel
    with naming_broken_model(path):
        model = AutoModelForCausalLM.from_pretrained(
            path,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            # Whatever type the file has: small steps would get lost in half-precision weights.
            dtype=torch.float32,
            **settings,
        )
    optimise(model)
    return model


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """Load a local tokenizer; without a padding token it pads with the end of sequence.

    Its chat template has a form for every usual conversation: see `prepare_template`.
    """
    tokenizer: PreTrainedTokenizerBase
    with naming_broken_model(path):
        tokenizer = AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    prepare_template(tokenizer, path)
    return tokenizer


class LanguageModelModule(TrainedModule):
    """Fine-tunes a causal language model; the loss is the mean over a step's supervised tokens.

    Hyper-parameters are plain Python values, so checkpoints load with `weights_only=True`. With
    adapters, checkpoints hold only the trained weights.

    Args:
        model: Folder of the model that training starts from.
        adapter: Keywords of `with_adapter`; all weights are trained if None.
        pad_token_id: Fills up shorter rows if the model needs padding.
        padding_free: Whether to avoid padding if the model allows it.
        neftune_alpha: Size of the noise on the embeddings in training; 0: off.
        preference: Keywords of `PreferenceConfig`, for batches of preferences.
        kto: Keywords of `KtoConfig`, for batches of judged answers.
        optimization: Keywords of `configure_optimizer`.
        seed: Seed of dropout and of the adapters' first weights.
    """

    def __init__(
        self,
        *,
        model: str,
        adapter: Mapping[str, Any] | None = None,
        pad_token_id: int = 0,
        padding_free: bool = True,
        neftune_alpha: float = 0.0,
        preference: Mapping[str, Any] | None = None,
        kto: Mapping[str, Any] | None = None,
        optimization: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(optimization=optimization or {}, seed=seed)
        self.save_hyperparameters()
        # Before the adapters draw their first weights.
        torch.manual_seed(seed)

        quantization = quantization_config(adapter["kind"]) if adapter else None
        loading = {"quantization_config": quantization} if quantization else {}
        self.model: PreTrainedModel | PeftModel = load_language_model(model, **loading)
        if adapter:
            self.model = with_adapter(self.model, **adapter)
        self._preference = PreferenceConfig(**(preference or {}))
        self._kto = KtoConfig(**(kto or {}))
        # A checkpoint with adapters lacks the frozen weights.
        self.strict_loading = not isinstance(self.model, PeftModel)

        self.forward_pass = build_forward(
            self.model, pad_token_id, padding_free=padding_free, noise_alpha=neftune_alpha
        )
        if self.forward_pass.padding_free:
            causal_model(self.model).set_attn_implementation(SEGMENT_ATTENTION)
        embedding = causal_model(self.model).get_input_embeddings()
        head = head_of(self.model)
        optimise_for_training(self.model, embedding=embedding, head=head)

        # The head sees only supervised tokens, so its cost is counted apart.
        self._cost = token_cost(self.model, head)
        # Six operations per trained weight, four per frozen one, as in `TokenCost.training`.
        self._head_flops = head.weight.numel() * (6.0 if head.weight.requires_grad else 4.0)

    def configure_model(self) -> None:
        """Shard the weights over the ranks if the Trainer's strategy is for that."""
        if self.device_mesh is not None:
            shard(self, ("loss_of", "zero_loss", "measures_of", "nats"))

    def loss_of(self, batch: SharedBatch) -> Tensor:
        """Return the weighted sum of the loss over the tokens or pairs of this rank's rows."""
        if isinstance(batch.batch, VerdictBatch):
            return self._verdict_loss(batch)
        if not batch.share.rows:
            return self._loss_without_rows()
        return self._loss_of(batch.share) * len(batch.shares)

    def _loss_of(self, batch: LanguageBatch | PreferenceBatch) -> Tensor:
        """Return the weighted sum of the loss over the batch's supervised tokens or pairs."""
        if isinstance(batch, LanguageBatch):
            return self.forward_pass.loss(batch.examples, batch.weights)
        return self._preferences(batch)["loss"]

    def _verdict_loss(self, batch: SharedBatch) -> Tensor:
        """Return the weighted sum of KTO's loss; all ranks measure by one reference point."""
        share: VerdictBatch = batch.share
        with torch.no_grad():
            divergence = self._mismatched_log_ratios(share).sum()
        if len(batch.shares) > 1:
            divergence = self.trainer.strategy.reduce(divergence, reduce_op="sum")
        point = reference_point(divergence / len(batch.batch.rows))

        if not share.rows:
            return self._loss_without_rows()
        log_ratios = self._log_ratios(share)
        losses = kto_loss(log_ratios, _accepted(share, log_ratios), point, self._kto)
        weights = _like(losses, [judged.answer.weight for judged in share.judged])
        return (losses * weights).sum() * len(batch.shares)

    def _mismatched_log_ratios(self, batch: VerdictBatch) -> Tensor:
        """Return the log-ratio of each answer after a prompt that isn't its own, [answers]."""
        if not batch.rows:
            # The passes of the other ranks need this rank's slices of the weights.
            if is_sharded(self):
                self._loss_without_rows()
            return torch.zeros(0, device=self.device)
        log_probabilities = -self.forward_pass.nats(batch.mismatched)
        reference = [judged.reference[1] for judged in batch.judged]
        return log_probabilities - _like(log_probabilities, reference)

    def _log_ratios(self, batch: VerdictBatch) -> Tensor:
        """Return the log-ratio of each answer, [answers]."""
        log_probabilities = -self.forward_pass.nats(batch.examples)
        reference = [judged.reference[0] for judged in batch.judged]
        return log_probabilities - _like(log_probabilities, reference)

    def zero_loss(self) -> Tensor:
        """Return a loss of 0 that reaches every trained weight, for a share without rows."""
        return self._loss_without_rows()

    def _loss_without_rows(self) -> Tensor:
        if not is_sharded(self):
            return super().zero_loss()
        # The passes of the other ranks need this rank's slices, so it computes something.
        vocabulary = causal_model(self.model).config.get_text_config().vocab_size
        return 0.0 * self.forward_pass.loss(probe_examples(vocabulary)[:1], [1.0])

    def nats(self, examples: Sequence[TokenizedExample]) -> Tensor:
        """Return each example's negative log-likelihood in nats, float32 [examples]."""
        return self.forward_pass.nats(examples)

    def _preferences(self, batch: PreferenceBatch) -> dict[str, Tensor]:
        """Return the sums of the pairs' losses and of what tells which answers are preferred.

        Losses and `reward_accuracy`, of the implicit rewards, are weighted by row. `preferred`
        counts the pairs whose chosen answer is likelier per token, as the evaluation does.
        """
        chosen, rejected = (-self.forward_pass.nats(batch.examples)).chunk(2)
        # Transposed to [2, pairs]: first all chosen answers, then all rejected, as in `examples`.
        reference = _like(chosen, [pair.reference for pair in batch.pairs]).T
        supervised = supervised_counts(batch.examples)
        chosen_tokens, rejected_tokens = _like(chosen, supervised).chunk(2)
        weights = _like(chosen, [pair.chosen.weight for pair in batch.pairs])

        pairs = PairLogProbabilities(
            policy_chosen=chosen,
            policy_rejected=rejected,
            reference_chosen=reference[0],
            reference_rejected=reference[1],
            chosen_tokens=chosen_tokens,
            rejected_tokens=rejected_tokens,
        )
        losses = preference_loss(pairs, self._preference)
        rewards = implicit_rewards(
            chosen, rejected, reference[0], reference[1], self._preference.beta
        )
        margin = chosen / chosen_tokens - rejected / rejected_tokens
        is_tie = margin.abs() <= _TIE
        preferred = torch.where(is_tie, 0.5, (margin > 0.0).to(margin.dtype))
        return {
            "loss": (losses * weights).sum(),
            "reward_accuracy": (rewards.accuracy * weights).sum(),
            "preferred": preferred.sum(),
            "pairs": _like(chosen, [len(batch.pairs)]).sum(),
        }

    def cost_of(self, batch: SharedBatch) -> ComputeCost:
        """Return the tokens of this rank's rows."""
        examples = batch.share.examples
        lengths = example_lengths(examples)
        supervised = sum(supervised_counts(examples))
        flops = self._cost.training(lengths) + self._head_flops * supervised
        if isinstance(batch.share, VerdictBatch):
            # Nothing is learnt from the mismatched answers: they only go forward.
            flops += self._cost.forward(example_lengths(batch.share.mismatched))
        return ComputeCost(
            tokens=sum(lengths),
            computed=self.forward_pass.computed(examples) if examples else 0,
            flops=flops,
        )

    def measures_of(self, micro_batch: Batch) -> dict[str, Tensor]:
        """Return the batch's summed loss, and the sums of what further metrics need."""
        sums: dict[str, Any] = {}
        log_ratios: list[Tensor] = []
        size = self.mini_batch_size or max(len(micro_batch.rows), 1)
        starts = range(0, len(micro_batch.rows), size)
        passes = self._passes_over_ranks(len(starts))

        for start in starts:
            mini_batch = micro_batch.part(slice(start, start + size))
            if isinstance(mini_batch, VerdictBatch):
                log_ratios.append(self._both_log_ratios(mini_batch))
                continue

            if isinstance(mini_batch, LanguageBatch):
                mini_batch_sums = self._likelihoods(mini_batch)
            else:
                mini_batch_sums = self._preferences(mini_batch)
            for name, value in mini_batch_sums.items():
                sums[name] = sums.get(name, 0.0) + value

        if isinstance(micro_batch, VerdictBatch) and log_ratios:
            sums = self._verdicts(micro_batch, torch.cat(log_ratios, dim=1))
        for _ in range(len(starts), passes):
            sums["loss"] = sums.get("loss", 0.0) + self._loss_without_rows()
        return sums

    def _likelihoods(self, batch: LanguageBatch) -> dict[str, Tensor]:
        """Return the weighted sum of the nats, and the sums of nats and bytes without weights."""
        nats = self.forward_pass.nats(batch.examples)
        byte_counts = _like(nats, [example.supervised_bytes for example in batch.examples])
        # The end alone spells no text: the evaluation leaves such rows out.
        spelling_nats = torch.where(byte_counts > 0, nats, 0.0)
        return {
            "loss": (nats * _like(nats, batch.weights)).sum(),
            "nats": spelling_nats.sum(),
            "bytes": byte_counts.sum(),
        }

    def _both_log_ratios(self, batch: VerdictBatch) -> Tensor:
        """Return the log-ratios of the answers and of the mismatched ones, [2, answers]."""
        # In one pass: sharded ranks agree on the number of passes, not on what they compute.
        log_probabilities = -self.forward_pass.nats([*batch.examples, *batch.mismatched])
        reference = _like(log_probabilities, [judged.reference for judged in batch.judged]).T
        return log_probabilities.reshape(2, -1) - reference

    def _verdicts(self, batch: VerdictBatch, log_ratios: Tensor) -> dict[str, Tensor]:
        """Return the sums of the loss, of right rewards, and of the accepted answers' likelihood.

        Args:
            batch: The whole micro-batch: its reference point doesn't depend on the mini-batches.
            log_ratios: The log-ratios of its answers and of the mismatched ones, [2, answers].
        """
        ratios, mismatched_ratios = log_ratios
        accepted = _accepted(batch, ratios)
        point = reference_point(mismatched_ratios)
        losses = kto_loss(ratios, accepted, point, self._kto)
        weights = _like(losses, [judged.answer.weight for judged in batch.judged])

        reference = _like(ratios, [judged.reference[0] for judged in batch.judged])
        byte_counts = _like(ratios, [example.supervised_bytes for example in batch.examples])
        byte_counts = torch.where(accepted, byte_counts, 0.0)
        nats = torch.where(byte_counts > 0, -(ratios + reference), 0.0)
        return {
            "loss": (losses * weights).sum(),
            "right_rewards": on_right_side(ratios, accepted).sum(),
            "judged": _like(ratios, [len(batch.rows)]).sum(),
            "nats": nats.sum(),
            "bytes": byte_counts.sum(),
        }

    def metrics_of(self, sums: Mapping[str, Any], weight: float) -> dict[str, Any]:
        """Return loss and bits per byte; of preferences and verdicts the accuracies."""
        metrics = {"loss": sums["loss"] / weight}
        # A validation without rows has neither.
        if "bytes" in sums:
            metrics["bits_per_byte"] = sums["nats"] / (math.log(2.0) * sums["bytes"].clamp(min=1.0))
        if "pairs" in sums:
            metrics["preference_accuracy"] = sums["preferred"] / sums["pairs"].clamp(min=1.0)
            metrics["reward_accuracy"] = sums["reward_accuracy"] / weight
        if "judged" in sums:
            metrics["reward_accuracy"] = sums["right_rewards"] / sums["judged"].clamp(min=1.0)
        return metrics

    def _passes_over_ranks(self, passes: int) -> int:
        """Return the number of forward passes on each rank if this rank needs `passes`."""
        if not is_sharded(self):
            return passes
        if not self.mini_batch_size:
            return 1
        # The micro-batches of the ranks differ in their rows.
        count = torch.tensor(passes, device=self.device)
        return int(self.trainer.strategy.reduce(count, reduce_op="max"))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only the trained weights; the frozen ones are in the model's folder."""
        if not isinstance(self.model, PeftModel):
            return
        state = checkpoint["state_dict"]
        parameters = self.named_parameters()
        trained = {name for name, parameter in parameters if parameter.requires_grad}
        checkpoint["state_dict"] = {name: state[name] for name in state if name in trained}

    def merged(self) -> PreTrainedModel:
        """Return the plain model with the adapters added to its weights; it ends the training.

        If the weights are sharded, all ranks have to call it.
        """
        whole_module = unsharded(self)
        if whole_module is not self:
            return whole_module.merged()

        if self.forward_pass.padding_free:
            # Attention within segments refuses calls without segments, which `generate` makes.
            causal_model(self.model).set_attn_implementation("sdpa")
        if self.forward_pass.noise:
            self.forward_pass.noise.remove()
        restore(self.model)
        undo_compile(self.model)
        return merged(self.model)


def _accepted(batch: VerdictBatch, tensor: Tensor) -> Tensor:
    """Return whether each answer was accepted, [answers], on the device of a tensor."""
    accepted = torch.tensor([judged.accepted for judged in batch.judged])
    return to_device(accepted, tensor.device)


def _like(tensor: Tensor, numbers: Sequence[Any]) -> Tensor:
    """Return numbers as a tensor of the same type on the same device."""
    return to_device(torch.tensor(numbers, dtype=tensor.dtype), tensor.device)
