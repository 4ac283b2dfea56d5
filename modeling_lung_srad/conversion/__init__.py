"""Converts weights that people already have: DASS, VMamba and the authors' training checkpoints."""

from .convert import convert_checkpoint, convert_feature_extractor
from .source import OWN_SETTINGS

__all__ = ["OWN_SETTINGS", "convert_checkpoint", "convert_feature_extractor"]
