"""Labelled cycles to log-mel batches: sources, features and their cache, sampling, augmentation."""
