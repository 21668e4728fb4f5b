"""Tensors of PyTorch, for tests of the mark `needs("torch")`."""

import numpy as np


def tensor(values):
  import torch
  return torch.tensor(np.asarray(values).tolist())


def learning(values):
  """Wants a gradient, if numbers of its kind can have one."""
  held = tensor(values)
  return held.requires_grad_() if held.is_floating_point() else held
