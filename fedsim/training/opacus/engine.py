"""How does Opacus's PrivacyEngine make a model private with the book-keeping kernel?

The engine looks its modules and optimizers up by name in functions that cannot be extended by
registration, so the two methods that do so are overridden; everything else is Opacus's.
"""

from typing import Any

from opacus import PrivacyEngine
from opacus.optimizers import DPOptimizer
from opacus.utils.module_utils import clone_module
from torch import Generator, Tensor, nn, optim

from fedsim.errors import require
from fedsim.models import LSTM
from fedsim.training.opacus.module import BookKeepingModule
from fedsim.training.opacus.optimizer import BookKeepingOptimizer


class BookKeepingEngine(PrivacyEngine):
    """Opacus's `PrivacyEngine` with exact clipping at about the cost of ordinary training.

    Call `get_compatible_module` before the optimizer is made, then `make_private` or
    `make_private_with_epsilon` with their defaults of `grad_sample_mode` and `clipping`.

    Example:
      >>> import torch
      >>> from torch.utils.data import DataLoader, TensorDataset
      >>> model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
      >>> data = TensorDataset(torch.ones(8, 3), torch.zeros(8, dtype=torch.int64))
      >>> model, optimizer, loader = BookKeepingEngine(accountant="rdp").make_private(
      ...     module=model,
      ...     optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
      ...     data_loader=DataLoader(data, batch_size=4),
      ...     noise_multiplier=1.0,
      ...     max_grad_norm=1.0,
      ... )
      >>> type(model).__name__, type(optimizer).__name__
      ('BookKeepingModule', 'BookKeepingOptimizer')
    """

    @classmethod
    def get_compatible_module(cls, module: nn.Module) -> nn.Module:
        """A copy of the model that can be trained privately.

        Every `nn.LSTM` becomes one with a single bias, of the same weights and outputs, that
        returns its states and None in place of the last ones; Opacus mends the rest.

        Raises:
          ConfigError: an `nn.LSTM` has dropout, projections, no bias, or time first.
        """
        return super().get_compatible_module(_with_one_bias(clone_module(module)))

    def _prepare_model(
        self,
        module: nn.Module,
        *,
        batch_first: bool = True,
        max_grad_norm: float | list[float] = 1.0,
        loss_reduction: str = "mean",
        grad_sample_mode: str = "hooks",
        wrap_model: bool = True,
    ) -> BookKeepingModule:
        require(
            grad_sample_mode == "hooks" and wrap_model,
            f"grad_sample_mode is {grad_sample_mode!r} and wrap_model {wrap_model}; leave both "
            "out: this engine has a way of its own",
        )
        self.validate(module=module, optimizer=None, data_loader=None)
        return BookKeepingModule(module, batch_first=batch_first, loss_reduction=loss_reduction)

    def _prepare_optimizer(
        self,
        *,
        optimizer: optim.Optimizer,
        noise_multiplier: float,
        max_grad_norm: float | list[float],
        expected_batch_size: int,
        loss_reduction: str = "mean",
        distributed: bool = False,
        clipping: str = "flat",
        noise_generator: Generator | None = None,
        grad_sample_mode: str = "hooks",
        **kwargs: Any,
    ) -> BookKeepingOptimizer:
        require(
            clipping == "flat" and not distributed and not kwargs,
            f"clipping is {clipping!r} and distributed {distributed}; this engine clips flat, in "
            "one process: leave other options out, or use Opacus's own PrivacyEngine",
        )
        if isinstance(optimizer, DPOptimizer):
            optimizer = optimizer.original_optimizer
        return BookKeepingOptimizer(
            optimizer=optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_batch_size=expected_batch_size,
            loss_reduction=loss_reduction,
            generator=self.secure_rng if self.secure_mode else noise_generator,
            secure_mode=self.secure_mode,
        )


class _TorchLike(LSTM):
    """Returns a pair, as `nn.LSTM` does."""

    def forward(self, words: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return super().forward(words), None


def _with_one_bias(module: nn.Module) -> nn.Module:
    """The module, in which every `nn.LSTM` has been replaced."""
    if type(module) is nn.LSTM:
        require(
            module.batch_first,
            "batch_first of the nn.LSTM is False; build it with batch_first=True and give it "
            "examples first",
        )
        return _TorchLike.of(module)
    for name, child in module.named_children():
        setattr(module, name, _with_one_bias(child))
    return module
