"""Which losses are means over rows, so that a batch may be divided; the others compare the rows of a batch."""

from tunetrail.config.embedding import LossConfig

_ROW_WISE = (
    "triplet",
    "margin_mse",
    "distill_kl_div",
    "cosine_similarity",
    "contrastive",
    "mse",
    "cosine",
    "l2",
)


def is_row_wise(name: str, options: LossConfig) -> bool:
    """Whether a batch's loss is the mean of its rows' own: the gradients of parts add up to that of the whole."""
    return name in _ROW_WISE and not options.orthogonality
