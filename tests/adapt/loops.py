"""The online methods as their released programs are built, image by image.

Plain NumPy in float64 and Python lists that grow, restated from the papers and
the released programs; nothing is shared with what they check.
"""

import numpy as np


def softmax(logits):
  exponents = np.exp(logits - logits.max(-1, keepdims=True))
  return exponents / exponents.sum(-1, keepdims=True)


def entropy(probs, floor=0.0):
  return -np.sum(probs * np.log(probs + floor), axis=-1)


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def most_confident(logits, fraction):
  """Positions of the views of lowest entropy."""
  order = np.argsort(entropy(softmax(logits)), kind="stable")
  return order[:int(fraction * len(logits))]


def onzeta(text, scale, stream, *, beta=0.8, balance=1.0, temperature=0.04,
           proxy_step=0.5, dual_step=20.0):
  """Probabilities of each image of the stream; the last proxies and duals."""
  proxies, duals, found = text.copy(), np.zeros(len(text)), []
  for number, views in enumerate(stream, 1):
    x, rate = views[0], 1 / np.sqrt(number)
    by_text = softmax(scale * text @ x) * np.exp(duals)
    by_text /= by_text.sum()
    by_proxies = softmax(proxies @ x / temperature)
    weight = beta * np.sqrt(number / len(stream))
    found.append(weight * by_proxies + (1 - weight) * by_text)
    duals = np.maximum(
        0, duals - dual_step * rate * (by_text - balance / len(text)))
    proxies = unit(proxies - proxy_step * rate / temperature * (
        np.outer(by_proxies - by_text, x)))
  return np.array(found), proxies, duals
