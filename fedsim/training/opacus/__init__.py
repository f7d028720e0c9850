"""How does Opacus train a model whose clipped gradients come from the book-keeping kernel?

    engine = BookKeepingEngine(accountant="rdp")
    model = engine.get_compatible_module(model)              # before the optimizer is made
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer, loader = engine.make_private(
        module=model, optimizer=optimizer, data_loader=loader, noise_multiplier=1.0,
        max_grad_norm=1.0,
    )

The rest is the loop one has: a loss, its `backward()`, `optimizer.step()`, `zero_grad()`.
Noise, schedulers of noise and clip norm, accountants, step hooks, checkpoints and
`BatchMemoryManager` are Opacus's own. Layers the kernel does not know are left to Opacus's hooks,
with whatever `register_grad_sampler` has registered for them.
"""

from fedsim.training.opacus.engine import BookKeepingEngine
from fedsim.training.opacus.module import BookKeepingModule
from fedsim.training.opacus.optimizer import BookKeepingOptimizer

__all__ = ["BookKeepingEngine", "BookKeepingModule", "BookKeepingOptimizer"]
