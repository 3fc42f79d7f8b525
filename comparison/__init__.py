"""What the difference of two recommenders is worth: their ranks of the same next clicks, and those resampled."""
