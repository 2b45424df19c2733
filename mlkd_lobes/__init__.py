"""Lobes of noise-robust emotion recognition by multi-level distillation.

`models`, `data` and `noise` hold what training needs, `evaluation` measures and
reports, `training` keeps the state of runs, `deployment` exports. Each imports only
packages named before it.
"""
