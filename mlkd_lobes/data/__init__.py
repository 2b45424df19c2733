"""Speech: audio files, corpora, manifests, splits, batches."""
