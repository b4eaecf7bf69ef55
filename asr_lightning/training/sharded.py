"""FSDP as a Lightning strategy: weights, gradients and optimizer state are sharded over the processes.

It uses PyTorch's second FSDP (``fully_shard``), on CPUs as well, so that tests run the same code as a GPU. Lightning's
own ``FSDPStrategy`` uses the first one. That one refuses CPUs and clipping by norm, reads checkpoints without
``CheckpointIO``, so that their hashes would not be verified, and numbers the optimizer's states in another way than a
single process does. Knows no model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only


class ShardedStrategy(DDPStrategy):
    """The strategy of ``--trainer.strategy fsdp``: each layer of each ``ModuleList`` is one unit, the rest another.

    Checkpoints contain whole tensors, as those of a single process do, so a run can be resumed with any strategy and
    any number of processes.
    """

    strategy_name = "fsdp"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._units: list[FSDPModule] = []

    def configure_ddp(self) -> None:
        """Shard the network when it is on its device, before the optimizer is built.

        Raises:
            ValueError: The precision is float16, whose loss scaler does not support sharded gradients.
        """
        if getattr(self.precision_plugin, "scaler", None) is not None:
            raise ValueError("fsdp works in float32 and bfloat16: set --trainer.precision bf16-mixed or 32-true")
        module = self.lightning_module
        assert module is not None
        _equalize([*module.parameters(), *module.buffers()])
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        scalars = {parameter for parameter in module.parameters() if not parameter.ndim}  # cannot be sharded
        for scalar in scalars:
            scalar.register_post_accumulate_grad_hook(_average_gradient)  # type: ignore[no-untyped-call]
        self._units = [fully_shard(part, mesh=mesh, ignored_params=scalars) for part in (*layers_of(module), module)]
        register_fsdp_forward_method(module, "training_step")

    @contextmanager
    def whole_weights(self) -> Iterator[None]:
        """A context in which every process holds the whole network.

        It is for passes in which processes call a layer different numbers of times, such as greedy decoding: inside, no
        process has to communicate with another.
        """
        module = self.lightning_module
        if not self._units or module is None:
            yield
            return
        *layers, root = self._units
        root._get_fsdp_state()._lazy_init()  # otherwise the first layer that is called becomes the root
        _equalize(list(module.buffers()))  # as DDP does in each forward, since BatchNorm statistics differ
        try:
            for unit in self._units:
                unit.unshard()
            for layer in layers:
                layer.set_reshard_after_forward(False, recurse=False)
            yield
        finally:
            for layer in layers:
                layer.set_reshard_after_forward(True, recurse=False)
            for unit in self._units:
                unit.reshard()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Whole tensors on the CPU, in every process, since all processes take part in gathering them."""
        return {name: whole(tensor).cpu() for name, tensor in super().lightning_module_state_dict().items()}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's state with whole tensors, as a single process has it."""
        state: dict[str, Any] = tree_map_only(
            Tensor, lambda leaf: whole(leaf).cpu(), super().optimizer_state(optimizer)
        )
        return state

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        """Restore this process's shards of the optimizer's state from a checkpoint."""
        for optimizer, content in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            for number, state in content["state"].items():
                content["state"][number] = {name: _shard(value, parameters[number]) for name, value in state.items()}
        super().load_optimizer_state_dict(checkpoint)

    def teardown(self) -> None:
        """Leave the shards on their device, as Lightning's own sharding strategies do."""
        assert self.cluster_environment is not None and self.accelerator is not None
        self.cluster_environment.teardown()
        self.precision_plugin.teardown()
        self.accelerator.teardown()


def layers_of(module: nn.Module) -> list[nn.Module]:
    """All members with parameters of the outermost ``ModuleList`` objects in ``module``."""
    layers: list[nn.Module] = []
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            layers += [layer for layer in child if next(layer.parameters(), None) is not None]
        else:
            layers += layers_of(child)
    return layers


def disconnect(strategy: Strategy) -> None:
    """Disconnect all processes at the same time: one that ends while a peer is connected may abort in Gloo."""
    if distributed.is_available() and distributed.is_initialized():
        strategy.barrier()
        distributed.destroy_process_group()


def is_sharded(module: nn.Module) -> bool:
    """Whether the parameters of ``module`` are sharded over the processes."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def whole_weights(strategy: Strategy) -> AbstractContextManager[None]:
    """A context in which every process holds the whole network, under any strategy."""
    return strategy.whole_weights() if isinstance(strategy, ShardedStrategy) else nullcontext()


def whole(tensor: Tensor) -> Tensor:
    """The whole ``tensor``, gathered from all processes if it is sharded; all of them must then call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _shard(value: Any, parameter: nn.Parameter) -> Any:
    """This process's shard of ``value`` if ``parameter`` is sharded and has the same shape, otherwise ``value``."""
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def _average_gradient(parameter: nn.Parameter) -> None:
    """Average the gradient over all processes. What was accumulated before is equal in all of them and stays so."""
    if parameter.grad is not None:
        distributed.all_reduce(parameter.grad)
        parameter.grad.div_(distributed.get_world_size())


@torch.no_grad()
def _equalize(tensors: list[Tensor]) -> None:
    """Copy the tensors of the first process to all others."""
    for tensor in tensors:
        distributed.broadcast(tensor, 0)
