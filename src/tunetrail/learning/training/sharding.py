"""Shard a model over the ranks of a training (FSDP2): its weights, gradients and optimizer state.

Each rank keeps a slice of every weight. A layer's weights are gathered while the layer computes,
forward and backward, so all ranks have to run as many passes as each other. Checkpoints hold whole
tensors, as in any other training: any number of ranks can resume from them.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.strategies import ModelParallelStrategy
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from tunetrail.config import TrainingConfig
from tunetrail.config.checks import check
from tunetrail.config.training import AUTO
from tunetrail.learning.training.layers import numbered_layers
from tunetrail.learning.training.precision import FLOAT16_MIXED, resolve_precision

FSDP = "fsdp"
"""The value of `trainer.strategy`."""
_ADVICE = "Change it, or set trainer=ddp."

Module = TypeVar("Module", bound=LightningModule)


def check_sharding(training: TrainingConfig, section: str) -> None:
    """Raise `ConfigError` if a training has settings that don't work with sharded weights.

    Args:
        training: The settings.
        section: Name of the family's section.
    """
    condition = f"with trainer.strategy={FSDP}"
    optimizer = training.optimizer.name
    # Its moments are sums over the rows and columns of whole matrices.
    is_elementwise = optimizer != "adafactor"
    rule = f"adamw, adam or sgd {condition}"
    check(is_elementwise, f"{section}.training.optimizer.name", rule, optimizer, _ADVICE)

    compiles = training.memory.compile
    check(not compiles, f"{section}.training.memory.compile", f"false {condition}", True, _ADVICE)

    precision = training.precision
    if precision == AUTO:
        precision = resolve_precision(precision, training.use_mixed_precision)
    # fp16's scaler would have to learn of overflows in the slices of other ranks.
    rule = f"32-true, bf16-mixed or bf16-true {condition}"
    is_unscaled = precision != FLOAT16_MIXED
    check(is_unscaled, f"{section}.training.precision", rule, precision, _ADVICE)


def is_sharded(module: nn.Module) -> bool:
    """Tell whether this rank holds only slices of a module's weights."""
    return isinstance(module, FSDPModule)


def shard(module: LightningModule, forward_methods: Sequence[str]) -> None:
    """Shard a module over all ranks, layer by layer; call it in `configure_model`.

    Does nothing if an earlier attempt has sharded the module.

    Args:
        module: The module, with the same weights on every rank.
        forward_methods: Names of the methods that compute with the weights. They must not call one
            another.
    """
    if is_sharded(module):
        return

    strategy: Any = module.trainer.strategy
    mesh = init_device_mesh(strategy.root_device.type, (strategy.world_size,))
    stack = numbered_layers(module)
    for layer in stack[1] if stack else ():
        fully_shard(layer, mesh=mesh)

    # The other weights, embeddings and head above all, are by default kept until the next backward
    # pass: after a validation, the next step would compute with the weights that were validated,
    # which may be averages.
    fully_shard(module, mesh=mesh, reshard_after_forward=True)
    for name in forward_methods:
        register_fsdp_forward_method(module, name)


def unsharded(module: Module) -> Module:
    """Return a module with whole weights on this rank's CPU; the same module if it isn't sharded.

    All ranks have to call it.
    """
    if not is_sharded(module):
        return module

    weights = {}
    for name, tensor in module.state_dict().items():
        weights[name] = whole(tensor).cpu()
    with isolate_rng():
        # torch gives a new object of a sharded class the class that it had before.
        plain: Module = type(module)(**module.hparams)
    plain.load_state_dict(weights)
    return plain


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with the slices of all ranks, which all have to call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sliced_like(weight: Tensor, tensor: Tensor) -> Tensor:
    """Return this rank's slice of a whole tensor if the weight is sharded, else the tensor.

    Args:
        weight: The weight.
        tensor: A tensor of the weight's shape, the same on every rank.
    """
    if not isinstance(weight, DTensor):
        return tensor
    tensor = tensor.to(weight.device)
    mesh, placements = weight.device_mesh, weight.placements
    # Without a source, every rank cuts its own slice; a copy, or the whole would stay in memory.
    return distribute_tensor(tensor, mesh, placements, src_data_rank=None).clone()


def load_whole(module: nn.Module, state: Mapping[str, Tensor], *, strict: bool = True) -> None:
    """Load a state dict of whole tensors into a module, which may be sharded."""
    weights = module.state_dict()
    slices = {}
    for name, tensor in state.items():
        # A name that the module doesn't know is for `load_state_dict` to complain about.
        slices[name] = sliced_like(weights.get(name, tensor), tensor)
    module.load_state_dict(slices, strict=strict)


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy for modules that shard themselves, with checkpoints of whole tensors.

    Lightning's own files are either folders of slices or name the optimizer's state by another
    order of the weights, so that a training on one device couldn't resume from them.

    Args:
        timeout: How long a rank waits for the others in an exchange.
    """

    def __init__(self, timeout: timedelta) -> None:
        super().__init__(save_distributed_checkpoint=False, timeout=timeout)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Whether Lightning calls `load_optimizer_state_dict`."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the module's whole weights on rank 0, and nothing on the others.

        Of a module that loads checkpoints loosely, the frozen weights aren't gathered.
        """
        module: Any = self.lightning_module
        # By identity: tied weights have two names, and are to be stored once.
        gathered: dict[int, Tensor] = {}
        state = {}
        for name, tensor in module.state_dict(keep_vars=True).items():
            if not (module.strict_loading or tensor.requires_grad):
                continue
            if id(tensor) not in gathered:
                gathered[id(tensor)] = self._gather(tensor.detach())
            state[name] = gathered[id(tensor)]
        return state if self.is_global_zero else {}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load this rank's slices of the module's weights."""
        module: Any = self.lightning_module
        load_whole(module, checkpoint["state_dict"], strict=strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the optimizer's whole state on rank 0, and nothing on the others."""
        state = optimizer.state_dict()
        gathered = {}
        for index, tensors in state["state"].items():
            gathered[index] = dict(zip(tensors, map(self._gather, tensors.values()), strict=True))
        return {**state, "state": gathered} if self.is_global_zero else {}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load this rank's slices of the optimizers' states."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            weights = []
            for group in optimizer.param_groups:
                weights += group["params"]
            slices = {}
            for index, tensors in state["state"].items():
                slices[index] = _slices_of_state(weights[index], tensors)
            optimizer.load_state_dict({**state, "state": slices})

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return the content of a checkpoint; nothing is unpickled."""
        checkpoint: dict[str, Any] = self.checkpoint_io.load_checkpoint(
            checkpoint_path, weights_only=True
        )
        return checkpoint

    def _gather(self, value: Any) -> Any:
        """Return a tensor with the slices of all ranks, on the CPU; None on ranks except 0."""
        if not isinstance(value, Tensor):
            return value
        tensor = whole(value)
        return tensor.cpu() if self.is_global_zero else None


def _slices_of_state(weight: Tensor, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return this rank's slices of what the optimizer keeps for a weight."""
    slices = dict(state)
    for name, value in state.items():
        # Step counts are scalars, the same on every rank.
        if isinstance(value, torch.Tensor) and value.shape == weight.shape:
            slices[name] = sliced_like(weight, value)
    return slices
