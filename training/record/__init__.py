"""What a run writes down about itself: settings, figures, earlier stages."""
