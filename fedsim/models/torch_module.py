"""How does any torch module become a tagger that engines can train, many devices at once included?

The module sees padded sentences and says what it thinks of them; losses are made from that as for
every tagger. A stack of devices runs through `torch.func`: `vmap` over `functional_call`. Where a
module does not allow that (`nn.LSTM` does not), the batched engine finds out before the first
round, and trains devices one by one.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from fedsim.errors import ConfigError
from fedsim.models.joint import Batch, JointTagger, Parameters, Predictions
from fedsim.models.packing import sent
from fedsim.models.tape import taping


class ModuleTagger(JointTagger):
    """A torch module as a tagger.

    Args:
      module: `module(token_ids, lengths)` returns intent logits (B, intents) and slot logits
        (B, T, slot labels) for token_ids (B, T, pieces), 0 at padding, and lengths (B,), at least
        1. Padding must not change what it says; private training wants `noting(module)`.
      sgd_rate: learning rate of devices that are given none, > 0.
      private_rate: likewise under DP-SGD, at clip norm 1.

    Raises:
      ConfigError: a layer mixes the examples of a batch, or draws from torch's global generator.

    Example:
      >>> class Bag(nn.Module):
      ...     def __init__(self):
      ...         super().__init__()
      ...         self.words = nn.Embedding(50, 8)
      ...         self.intent, self.slot = nn.Linear(8, 3), nn.Linear(8, 5)
      ...
      ...     def forward(self, token_ids, lengths):
      ...         inside = torch.arange(token_ids.shape[1]) < lengths.unsqueeze(-1)
      ...         words = self.words(token_ids).sum(-2) * inside.unsqueeze(-1)
      ...         return self.intent(words.sum(1)), self.slot(words)
      >>> [name for name, _ in ModuleTagger(Bag()).named_parameters()][:2]
      ['module.words.weight', 'module.intent.weight']
    """

    lookup = None

    def __init__(
        self, module: nn.Module, *, sgd_rate: float = 0.1, private_rate: float = 0.1
    ) -> None:
        # Not JointTagger's own: embedding and heads are the module's.
        nn.Module.__init__(self)
        _check(module)
        self.module = module
        self.sgd_rate, self.private_rate = sgd_rate, private_rate

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Rows that every embedding of the module has, intents and slot labels."""
        tables = [m for m in self.module.modules() if isinstance(m, nn.Embedding)]
        rows = min((table.num_embeddings for table in tables), default=1)
        word = torch.zeros(1, 1, 1, dtype=torch.int64)
        with torch.no_grad():
            intents, slots = self.module(word, torch.ones(1, dtype=torch.int64))
        return rows, intents.shape[-1], slots.shape[-1]

    def losses(self, parameters: Parameters, batch: Batch) -> Tensor:
        """Joint loss of each example, shape (..., B)."""
        intents, slots = self._says(parameters, batch)
        return _losses(intents, slots, batch)

    def predict(self, parameters: Parameters, batch: Batch) -> Predictions:
        """Most likely labels, and the losses."""
        intents, slots = self._says(parameters, batch)
        labels = slots.argmax(-1).masked_fill(batch["slots"] < 0, -1)
        return Predictions(intents.argmax(-1), labels, _losses(intents, slots, batch))

    def _says(self, parameters: Parameters, batch: Batch) -> tuple[Tensor, Tensor]:
        """Intent logits (..., B, intents) and slot logits (..., B, T, slot labels)."""
        token_ids = batch["token_ids"]
        # What fills a batch up has no words: it is shown as one padding word.
        lengths = sent(batch["lengths"].clamp(min=1), token_ids.device)
        own = {name.removeprefix("module."): p for name, p in parameters.items()}
        if lengths.dim() == 1:
            return functional_call(self.module, own, (token_ids, lengths))
        if taping():
            raise NotImplementedError("a torch module notes its layers for one device at a time")

        def one(mine: Parameters, token_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
            return functional_call(self.module, mine, (token_ids, lengths))

        return vmap(one)(own, token_ids, lengths)


def _losses(intents: Tensor, slots: Tensor, batch: Batch) -> Tensor:
    words = _cross_entropy(slots, batch["slots"]).sum(-1)
    count = (batch["slots"] >= 0).sum(-1).clamp(min=1)
    return _cross_entropy(intents, batch["intents"]) + words / count


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Of each label, in float32 at least; 0 for -1, where there is no word."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    chosen = logits.log_softmax(-1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return torch.where(labels < 0, 0.0, -chosen)


def _check(module: nn.Module) -> None:
    for name, part in module.named_modules():
        kind = type(part).__name__
        if isinstance(part, _BatchNorm):
            raise ConfigError(
                f"module {name or 'model'} is a {kind}, which mixes the examples of a batch and "
                "keeps statistics that no device sends; use nn.LayerNorm or nn.GroupNorm"
            )
        if isinstance(part, _DropoutNd) and part.p > 0:
            raise ConfigError(
                f"module {name or 'model'} is a {kind} with p {part.p:g}, which draws from torch's "
                "global generator, so that no run could be repeated; set p to 0"
            )
