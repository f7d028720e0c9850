"""Torch modules for joint intent classification and slot filling."""

from fedsim.models.bilstm import BiLSTMTagger
from fedsim.models.joint import JointTagger, Predictions
from fedsim.models.transformer import TransformerTagger

__all__ = ["BiLSTMTagger", "JointTagger", "Predictions", "TransformerTagger"]
