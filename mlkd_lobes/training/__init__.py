"""Settings, run folders, target cache, checkpoints."""
