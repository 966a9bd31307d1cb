"""Random numbers that belong to one example, wherever it is in a microbatch."""

import hashlib
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class OwnRandomness(TorchFunctionMode):
    """Lets every call with a generator draw anew for each example, from its seed and position.

    What draws from PyTorch's global generator is left alone: under `vmap` each example has its own
    numbers there too, which no seed settles.

    Args:
        position: Integer tensor, the example's place in the batch.
        view: Number of the view of the example.
    """

    def __init__(self, position: torch.Tensor, view: int = 0) -> None:
        super().__init__()
        self._position, self._view = position, view

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run a call of PyTorch, for each example by itself if it draws random numbers."""
        kwargs = kwargs or {}
        generator = kwargs.get("generator")
        if generator is None:
            return func(*args, **kwargs)

        def draw(position: int) -> torch.Tensor:
            seed = _mixed(generator.initial_seed(), position, self._view)
            own = torch.Generator(device=generator.device)
            own.manual_seed(seed)
            drawn: torch.Tensor = func(*args, **{**kwargs, "generator": own})
            return drawn

        apply: Any = _Drawn.apply
        return apply(self._position, draw)


class _Drawn(torch.autograd.Function):
    @staticmethod
    def forward(position: torch.Tensor, draw: Any) -> torch.Tensor:
        """Draw for the example at one position."""
        return torch.as_tensor(draw(int(position)))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing."""

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """Return no gradient."""
        return None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, position: torch.Tensor, draw: Any) -> Any:
        """Draw for the examples at many positions."""
        return torch.stack([draw(int(each)) for each in position]), 0


def _mixed(*words: int) -> int:
    digest = hashlib.blake2b("/".join(map(str, words)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
