"""A bidirectional LSTM for joint intents and slots."""

import torch
from torch import Tensor, nn

from fedsim.models.bilstm_step import can_descend, descend
from fedsim.models.joint import Batch, JointTagger, Parameters
from fedsim.models.lstm import lstm_layer
from fedsim.models.packing import Packing


class BiLSTMTagger(JointTagger):
    """Embedding, one bidirectional LSTM layer, intent and slot heads.

    Args:
      rows: rows of the embedding table, padding included.
      intents: number of intents.
      slot_labels: number of BIO labels.
      embedding: width of a word embedding.
      hidden: width of each direction's state.

    Example:
      >>> model = BiLSTMTagger(rows=100, intents=3, slot_labels=5, embedding=4, hidden=8)
      >>> {name: tuple(p.shape) for name, p in model.named_parameters() if "lstm" in name}
      {'lstm_ih': (2, 32, 4), 'lstm_hh': (2, 32, 8), 'lstm_bias': (2, 32)}
    """

    sgd_rate = 1.0
    private_rate = 1.0

    def __init__(
        self, *, rows: int, intents: int, slot_labels: int, embedding: int = 64, hidden: int = 64
    ) -> None:
        super().__init__(
            rows=rows,
            intents=intents,
            slot_labels=slot_labels,
            embedding=embedding,
            features=2 * hidden,
        )
        self.lstm_ih = nn.Parameter(torch.empty(2, 4 * hidden, embedding))
        self.lstm_hh = nn.Parameter(torch.empty(2, 4 * hidden, hidden))
        self.lstm_bias = nn.Parameter(torch.empty(2, 4 * hidden))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """As every tagger, with forget gates open (bias 1; Jozefowicz et al., ICML 2015)."""
        super().initialise(generator)
        hidden = self.lstm_hh.shape[-1]
        self.lstm_bias[:, hidden : 2 * hidden] = 1.0

    def encode(self, parameters: Parameters, words: Tensor, packing: Packing) -> Tensor:
        """States of both directions, shape (..., n, 2 hidden)."""
        return lstm_layer(
            words, parameters["lstm_ih"], parameters["lstm_hh"], parameters["lstm_bias"], packing
        )

    def descend(self, parameters: Parameters, batch: Batch, learning_rate: float) -> Tensor | None:
        """A step of SGD of a single device on a CPU (`fedsim.models.bilstm_step`), else None."""
        kind = type(self)
        own = kind.encode is BiLSTMTagger.encode and kind.losses is JointTagger.losses
        if not (own and can_descend(parameters, batch)):
            return None
        return descend(parameters, batch, learning_rate)
