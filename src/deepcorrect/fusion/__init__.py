"""Folding a corrected network into a plain one, for where it is deployed."""

from deepcorrect.fusion._fuse import First, check_same, example_images, fuse

__all__ = ["First", "check_same", "example_images", "fuse"]
