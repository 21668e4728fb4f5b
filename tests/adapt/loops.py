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


def dmn(text, scale, stream, *, alpha=1.0, beta=5.5, capacity=50,
        replacement="always", predict_first=False, selection_fraction=None,
        average="logits"):
  """Sums of two predictions of each image of the stream; the memory's lists."""
  memory = [[] for _ in text]  # of (entropy, features)
  found = []
  for views in stream:
    x, logits = views[0], scale * views @ text.T
    probs = softmax(logits[0])
    if selection_fraction is not None:
      kept = logits[most_confident(logits, selection_fraction)]
      probs = (softmax(kept.mean(0)) if average == "logits" else
               softmax(kept).mean(0))
    entry = entropy(probs, 1e-5), x
    after = [list(one) for one in memory]
    own = after[probs.argmax()]
    if len(own) < capacity:
      own.append(entry)
    else:
      worst = int(np.argmax([one for one, _ in own]))
      if replacement == "always" or entry[0] < own[worst][0]:
        own[worst] = entry
    rows = []
    for name, own in zip(text, memory if predict_first else after):
      own = np.array([features for _, features in own] + [name])
      rows.append(unit(np.exp(-beta * (1 - own @ x)) @ own))
    found.append(softmax(logits[0]) + alpha * softmax(
        scale * np.array(rows) @ x))
    memory = after
  return np.array(found), memory


class _Negative:
  """Entries of one class: (entropy, features, classes spoken against)."""

  def __init__(self):
    self.entries = []

  def enter(self, entry, capacity, keeps):
    if keeps == "newest":
      self.entries = (self.entries + [entry])[-capacity:]
    elif len(self.entries) < capacity:
      self.entries.append(entry)
    else:
      worst = int(np.argmax([one[0] for one in self.entries]))
      if entry[0] < self.entries[worst][0]:
        self.entries[worst] = entry


def _lowest(entries, capacity):
  return sorted(entries, key=lambda entry: entry[0])[:capacity]


def tda(text, scale, stream, *, alpha=2.0, beta=5.0, negative_alpha=0.117,
        negative_beta=1.0, capacity=3, negative_capacity=2, extra_capacity=None,
        selection_fraction=0.1, negative_keeps="lowest_entropy",
        predicted="clean", predict_first=False):
  """Logits of each image by TDA, or BoostAdapter with an extra_capacity.

  And the lists of the positive and of the negative cache, by class.
  """
  k = len(text)
  positive, negative = [[] for _ in text], [_Negative() for _ in text]
  found = []

  def predict(views, logits, x, scores):
    scores = scores.copy()
    boosted = [list(entries) for entries in positive]
    if extra_capacity is not None:
      for view in most_confident(logits, selection_fraction):
        label, probs = logits[view].argmax(), softmax(logits[view])
        boosted[label] = _lowest(
            boosted[label] + [(entropy(probs, 1e-5), views[view])],
            capacity + extra_capacity)
    for label, entries in enumerate(boosted):
      for _, features in entries:
        scores[label] += alpha * np.exp(-beta * (1 - features @ x))
    for one in negative:
      for _, features, against in one.entries:
        scores -= against * negative_alpha * np.exp(
            -negative_beta * (1 - features @ x))
    found.append(scores)

  for views in stream:
    logits = scale * views @ text.T
    x, own, probs = views[0], logits[0], softmax(logits[0])
    e = entropy(probs, 1e-5)
    if predicted == "confident":
      kept = most_confident(logits, selection_fraction)
      x, own = views[kept].mean(0), logits[kept].mean(0)
      probs = softmax(logits[kept]).mean(0)
      e = entropy(probs)
    label = own.argmax()
    if predict_first:
      predict(views, logits, x, own)
    positive[label] = _lowest(positive[label] + [(e, x)], capacity)
    if 0.2 < e / np.log2(k) < 0.5:
      negative[label].enter(
          (e, x, (probs > 0.03) & (probs < 1)), negative_capacity,
          negative_keeps)
    if not predict_first:
      predict(views, logits, x, own)
  return np.array(found), positive, [one.entries for one in negative]


def dpe(text, scale, stream, *, alpha=6.0, beta=5.0, learning_rate=6e-4,
        alignment=0.5, temperature=0.01, entropy_below=0.1, capacity=3,
        selection_fraction=0.1, entropy_gradient=False, predicted="clean",
        predict_first=False):
  """Logits of each image; the cache's lists, the mean texts and their number.

  The gradient is that of central differences.
  """
  bits, mean, number = np.log2(len(text)), text.copy(), 0
  lists, found = [[] for _ in text], []

  def confident(x, texts):
    logits = scale * x @ texts.T
    kept = most_confident(logits, selection_fraction)
    return x[kept].mean(0), logits[kept].mean(0)

  for x in stream:
    f, logits = confident(x, unit(mean))
    entry = entropy(softmax(logits), 1e-5) / bits, f
    after = [list(one) for one in lists]
    label = logits.argmax()
    after[label] = _lowest(after[label] + [entry], capacity)
    seen = lists if predict_first else after
    there = [c for c, entries in enumerate(seen) if entries]
    centres = np.array([np.mean([one for _, one in seen[c]], axis=0)
                        for c in there]).reshape(len(there), text.shape[1])

    def moved(residuals):
      r = residuals.reshape(-1, text.shape[1])
      return unit(mean + r[:len(text)]), unit(centres + r[len(text):])

    def with_images(given, images, of):
      given = given.copy()
      given[there] += alpha * np.exp(-beta * (1 - images @ of))
      return given

    def loss(residuals):
      texts, images = moved(residuals)
      given = scale * texts @ f if entropy_gradient else logits
      value = entropy(softmax(with_images(given, images, f)))
      if there:
        pairs = softmax(images @ texts[there].T / temperature)
        value -= alignment * np.mean(np.log(np.diagonal(pairs)))
      return value

    gradient = _central(loss, (len(text) + len(there)) * text.shape[1])
    texts, images = moved(
        -learning_rate * gradient / (np.abs(gradient) + 1e-3))
    of = f if predicted == "confident" else x[0]
    found.append(with_images(
        confident(x, texts)[1] if predicted == "confident" else
        scale * texts @ x[0], images, of))
    if entropy(softmax(found[-1])) / bits < entropy_below:
      number += 1
      mean = number / (number + 1) * mean + texts / (number + 1)
    lists = after
  return np.array(found), lists, mean, number


def _central(function, size, step=1e-6):
  sides = [(function(move), function(-move)) for move in step * np.eye(size)]
  return np.array([(up - down) / (2 * step) for up, down in sides])


def ecalp(text, stream, *, image_neighbours=8, text_neighbours=3, power=10,
          num_rounds=3):
  """Scores of each image, from matrices of all nodes that are made anew."""
  k, omega, found = len(text), unit(text.var(axis=0, ddof=1)), []
  start = []  # of (class, score) of each image so far
  images = [views[0] for views in stream]
  for number in range(1, len(images) + 1):
    nodes = images[:number] + [images[number - 1]]
    size = k + len(nodes)
    directed = np.zeros((size, size))
    for i, x in enumerate(nodes):
      alike = [
          (unit(omega * nodes[min(i, j)]) @ nodes[max(i, j)],
           min(j, number - 1)) for j in range(len(nodes))]
      # The duplicate is as similar to all as the image itself: no rounding.
      alike = [(alike[same][0], j) for j, (_, same) in enumerate(alike)]
      for value, j in sorted(alike, reverse=True)[:image_neighbours]:
        directed[k + i, k + j] = value ** power
      cosines = text @ x
      for c in np.argsort(-cosines)[:text_neighbours]:
        directed[k + i, c] = cosines[c] ** power
    both = directed + directed.T
    root = 1 / (np.sqrt(both.sum(1)) + 1e-6)
    scaled = root[:, None] * both * root
    labels = np.zeros((len(nodes), k))
    for row, (c, score) in zip(labels, start):
      row[c] = score / 5
    for _ in range(num_rounds):
      labels = scaled[k:] @ np.concatenate([np.eye(k), labels])
    found.append(labels[-1])
    start = [(row.argmax(), row.max()) for row in labels[:-1]]
  return np.array(found)
