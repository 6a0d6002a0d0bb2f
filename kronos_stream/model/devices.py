"""Where torch can compute."""

import torch

from ..errors import InputError, first_line


def device_of(name: str | torch.device) -> torch.device:
    """The device, with its number; InputError where torch cannot use it here."""
    try:
        one = torch.ones(1, device=name)
        one.item()
        return one.device
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise InputError(
            f"device: expected a device that torch can use here, got {name!r}: {first_line(error)}"
        ) from error
