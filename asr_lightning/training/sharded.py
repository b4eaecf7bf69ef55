"""FSDP as a strategy of Lightning: weights, gradients and optimizer state are cut over the processes. Knows no model.

PyTorch's second FSDP (``fully_shard``), on CPUs as on GPUs, so that what the tests run is what a GPU runs. Lightning's
own ``FSDPStrategy`` is the first one: it refuses CPUs and clipping by norm, reads checkpoints past ``CheckpointIO``,
whose hashes would then go unchecked, and numbers the optimizer's states otherwise than one process does.
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
    """What ``--trainer.strategy fsdp`` means here: every layer of every ``ModuleList`` a shard, the rest one more.

    Checkpoints are whole, as one process writes them: a run goes on with any strategy and any number of processes.
    """

    strategy_name = "fsdp"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._shards: list[FSDPModule] = []

    def configure_ddp(self) -> None:
        """Cut the network, once it is on its device and before the optimizer is made.

        Raises:
            ValueError: With float16, whose loss scaler knows no shards.
        """
        if getattr(self.precision_plugin, "scaler", None) is not None:
            raise ValueError("fsdp works in float32 and bfloat16: set trainer.precision to bf16-mixed or 32-true")
        module = self.lightning_module
        assert module is not None
        _equalize([*module.parameters(), *module.buffers()])
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        scalars = {parameter for parameter in module.parameters() if not parameter.ndim}  # cannot be cut
        for scalar in scalars:
            scalar.register_post_accumulate_grad_hook(_average)
        self._shards = [fully_shard(part, mesh=mesh, ignored_params=scalars) for part in (*layers_of(module), module)]
        register_fsdp_forward_method(module, "training_step")

    @contextmanager
    def whole_weights(self) -> Iterator[None]:
        """Every process holds the whole network inside.

        For passes in which processes call a layer in other numbers, as greedy decoding does: nothing is sent there.
        """
        module = self.lightning_module
        if not self._shards or module is None:
            yield
            return
        *layers, root = self._shards
        root._get_fsdp_state()._lazy_init()  # otherwise the first layer to be called takes itself for the root
        _equalize(list(module.buffers()))  # as DDP does in each forward: BatchNorm statistics are each process's own
        try:
            for part in self._shards:
                part.unshard()
            for layer in layers:
                layer.set_reshard_after_forward(False, recurse=False)
            yield
        finally:
            for layer in layers:
                layer.set_reshard_after_forward(True, recurse=False)
            for part in self._shards:
                part.reshard()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Whole tensors on the CPU, on every process: gathering is common work."""
        return {name: whole(tensor).cpu() for name, tensor in super().lightning_module_state_dict().items()}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's state as one process has it."""
        state: dict[str, Any] = tree_map_only(
            Tensor, lambda leaf: whole(leaf).cpu(), super().optimizer_state(optimizer)
        )
        return state

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        """Take it from a checkpoint, each process its part."""
        for optimizer, content in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            for number, state in content["state"].items():
                content["state"][number] = {name: _cut(value, parameters[number]) for name, value in state.items()}
        super().load_optimizer_state_dict(checkpoint)

    def teardown(self) -> None:
        """As Lightning's strategies for shards do it: they stay on their device."""
        assert self.cluster_environment is not None and self.accelerator is not None
        self.cluster_environment.teardown()
        self.precision_plugin.teardown()
        self.accelerator.teardown()


def layers_of(module: nn.Module) -> list[nn.Module]:
    """The members of every outermost ``ModuleList`` in ``module`` that have parameters."""
    found: list[nn.Module] = []
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            found += [layer for layer in child if next(layer.parameters(), None) is not None]
        else:
            found += layers_of(child)
    return found


def disconnect(strategy: Strategy) -> None:
    """Part with the other processes, all at once: one that ends while a peer is connected may abort in Gloo."""
    if distributed.is_available() and distributed.is_initialized():
        strategy.barrier()
        distributed.destroy_process_group()


def is_sharded(module: nn.Module) -> bool:
    """Whether this process holds only a part of ``module``."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def whole_weights(strategy: Strategy) -> AbstractContextManager[None]:
    """A context in which every process holds the whole network, under any strategy."""
    return strategy.whole_weights() if isinstance(strategy, ShardedStrategy) else nullcontext()


def whole(tensor: Tensor) -> Tensor:
    """``tensor`` with the parts of all processes; common work where it has been cut."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _cut(value: Any, parameter: nn.Parameter) -> Any:
    """``value`` cut as ``parameter`` is, if it has its shape."""
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def _average(parameter: nn.Parameter) -> None:
    """The mean gradient of all processes; what was accumulated before is equal, and stays what it is."""
    if parameter.grad is not None:
        distributed.all_reduce(parameter.grad)
        parameter.grad.div_(distributed.get_world_size())


@torch.no_grad()
def _equalize(tensors: list[Tensor]) -> None:
    """Give every process the tensors of the first."""
    for tensor in tensors:
        distributed.broadcast(tensor, 0)
