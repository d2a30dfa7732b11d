"""The supervised contrastive loss, which sentence-transformers doesn't have."""

import torch
import torch.nn.functional as functional
from torch import Tensor


def supervised_contrastive_loss(
    embeddings: Tensor, labels: Tensor, temperature: float = 0.05
) -> Tensor:
    """Supervised contrastive loss, L_out of Khosla et al. 2020 (https://arxiv.org/abs/2004.11362), equation 2.

    Args:
        embeddings: Sentence vectors [batch, dimensions]; normalised here.
        labels: One label per row [batch].
        temperature: Divides the cosines.

    Returns:
        The mean over the rows that share their label with another row of the batch; 0 where no row does.
    """
    vectors = functional.normalize(embeddings.float(), dim=1)
    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    logits = (vectors @ vectors.T / temperature).masked_fill(itself, -torch.inf)
    log_probability = logits - logits.logsumexp(dim=1, keepdim=True)
    positive = (labels[:, None] == labels[None, :]) & ~itself
    partners = positive.sum(dim=1)
    per_row = -log_probability.masked_fill(~positive, 0.0).sum(dim=1) / partners.clamp(min=1)
    return per_row[partners > 0].mean() if bool((partners > 0).any()) else (vectors.sum() * 0.0)
