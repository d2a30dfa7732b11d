"""Layers that are faster or leaner on a CPU, with the weights and results of those they replace.

`optimise` is for every loaded model, `optimise_for_training` for a model that is trained, and
`restore` undoes the replacements that would not survive pickling. A replaced layer is the same
object with another class, so the names of its weights stay.
"""

from torch import nn

from tunetrail.learning.cpu_layers.dropout import replace_dropout
from tunetrail.learning.cpu_layers.linear import replace_linear
from tunetrail.learning.cpu_layers.llama_layers import replace_llama_layers, restore_llama_layers
from tunetrail.learning.cpu_layers.tied_embedding import restore_embedding, tie_gradients


def optimise(model: nn.Module) -> None:
    """Make the linear layers of a model use the faster matrix product of this CPU."""
    replace_linear(model)


def optimise_for_training(
    model: nn.Module, *, embedding: nn.Module | None = None, head: nn.Module | None = None
) -> None:
    """Make training a model faster and leaner.

    Args:
        model: The model, adapters included.
        embedding: A language model's token embedding.
        head: A language model's head. With both given, SwiGLU and RMSNorm layers keep less for the
            backward pass, and an embedding that shares the head's weights gets its gradient in
            place.
    """
    replace_dropout(model)
    replace_linear(model)
    if embedding is not None and head is not None:
        replace_llama_layers(model)
        tie_gradients(embedding, head)


def restore(model: nn.Module) -> None:
    """Give a trained model's layers their own classes back, so that the model can be pickled."""
    restore_llama_layers(model)
    for module in model.modules():
        restore_embedding(module)
