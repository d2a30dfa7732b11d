"""Find the numbered layers of a transformer, whatever wraps it."""

from torch import nn

from tunetrail.errors import ConfigError


def numbered_layers(module: nn.Module) -> tuple[str, nn.ModuleList] | None:
    """Return the name of the `nn.ModuleList` with the most weights, and the list.

    Of lists with the same weights, the outer one is returned; None if there is no list. Wrappers of
    Lightning, sentence-transformers and PEFT keep the list as it is; experts and heads are smaller
    lists.
    """
    stack, most_weights = None, -1
    for name, submodule in module.named_modules():
        if not isinstance(submodule, nn.ModuleList) or not len(submodule):
            continue
        weights = sum(parameter.numel() for parameter in submodule.parameters())
        # Of equal lists the first is the outer one: `named_modules` goes from the outside in.
        if weights > most_weights:
            stack, most_weights = (name, submodule), weights
    return stack


def layer_depths(module: nn.Module) -> dict[str, int]:
    """Return the depth of each parameter by its name.

    The depth is 0 above the layers (pooling, heads, the last norm), 1 in the last layer, and
    highest in the embeddings: what is called so, or is an `nn.Embedding`.

    Raises:
        ConfigError: The model has no numbered layers.
    """
    stack = numbered_layers(module)
    if stack is None:
        raise ConfigError(
            "training.optimizer.layer_decay must be 1 (off) for a model without numbered layers, "
            f"and {type(module).__name__} has none."
        )

    path, layers = stack
    prefix = f"{path}." if path else ""
    depths = {}
    for name, _ in module.named_parameters():
        if name.startswith(prefix):
            # Layers are named by their index in the list.
            layer = int(name.removeprefix(prefix).split(".")[0])
            depths[name] = len(layers) - layer
        elif _is_embedding(module, name, path):
            depths[name] = len(layers) + 1
        else:
            depths[name] = 0
    return depths


def _is_embedding(module: nn.Module, name: str, layers: str) -> bool:
    owner, layer_path = name.split(".")[:-1], layers.split(".")

    # What the parameter's path shares with the path of the layers is the name of a wrapper, which
    # may be called embedding as well.
    shared = 0
    while shared < min(len(owner), len(layer_path)) and owner[shared] == layer_path[shared]:
        shared += 1

    names = name.split(".")[shared:]
    is_named_so = any("embed" in component.lower() for component in names)
    return is_named_so or isinstance(module.get_submodule(".".join(owner)), nn.Embedding)
