"""Which LSTM can be put in the place of `nn.LSTM` and be trained privately?

`nn.LSTM` has two biases of which only the sum matters; per-example norms would count it twice.
`LSTM` has one, and otherwise computes the same: it loads the state of an `nn.LSTM`, and its own
state is one that an `nn.LSTM` loads.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fedsim.errors import require
from fedsim.models.lstm import lstm_layer
from fedsim.models.packing import Packing


class LSTM(nn.Module):
    """Layers of one direction or two over padded sentences of any lengths.

    `load_state_dict` takes the state of an `nn.LSTM` of the same shape and adds up its biases;
    `state_dict` gives such a state, with zeros for the second bias.

    Args:
      inputs: width of a word.
      hidden: width of each direction's state.
      layers: one above the other.
      bidirectional: whether a second direction reads sentences backwards.

    Example:
      >>> theirs = nn.LSTM(4, 3, num_layers=2, bidirectional=True, batch_first=True)
      >>> ours, words = LSTM.of(theirs), torch.ones(2, 5, 4)
      >>> torch.allclose(ours(words), theirs(words)[0], atol=1e-6)
      True
      >>> bool(ours.state_dict()["bias_hh_l1_reverse"].any())
      False
    """

    def __init__(
        self, inputs: int, hidden: int, *, layers: int = 1, bidirectional: bool = False
    ) -> None:
        super().__init__()
        directions = 2 if bidirectional else 1
        self.layers, self.directions = layers, directions
        for k in range(layers):
            width = inputs if k == 0 else directions * hidden
            for name, shape in (
                ("weight_ih", (4 * hidden, width)),
                ("weight_hh", (4 * hidden, hidden)),
                ("bias", (4 * hidden,)),
            ):
                value = nn.Parameter(torch.zeros(directions, *shape))
                self.register_parameter(f"{name}_{k}", value)

    @classmethod
    def of(cls, module: nn.LSTM) -> "LSTM":
        """The same LSTM with one bias.

        Raises:
          ConfigError: it has dropout, projections or no bias.
        """
        for field, wanted in (("dropout", 0.0), ("proj_size", 0), ("bias", True)):
            found = getattr(module, field)
            require(
                found == wanted,
                f"{field} of the nn.LSTM is {found}, and this LSTM has {wanted}; "
                "build and train one without",
            )
        own = cls(
            module.input_size,
            module.hidden_size,
            layers=module.num_layers,
            bidirectional=module.bidirectional,
        )
        own.to(module.get_parameter("weight_ih_l0"))
        own.load_state_dict(module.state_dict())
        return own

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Fresh weights and biases, U(+-1/sqrt(hidden)) as `nn.LSTM`; until then they are zero."""
        for parameter in self.parameters():
            bound = (parameter.shape[1] // 4) ** -0.5
            parameter.uniform_(-bound, bound, generator=generator)

    def forward(self, words: Tensor, lengths: Tensor | None = None) -> Tensor:
        """States of the last layer.

        Args:
          words: (examples, tokens, inputs), padded.
          lengths: (examples,) int64 words of each sentence, in any order; None is all tokens.

        Returns:
          (examples, tokens, directions x hidden), zero at padding.
        """
        examples, tokens = words.shape[:2]
        if lengths is None:
            lengths = torch.full((examples,), tokens)
        packing = Packing.of(lengths, tokens)
        states = packing.packed(words)
        for k in range(self.layers):
            ih, hh, bias = (getattr(self, f"{n}_{k}") for n in ("weight_ih", "weight_hh", "bias"))
            states = lstm_layer(states, ih, hh, bias, packing)
        return packing.padded(states)

    def _places(self) -> Iterator[tuple[int, int, str]]:
        """Layer, direction, and the end of PyTorch's names for them."""
        for k in range(self.layers):
            for d, way in zip(range(self.directions), ("", "_reverse"), strict=False):
                yield k, d, f"l{k}{way}"

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        for k, d, suffix in self._places():
            for name in ("weight_ih", "weight_hh", "bias"):
                own = getattr(self, f"{name}_{k}")[d]
                theirs = "bias_ih" if name == "bias" else name
                destination[f"{prefix}{theirs}_{suffix}"] = own if keep_vars else own.detach()
            bias = destination[f"{prefix}bias_ih_{suffix}"]
            destination[f"{prefix}bias_hh_{suffix}"] = torch.zeros_like(bias)

    def _load_from_state_dict(
        self, state_dict, prefix, metadata, strict, missing, unexpected, errors
    ) -> None:
        # In our own names, stacked over directions, the rest is PyTorch's: shapes, strictness.
        own: dict[str, list[Tensor]] = {}
        known: set[str] = set()
        for k, _, suffix in self._places():
            keys = {n: f"{prefix}{n}_{suffix}" for n in ("weight_ih", "weight_hh")}
            biases = [f"{prefix}bias_{n}_{suffix}" for n in ("ih", "hh")]
            known.update(keys.values(), biases)
            gone = [key for key in (*keys.values(), *biases) if key not in state_dict]
            missing.extend(gone)
            if gone:
                continue
            for name, key in keys.items():
                own.setdefault(f"{prefix}{name}_{k}", []).append(state_dict[key])
            both = state_dict[biases[0]] + state_dict[biases[1]]
            own.setdefault(f"{prefix}bias_{k}", []).append(both)
        if strict:
            unexpected.extend(
                key for key in state_dict if key.startswith(prefix) and key not in known
            )
        stacked = {name: torch.stack(parts) for name, parts in own.items()}
        super()._load_from_state_dict(stacked, prefix, metadata, False, [], unexpected, errors)
