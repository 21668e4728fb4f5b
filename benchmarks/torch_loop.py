"""Test-time prompt tuning in PyTorch, as the released programs do it.

Image by image: the views through transformers' image tower, then a forward, a
backward and a forward pass of its text tower over all classes in all positions.
The weights are random, and no number is compared: only the time is.
"""

import importlib.util
import time

import numpy as np

from benchmarks import sizes
from jaxcal.clip import towers
from jaxcal.testbed import export

_KEPT = 0.1  # of the views, those of lowest entropy
_REPEATS = 3


def missing(backend: str) -> str | None:
  """Why the loop cannot run beside JAX; None if it can.

  Args:
    backend: Name of the backend that JAX uses.
  """
  for name in ("torch", "transformers"):
    if importlib.util.find_spec(name) is None:
      return f"{name} is not installed"
  import torch
  if backend == "gpu" and not torch.cuda.is_available():
    return f"PyTorch {torch.__version__} sees no GPU: it was built without CUDA"
  return None


def measured(
    config: towers.ClipConfig, num_classes: int, num_images: int,
    num_views: int, backend: str,
) -> list[dict[str, object]]:
  """A row for each precision: the image tower, and tuning, per image.

  Args:
    config: Sizes of the model.
    num_classes: Number of classes.
    num_images: Images, one after the other.
    num_views: Views of each of them.
    backend: Name of the backend that JAX uses.
  """
  import torch
  device = "cuda" if backend == "gpu" else "cpu"
  # As at "highest" here.
  torch.backends.cuda.matmul.allow_tf32 = False
  torch.backends.cudnn.allow_tf32 = False
  model = _model(config).to(device).eval().requires_grad_(False)
  bank = sizes.prompt_bank(num_classes)
  ids = torch.tensor(np.asarray(bank.token_ids), device=device)
  side = config.image_size
  pixels = torch.randn(num_images, num_views, 3, side, side, device=device)
  rows = []
  for name, half in (("float32", False), ("bfloat16", True)):
    automatic = torch.autocast(device, torch.bfloat16, enabled=half)
    with automatic:
      seconds = {
          "tower": _least(lambda: [_seen(model, one) for one in pixels], torch),
          "tuning": _least(lambda: [
              _tuned(model, ids, views, bank.context_positions.shape[1])
              for views in [_seen(model, one) for one in pixels]], torch)}
    rows.append({
        "torch": torch.__version__, "precision": name, "classes": num_classes,
        "views": num_views,
        "tower_ms_per_image": 1e3 * seconds["tower"] / num_images,
        "both_ms_per_image": 1e3 * seconds["tuning"] / num_images})
  return rows


def _model(config):
  import transformers
  settings = export.huggingface_config(config)
  return transformers.CLIPModel(transformers.CLIPConfig(
      text_config=settings["text_config"],
      vision_config=settings["vision_config"],
      projection_dim=config.projection))


def _least(call, torch):
  """Seconds of the fastest of some calls, after one to warm up."""
  found = []
  for _ in range(1 + _REPEATS):
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
      torch.cuda.synchronize()
    found.append(time.perf_counter() - start)
  return min(found[1:])


def _seen(model, views):
  """Unit-norm features of an image's views."""
  import torch
  with torch.no_grad():
    pooled = model.vision_model(views).pooler_output
    return _unit(model.visual_projection(pooled))


def _tuned(model, ids, views, num_context):
  """Logits of the clean view after a step on the confident views' entropy."""
  import torch
  embeddings = model.text_model.embeddings.token_embedding
  words = embeddings(ids).detach()
  context = words[0, 1:1 + num_context].clone().requires_grad_()
  optimiser = torch.optim.AdamW([context], lr=5e-3)
  logits = sizes.LOGIT_SCALE * views @ _texts(model, ids, words, context).T
  each = -(logits.log_softmax(-1).exp() * logits.log_softmax(-1)).sum(-1)
  kept = each.argsort()[:max(1, int(len(views) * _KEPT))]
  mean = logits[kept].log_softmax(-1).exp().mean(0)
  (-(mean * mean.log()).sum()).backward()
  optimiser.step()
  with torch.no_grad():
    return sizes.LOGIT_SCALE * views[:1] @ _texts(
        model, ids, words, context).T


def _texts(model, ids, words, context):
  """Unit-norm features of all classes with a context in their prompts."""
  import torch
  words = torch.cat([
      words[:, :1], context[None].expand(len(words), -1, -1),
      words[:, 1 + len(context):]], 1)
  embeddings = model.text_model.embeddings.token_embedding
  hook = embeddings.register_forward_hook(lambda *_: words)
  try:
    return _unit(model.text_projection(model.text_model(ids).pooler_output))
  finally:
    hook.remove()


def _unit(x):
  return x / x.norm(dim=-1, keepdim=True)
