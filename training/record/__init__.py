"""Records of a run: settings, figures, earlier stages."""
