"""Predictions of a trained checkpoint for labelled cycles."""
