"""Test-time methods image by image in PyTorch, as their programs are built.

Restated from the papers and the structure of the released programs: lists of
tensors that grow, concatenated anew for every image, one autograd graph per
image. Each function takes text features [k d], the scale of the logits and
images of views [n v d], and gives the scores [n k].
"""

from collections.abc import Callable, Mapping
import math

import torch
import torch.nn.functional as F

_FLOOR = 1e-5  # within the logarithm of the online methods' entropies


def _unit(x):
  return x / x.norm(dim=-1, keepdim=True)


def _entropy(logits):
  return -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)


def _floored(probs):
  return -(probs * torch.log(probs + _FLOOR)).sum(-1)


def _confident(logits, fraction=0.1):
  order = torch.argsort(_entropy(logits), stable=True)
  return order[:int(fraction * len(logits))]


def zero(text, scale, images):
  """ZERO; no tie is broken beyond the views left out."""
  found = []
  for views in images:
    logits = scale * views @ text.T
    order = torch.argsort(_entropy(logits), stable=True)
    kept = int(0.3 * len(views))
    votes = logits[order].argmax(1)
    counts = torch.bincount(votes[:kept], minlength=len(text)).float()
    tied = (counts == counts.max()).nonzero().flatten().tolist()
    if len(tied) > 1:
      further = [vote for vote in votes[kept:].tolist() if vote in tied]
      first = further[0] if further else tied[
          int(logits[order[kept]][tied].argmax())]
      counts[first] += 1
    found.append(counts)
  return torch.stack(found)


def mta(text, scale, images):
  """MTA."""
  found = []
  for x in images:
    count = len(x)
    probs = (scale * x @ text.T).softmax(1)
    affinity = probs @ probs.T
    squares = torch.cdist(
        x, x, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    squares.fill_diagonal_(math.inf)
    width = 0.5 * squares.sort(1).values[:, :int(0.3 * (count - 1))].mean(1)
    weights, mode = torch.full((count,), 1 / count), x[0]
    kernel = lambda mode: torch.exp(
        -((x - mode) ** 2).sum(1) / (2 * width))
    for _ in range(5):
      fixed = kernel(mode)
      for _ in range(5):
        before = weights
        weights = ((fixed + 4.0 * affinity @ weights) / 0.2).softmax(0)
        if (weights - before).norm() < 1e-6:
          break
      for _ in range(5):
        before, density = mode, kernel(mode) * weights
        mode = _unit(density @ x / density.sum())
        if (mode - before).norm() < 1e-6:
          break
    found.append(scale * text @ mode)
  return torch.stack(found)


def tps(text, scale, images):
  """TPS, with an optimiser of its own for every image."""
  found = []
  for views in images:
    shift = torch.zeros_like(text, requires_grad=True)
    optimiser = torch.optim.AdamW([shift], lr=5e-3)
    with torch.enable_grad():
      logits = scale * views @ _unit(text + shift).T
      kept = logits[_confident(logits.detach())]
      mean = kept.log_softmax(1).logsumexp(0) - math.log(len(kept))
      loss = -(mean.exp() * mean).sum()
      loss.backward()
    optimiser.step()
    found.append(scale * _unit(text + shift.detach()) @ views[0])
  return torch.stack(found)


def _enter(cache, label, entry, capacity):
  """Puts an entry into its class's list, by entropy as the second part."""
  entries = cache.setdefault(label, [])
  if len(entries) < capacity:
    entries.append(entry)
  elif entry[1] < entries[-1][1]:
    entries[-1] = entry
  entries.sort(key=lambda one: one[1])


def _enter_newest(cache, label, entry, capacity):
  entries = cache.setdefault(label, [])
  entries.append(entry)
  del entries[:-capacity]


def _read(cache, x, text, alpha, beta, *, negative=False):
  """What a cache says, from its entries concatenated."""
  keys = torch.stack([entry[0] for label in sorted(cache)
                      for entry in cache[label]])
  if negative:
    probs = torch.stack([entry[2] for label in sorted(cache)
                         for entry in cache[label]])
    values = ((probs > 0.03) & (probs < 1)).float()
  else:
    values = F.one_hot(
        torch.tensor([label for label in sorted(cache) for _ in cache[label]]),
        len(text)).float()
  return alpha * torch.exp(-beta * (1 - x @ keys.T)) @ values


def tda(text, scale, images, *, boosted=False):
  """TDA; or BoostAdapter."""
  positive, negative, found = {}, {}, []
  for views in images:
    x = views[0]
    logits = scale * (views if boosted else views[:1]) @ text.T
    probs, label = logits[0].softmax(0), int(logits[0].argmax())
    entropy = float(_floored(probs))
    _enter(positive, label, (x, entropy), 3)
    if 0.2 < entropy / math.log2(len(text)) < 0.5:
      (_enter_newest if boosted else _enter)(
          negative, label, (x, entropy, probs), 2)
    cache = positive
    if boosted:
      cache = {key: list(entries) for key, entries in positive.items()}
      for view in _confident(logits):
        of_view = logits[view]
        _enter(cache, int(of_view.argmax()),
               (views[view], float(_floored(of_view.softmax(0)))), 4)
    scores = logits[0] + _read(cache, x, text, 2.0, 5.0)
    if negative:
      scores = scores - _read(negative, x, text, 0.117, 1.0, negative=True)
    found.append(scores)
  return torch.stack(found)


def boostadapter(text, scale, images):
  """BoostAdapter."""
  return tda(text, scale, images, boosted=True)


def dmn(text, scale, images, *, capacity=50, beta=5.5):
  """DMN, with one tensor for the memory of all classes."""
  k, d = text.shape
  memory = torch.zeros(k, capacity, d)
  entropies, counts = torch.zeros(k, capacity), [0] * k
  found = []
  for views in images:
    x, logits = views[0], scale * views @ text.T
    trusted = logits[_confident(logits)].mean(0)
    label = int(trusted.argmax())
    place = (counts[label] if counts[label] < capacity else
             int(entropies[label].argmax()))
    memory[label, place] = x
    entropies[label, place] = _floored(trusted.softmax(0))
    counts[label] = min(capacity, counts[label] + 1)
    rows = torch.cat([memory, text[:, None]], dim=1)
    filled = (rows.norm(dim=-1) > 0).float()
    weights = torch.exp(-beta * (1 - rows @ x)) * filled
    classifier = _unit((weights[:, None] @ rows)[:, 0])
    found.append(logits[0].softmax(0) + (scale * classifier @ x).softmax(0))
  return torch.stack(found)


def onzeta(text, scale, images):
  """OnZeta."""
  proxies, duals, found = text.clone(), torch.zeros(len(text)), []
  for number, views in enumerate(images, 1):
    x, rate = views[0], 1 / math.sqrt(number)
    by_text = (scale * text @ x).softmax(0) * duals.exp()
    by_text = by_text / by_text.sum()
    by_proxies = (proxies @ x / 0.04).softmax(0)
    mix = 0.8 * math.sqrt(number / len(images))
    found.append(mix * by_proxies + (1 - mix) * by_text)
    duals = torch.clamp(duals - 20 * rate * (by_text - 1 / len(text)), min=0)
    proxies = _unit(proxies - 0.5 * rate / 0.04 * torch.outer(
        by_proxies - by_text, x))
  return torch.stack(found)


def dpe(text, scale, images):
  """DPE in the benchmark's form."""
  mean, number, bits = text.clone(), 0, math.log2(len(text))
  cache, found = {}, []
  for views in images:
    logits = scale * views @ _unit(mean).T
    kept = _confident(logits)
    f, confident = views[kept].mean(0), logits[kept].mean(0)
    _enter(cache, int(confident.argmax()),
           (f, float(_floored(confident.softmax(0))) / bits), 3)
    there = sorted(cache)
    centres = torch.stack([
        torch.stack([entry[0] for entry in cache[label]]).mean(0)
        for label in there])
    values = F.one_hot(torch.tensor(there), len(text)).float()
    residuals = [torch.zeros_like(text, requires_grad=True),
                 torch.zeros_like(centres, requires_grad=True)]
    optimiser = torch.optim.AdamW(
        residuals, lr=6e-4, eps=1e-3, weight_decay=0.1)
    from_images = lambda of, images: 6.0 * torch.exp(
        -5.0 * (1 - of @ images.T)) @ values
    with torch.enable_grad():
      texts, images_ = _unit(mean + residuals[0]), _unit(centres + residuals[1])
      loss = _entropy(confident + from_images(f, images_))
      loss = loss + 0.5 * F.cross_entropy(
          images_ @ texts[there].T / 0.01, torch.arange(len(there)))
      loss.backward()
    optimiser.step()
    texts, images_ = [_unit(one + residual.detach()) for one, residual in zip(
        (mean, centres), residuals)]
    found.append(scale * texts @ views[0] + from_images(views[0], images_))
    if float(_entropy(found[-1])) / bits < 0.1:
      number += 1
      mean = number / (number + 1) * mean + texts / (number + 1)
  return torch.stack(found)


def ecalp(text, scale, images):
  """ECALP, its graph as a sparse matrix that is made anew for every image."""
  del scale
  k, found = len(text), []
  omega = _unit(text.var(0))
  weighted, near, of_texts = [], [], []  # near: (similarities, nodes) by image
  start = torch.zeros(0, k)
  for number, views in enumerate(images):
    x = views[0]
    weighted.append(_unit(omega * x))
    similarity = torch.stack(weighted) @ x
    cosines = (text @ x).topk(min(3, k))
    of_texts.append((cosines.values, cosines.indices))
    # A node later than all before it goes before those of equal similarity.
    enter = lambda lists, value, node: [
        part[:8] for part in _before(lists, value, node)]
    near = [enter(lists, value, number)
            for lists, value in zip(near, similarity)]
    order = torch.argsort(similarity.flip(0), descending=True, stable=True)
    order = number - order[:8]
    near.append([similarity[order], order])
    now = [enter(lists, value, number + 1)
           for lists, value in zip(near, similarity)]
    now.append(now[-1])
    found.append(_spread(now, of_texts + of_texts[-1:], start, k))
    best = found[-1][:-1].max(1)
    start = torch.zeros(number + 1, k)
    start[torch.arange(number + 1), best.indices] = best.values / 5
    found[-1] = found[-1][-1]
  return torch.stack(found)


def _before(lists, value, node):
  rank = int((lists[0] > value).sum())
  for part, new in zip(lists, (value, torch.tensor(node))):
    yield torch.cat([part[:rank], new[None], part[rank:]])


def _spread(near, of_texts, start, k):
  size = k + len(near)
  rows = torch.cat([
      torch.full((len(nodes) + len(texts),), k + i)
      for i, ((_, nodes), (_, texts)) in enumerate(zip(near, of_texts))])
  columns = torch.cat([torch.cat([k + nodes, texts]) for (_, nodes), (
      _, texts) in zip(near, of_texts)])
  values = torch.cat([torch.cat([own, cosines]) for (own, _), (
      cosines, _) in zip(near, of_texts)]) ** 10
  sparse = lambda indices, values: torch.sparse_coo_tensor(
      indices, values, (size, size), check_invariants=False)
  both = sparse(
      torch.stack([torch.cat([rows, columns]), torch.cat([columns, rows])]),
      torch.cat([values, values])).coalesce()
  degree = torch.sparse.sum(both, 1).to_dense()
  root = 1 / (degree.sqrt() + 1e-6)
  i, j = both.indices()
  scaled = sparse(both.indices(), both.values() * root[i] * root[j])
  labels = torch.cat([start, torch.zeros(len(near) - len(start), k)])
  for _ in range(3):
    labels = torch.sparse.mm(scaled, torch.cat([torch.eye(k), labels]))[k:]
  return labels


LOOPS: Mapping[str, Callable[..., torch.Tensor]] = {
    "zero": zero, "mta": mta, "tps": tps, "tda": tda,
    "boostadapter": boostadapter, "dmn": dmn, "dpe": dpe, "onzeta": onzeta,
    "ecalp": ecalp}
