"""Print TRL's loss and gradient of KTO, by which `test_kto` measures ours; TRL isn't a dependency.

In an environment of its own:
    pip install tunetrail trl==1.16.0 datasets pytest
    python -m tests.unit.learning.language_model.kto_by_trl
"""

import tempfile
from pathlib import Path
from typing import Any

import torch

ROWS = [
    {
        "prompt": f"What is {n} + {n}?",
        "completion": f"It is {2 * n}." if n % 3 else "No idea." + " None." * n,
        "accepted": n % 3 != 0,
    }
    for n in range(6)
]
"""Accepted and rejected answers of different lengths."""
SETTINGS = {"beta": 0.3, "desirable_weight": 1.2, "undesirable_weight": 0.7}


def disturb(model: torch.nn.Module, scale: float) -> None:
    """Move every weight a little, always the same way, so that the policy isn't the reference."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            weight.add_(scale * torch.randn(weight.shape, generator=generator))


def by_trl(path: str, scale: float) -> tuple[float, float, float]:
    """Return TRL's loss of `ROWS` as one batch, the norm of its gradient, and its divergence."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import KTOConfig, KTOTrainer

    tokenizer = AutoTokenizer.from_pretrained(path)
    policy, reference = (AutoModelForCausalLM.from_pretrained(path).eval() for _ in range(2))
    disturb(policy, scale)

    rows: list[dict[str, Any]] = []
    for row in ROWS:
        question = [{"role": "user", "content": row["prompt"]}]
        prompt = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
        rows.append({"prompt": prompt, "completion": row["completion"], "label": row["accepted"]})
    with tempfile.TemporaryDirectory() as folder:
        arguments = KTOConfig(
            output_dir=folder,
            per_device_train_batch_size=len(rows),
            max_length=256,
            use_cpu=True,
            # TRL's default would round the reference's log-probabilities.
            bf16=False,
            report_to=[],
            train_sampling_strategy="sequential",
            **SETTINGS,
        )
        trainer = KTOTrainer(
            model=policy,
            ref_model=reference,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.model.eval()
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()

    gradients = [weight.grad for weight in policy.parameters() if weight.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(gradients))
    return float(loss), norm, float(trainer._metrics["eval"]["kl"][-1])


if __name__ == "__main__":
    from tests.conftest import _language_model, _tokenizer

    with tempfile.TemporaryDirectory() as folder:
        tokenizer = _tokenizer(eos="<|end|>", pad="<|end|>", bos="<|start|>")
        path = _language_model(Path(folder) / "llm", tokenizer)
        for scale in (0.0, 0.01, 0.1):
            print(scale, *by_trl(path, scale))
