r"""Makes resnet_oracle.npz: what OpenCLIP's residual networks say.

  python -m tests.clip.make_resnet_oracle

Needs open_clip; made with open_clip_torch 3.3.0, torch 2.13.0, on CPU. Weights
and inputs follow from their names by a rule of numpy's, so that none is stored.
Keys of CASE: CASE/image_raw (after the projection, any norm), CASE/image_pooled
(before it) and, of the small ones, CASE/text_embeds (unit norm), all computed
in float64; those of RN50 are stored as float32.
"""

from collections.abc import Iterator, Mapping
import pathlib
from typing import Any
import zlib

import numpy as np

PATH = pathlib.Path(__file__).parent / "resnet_oracle.npz"

# Its vocabulary is that of the shipped model, whose tokenizer it can take.
_TEXT = {"context_length": 32, "vocab_size": 837, "width": 16, "heads": 2,
         "layers": 1}
_SMALL = {
    "embed_dim": 12, "text_cfg": _TEXT,
    # More than one block in the first stage, which alone does not stride.
    "vision_cfg": {"image_size": 64, "layers": [2, 1, 2, 1], "width": 4,
                   "head_width": 32, "patch_size": None},
}
MODELS: dict[str, dict[str, Any]] = {
    "small": _SMALL,
    "small-quickgelu": _SMALL | {"quick_gelu": True},
    # As published, but for the text tower.
    "RN50-quickgelu": {
        "embed_dim": 1024, "quick_gelu": True, "text_cfg": _TEXT,
        "vision_cfg": {"image_size": 224, "layers": [3, 4, 6, 3], "width": 64,
                       "patch_size": None}},
}


def shapes(model: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
  """Names and shapes of all tensors, spelled out from OpenAI's code."""
  found = dict(_image_shapes(model["embed_dim"], model["vision_cfg"]))
  text = model["text_cfg"]
  width = text["width"]
  found |= {
      "positional_embedding": (text["context_length"], width),
      "token_embedding.weight": (text["vocab_size"], width),
      "ln_final.weight": (width,), "ln_final.bias": (width,),
      "text_projection": (width, model["embed_dim"]), "logit_scale": ()}
  for layer in range(text["layers"]):
    block = f"transformer.resblocks.{layer}."
    for name, shape in (
        ("ln_1", (width,)), ("ln_2", (width,)),
        ("attn.in_proj_", (3 * width, width)),
        ("attn.out_proj", (width, width)),
        ("mlp.c_fc", (4 * width, width)), ("mlp.c_proj", (width, 4 * width))):
      dot = "" if name.endswith("_") else "."
      found[f"{block}{name}{dot}weight"] = shape
      found[f"{block}{name}{dot}bias"] = shape[:1]
  return found


def _image_shapes(
    out: int, vision: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[int, ...]]]:
  width = vision["width"]
  half = width // 2
  for number, shape in ((1, (half, 3)), (2, (half, half)), (3, (width, half))):
    yield from _convolution(f"visual.conv{number}", f"visual.bn{number}",
                            (*shape, 3, 3))
  before = width
  for stage, blocks in enumerate(vision["layers"]):
    inner = width * 2**stage
    for block in range(blocks):
      at = f"visual.layer{stage + 1}.{block}."
      for number, shape in ((1, (inner, before, 1, 1)),
                            (2, (inner, inner, 3, 3)),
                            (3, (4 * inner, inner, 1, 1))):
        yield from _convolution(f"{at}conv{number}", f"{at}bn{number}", shape)
      if not block:
        yield from _convolution(f"{at}downsample.0", f"{at}downsample.1",
                                (4 * inner, before, 1, 1))
      before = 4 * inner
  positions = (vision["image_size"] // 32)**2 + 1
  yield "visual.attnpool.positional_embedding", (positions, before)
  for name in "qkvc":
    rows = out if name == "c" else before
    yield f"visual.attnpool.{name}_proj.weight", (rows, before)
    yield f"visual.attnpool.{name}_proj.bias", (rows,)


def _convolution(name, norm, shape):
  yield f"{name}.weight", shape
  for leaf in ("weight", "bias", "running_mean", "running_var"):
    yield f"{norm}.{leaf}", shape[:1]
  yield f"{norm}.num_batches_tracked", ()


def weights(model: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Tensors by OpenCLIP's names; random, but nothing grows or vanishes."""
  return {name: _tensor(name, shape) for name, shape in shapes(model).items()}


def _tensor(name, shape):
  if name.endswith("num_batches_tracked"):
    return np.array(7)
  # This generator's stream is frozen; that of default_rng is not.
  draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
  if name == "logit_scale":
    draw = np.array(2.0)
  elif name.endswith("running_var"):
    draw = np.exp(0.3 * draw)
  elif name.endswith(("positional_embedding", "token_embedding.weight")):
    draw = 0.2 * draw
  elif draw.ndim > 1:
    # 1.4 makes up for what ReLU takes; the other way of a block has none.
    gain = 1.0 if "downsample" in name else 1.4
    draw = draw * (gain / draw[0].size**0.5)
  else:
    # What a block adds is less than what it is added to.
    centre = 0.2 if ".bn3." in name and "layer" in name else 1.0
    draw = (centre if name.endswith("weight") else 0.0) + 0.1 * draw
  return draw.astype(np.float32)


def inputs(
    model: Mapping[str, Any], count: int = 3
) -> tuple[np.ndarray, np.ndarray]:
  """Normalised pixels, channels last, and token ids, all rows distinct."""
  rng = np.random.RandomState(0)
  side = model["vision_cfg"]["image_size"]
  coarse = rng.standard_normal((count, 4, 4, 3)).repeat(side // 4, 1)
  fine = rng.standard_normal((count, side, side, 3))
  pixels = coarse.repeat(side // 4, 2) + 0.3 * fine
  # Deep maps of random weights tell images apart by little else.
  pixels *= 2.0**np.arange(count).reshape(-1, 1, 1, 1)
  ids = rng.randint(1, 836, (count + 1, 8))
  for row in range(len(ids)):
    ids[row, 7 - row] = 836
  return pixels.astype(np.float32), ids


def original(model: Mapping[str, Any]):
  """OpenCLIP's model with these weights, in float64."""
  import open_clip
  import torch
  made = open_clip.CLIP(
      model["embed_dim"], open_clip.model.CLIPVisionCfg(**model["vision_cfg"]),
      open_clip.model.CLIPTextCfg(**model["text_cfg"]),
      quick_gelu=model.get("quick_gelu", False)).double().eval()
  made.load_state_dict({
      name: torch.from_numpy(value) for name, value in weights(model).items()})
  return made


def outputs(model: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """What OpenCLIP says of `inputs`, in float64."""
  import torch
  made, (pixels, ids) = original(model), inputs(model)
  with torch.no_grad():
    tokens = made.visual.layer4(made.visual.layer3(made.visual.layer2(
        made.visual.layer1(made.visual.stem(torch.from_numpy(
            pixels.transpose(0, 3, 1, 2)).double())))))
    raw = made.visual.attnpool(tokens)
    # Without its last map, the pool says what that map sees.
    pool = made.visual.attnpool
    width = pool.c_proj.in_features
    pool.c_proj.weight = torch.nn.Parameter(torch.eye(width).double())
    pool.c_proj.bias = torch.nn.Parameter(torch.zeros(width).double())
    # It takes prompts of all positions; those after the end do not matter.
    ids = np.pad(ids, ((0, 0), (0, 32 - ids.shape[1])))
    return {
        "image_raw": raw.numpy(), "image_pooled": pool(tokens).numpy(),
        "text_embeds": made.encode_text(
            torch.from_numpy(ids), normalize=True).numpy()}


def read(case: str) -> dict[str, np.ndarray]:
  """The arrays of a case that are stored, by key."""
  with np.load(PATH) as oracle:
    return {key.removeprefix(f"{case}/"): oracle[key]
            for key in oracle if key.startswith(f"{case}/")}


def main():
  found = {}
  for case, model in MODELS.items():
    for key, value in outputs(model).items():
      full = case.startswith("RN")
      if not full or key != "text_embeds":
        found[f"{case}/{key}"] = value.astype(
            np.float32 if full else np.float64)
  np.savez_compressed(PATH, **found)


if __name__ == "__main__":
  main()
