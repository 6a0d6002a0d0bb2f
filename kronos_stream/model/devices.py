"""Where torch can compute."""

import torch

from ..errors import InputError


def device_of(name: str | torch.device) -> torch.device:
    """The device, with its number; InputError where torch cannot use it here."""
    try:
        one = torch.ones(1, device=name)
        one.item()
        return one.device
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        why = str(error).splitlines()[0]
        raise InputError(
            f"device: expected a device that torch can use here, got {name!r}: {why}"
        ) from error
