"""What surrounds training: parameters, presets, data, folders, resuming, signals, search spaces, pictures."""
