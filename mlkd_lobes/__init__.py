"""Lobes of noise-robust emotion recognition by multi-level distillation.

Nothing in this package knows a corpus: it holds the parts a SpeechBrain recipe
is built from. A length-exact SSL encoder (`encoders`), the emotion classifier
(`classifier`), the multi-level projection and the named losses
(`distillation`), noise with keyed draws (`noise`), the cache of teacher targets
(`targets`), checkpoints that survive a kill (`checkpoints`) and metrics, tables
and leakage checks (`evaluation`).
"""
