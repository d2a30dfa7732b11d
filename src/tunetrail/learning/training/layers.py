"""The numbered layers of a transformer, found in any wrapping. Knows nothing of training."""

from itertools import takewhile

from torch import nn

from tunetrail.errors import ConfigError


def numbered_layers(module: nn.Module) -> tuple[str, nn.ModuleList] | None:
    """Return the `nn.ModuleList` with the most weights and its name, or None where there is no list.

    Of lists with the same weights it is the outer one. Wrappers of Lightning, sentence-transformers and PEFT keep the
    list as it is; experts and heads are smaller lists.
    """
    lists = {
        name: each
        for name, each in module.named_modules()
        if isinstance(each, nn.ModuleList) and len(each)
    }
    if not lists:
        return None
    sizes = {
        name: sum(parameter.numel() for parameter in each.parameters())
        for name, each in lists.items()
    }
    name = max(sizes, key=lambda each: sizes[each])
    return name, lists[name]


def layer_depths(module: nn.Module) -> dict[str, int]:
    """Return each parameter's depth by its name: 0 above the layers, 1 the last layer, and the most the embeddings.

    Embeddings are what is called so or is an `nn.Embedding`; everything else that isn't in a layer (pooling, heads, the
    last norm) is above.

    Raises:
        ConfigError: The model has no numbered layers.
    """
    found = numbered_layers(module)
    if found is None:
        raise ConfigError(
            "training.optimizer.layer_decay must be 1 (off) for a model without numbered layers, "
            f"and {type(module).__name__} has none."
        )
    path, layers = found
    prefix = f"{path}." if path else ""
    depths = {}
    for name, _ in module.named_parameters():
        if name.startswith(prefix):
            depths[name] = len(layers) - int(name.removeprefix(prefix).split(".")[0])
        else:
            depths[name] = len(layers) + 1 if _is_embedding(module, name, path) else 0
    return depths


def _is_embedding(module: nn.Module, name: str, layers: str) -> bool:
    """Look at the part of the name that it doesn't share with the layers': what wraps both says nothing."""
    parts = name.split(".")
    shared = sum(
        1
        for _ in takewhile(
            lambda pair: pair[0] == pair[1], zip(parts, layers.split("."), strict=False)
        )
    )
    if any("embed" in part.lower() for part in parts[shared:]):
        return True
    return isinstance(module.get_submodule(".".join(parts[:-1])), nn.Embedding)
