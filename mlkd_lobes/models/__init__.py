"""PyTorch modules: encoder, classifier, distillation."""
