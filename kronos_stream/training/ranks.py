"""Several processes that train one model, as torchrun starts them; or one alone."""

import os
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch import distributed as dist

from ..errors import SettingsError


class Ranks(NamedTuple):
    """This process among all of them."""

    rank: int
    world: int
    device: torch.device

    @classmethod
    def join(cls, device: str) -> Self:
        """From torchrun's environment; without it, alone. SettingsError where there is no such
        device."""
        try:
            wanted = torch.device(device)
        except RuntimeError:
            raise SettingsError(f"--device: expected cpu, cuda or cuda:N, got {device!r}") from None
        if wanted.type == "cuda" and not torch.cuda.is_available():
            raise SettingsError(f"--device: expected cpu, torch finds no GPU; got {device!r}")
        if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
            raise SettingsError(
                f"--device: expected cuda:N with N below {torch.cuda.device_count()}, the GPUs "
                f"that torch finds; got {device!r}"
            )
        if wanted.type not in ("cpu", "cuda"):
            raise SettingsError(f"--device: expected cpu, cuda or cuda:N, got {device!r}")
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1:
            return cls(0, 1, wanted)
        if wanted.type == "cuda":
            wanted = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(wanted)
        dist.init_process_group("nccl" if wanted.type == "cuda" else "gloo")
        return cls(dist.get_rank(), world, wanted)

    def share(self, weight: Tensor) -> Tensor:
        """What a mean of that `weight` in this process counts, so that the `average` over all
        processes is the mean over all of their bars; 1 where all have as many."""
        if self.world == 1:
            return torch.ones_like(weight)
        return weight * self.world / self.total(weight.clone()).clamp(min=1e-8)

    def average(self, gradients: Sequence[Tensor]) -> None:
        """Puts the mean over all processes into each, in one message.

        What torch's DistributedDataParallel does while it still computes; these models are small
        beside what is computed with them, and nothing need be wrapped.
        """
        if self.world == 1:
            return
        flat = self.total(torch.cat([g.flatten() for g in gradients])) / self.world
        for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients])):
            gradient.copy_(mean.view_as(gradient))

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process: all of them hear the same answer."""
        if self.world == 1:
            return flag
        return bool(self.total(torch.tensor(float(flag), device=self.device)) > 0)

    def leave(self) -> None:
        """To be called at the end, by every process."""
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()
