r"""Makes oracle.npz: tiny CLIPs, a SigLIP, and what transformers says.

  python -m tests.clip.make_oracle

Needs torch; made with transformers 5.23.0, torch 2.13.0, float32 on CPU. Keys:
CASE/config (config.json as text), CASE/weights/NAME (PyTorch names), and
CASE/pixels (normalised, channels last), CASE/token_ids, with the outputs of the
PyTorch towers: image_embeds, text_embeds (unit norm), image_pooled, text_pooled
(before the projections) and logits (images x prompts). Of SigLIP also
image_residual, image_raw and text_raw (after the projections, any norm).
"""

import json
import pathlib

import numpy as np

PATH = pathlib.Path(__file__).parent / "oracle.npz"

# The two ways to find the end of text, both activations, different sizes
# everywhere, so that no two numbers can be confused unnoticed.
CONFIGS = {
    "legacy": {
        "projection_dim": 12,
        "text_config": {
            "hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 44, "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5, "vocab_size": 50,
            "max_position_embeddings": 11, "bos_token_id": 48,
            "eos_token_id": 2, "pad_token_id": 1,
        },
        "vision_config": {
            "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
            "intermediate_size": 40, "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5, "image_size": 20, "patch_size": 5,
        },
    },
    "first": {
        "projection_dim": 10,
        "text_config": {
            "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
            "intermediate_size": 36, "hidden_act": "gelu",
            "layer_norm_eps": 1e-3, "vocab_size": 40,
            "max_position_embeddings": 9, "bos_token_id": 37,
            "eos_token_id": 38, "pad_token_id": 38,
        },
        "vision_config": {
            "hidden_size": 18, "num_hidden_layers": 2, "num_attention_heads": 3,
            "intermediate_size": 52, "hidden_act": "gelu",
            "layer_norm_eps": 1e-2, "image_size": 12, "patch_size": 4,
        },
    },
}


# Images with rows and columns beyond the last whole patch.
SIGLIP = {
    "text_config": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 28, "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-3, "vocab_size": 60, "max_position_embeddings": 9,
        "projection_size": 20,
    },
    "vision_config": {
        "hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 44, "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-2, "image_size": 14, "patch_size": 4,
    },
}


def model_and_inputs(config, seed):
  """A transformers CLIPModel with random numbers everywhere, and inputs."""
  import transformers
  model = randomised(
      transformers.CLIPModel, transformers.CLIPConfig.from_dict(config), seed)
  rng = np.random.default_rng(seed)
  text, vision = config["text_config"], config["vision_config"]
  ids = prompts(rng, text, count=6)
  side = vision["image_size"]
  pixels = rng.standard_normal((4, side, side, 3), dtype=np.float32)
  return model, pixels, ids


def siglip_and_inputs(config, seed):
  """The same of a SiglipModel; every position of a prompt counts."""
  import transformers
  model = randomised(
      transformers.SiglipModel, transformers.SiglipConfig.from_dict(config),
      seed)
  rng = np.random.default_rng(seed)
  text, vision = config["text_config"], config["vision_config"]
  ids = rng.integers(
      0, text["vocab_size"], (6, text["max_position_embeddings"]))
  side = vision["image_size"]
  pixels = rng.standard_normal((4, side, side, 3), dtype=np.float32)
  return model, pixels, ids


def randomised(kind, config, seed):
  """A model of this kind and configuration with random numbers everywhere."""
  import torch
  torch.manual_seed(seed)
  model = kind(config)
  with torch.no_grad():
    for name, value in model.named_parameters():
      # Biases and norms too: at 0 and 1 they would hide mistakes.
      centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
      spread = 0.6 * value.shape[-1]**-0.5 if value.ndim > 1 else 0.3
      value.copy_(centre + spread * torch.randn(value.shape))
    model.logit_scale.fill_(2.0)
  return model.eval()


def prompts(rng, text, count):
  """Random rows: start, words, end, and tokens that must not matter."""
  length, start = text["max_position_embeddings"], text["bos_token_id"]
  end = start + 1
  ids = rng.integers(3, start, (count, length))
  ids[:, 0] = start
  for row, position in enumerate(rng.integers(2, length, count)):
    ids[row, position] = end
    if text["pad_token_id"] == end:
      ids[row, position:] = end
  return ids.astype(np.int64)


def outputs(model, pixels, ids):
  """What the model says, as numpy arrays."""
  import torch
  images = torch.from_numpy(
      np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
  ids = torch.from_numpy(ids)
  with torch.no_grad():
    out = model(input_ids=ids, pixel_values=images)
    return {
        "image_embeds": out.image_embeds.numpy(),
        "text_embeds": out.text_embeds.numpy(),
        # What the joint output calls pooled differs between versions.
        "image_pooled": model.vision_model(images).pooler_output.numpy(),
        "text_pooled": model.text_model(ids).pooler_output.numpy(),
        "logits": out.logits_per_image.numpy(),
    }


def siglip_outputs(model, pixels, ids):
  """What a SiglipModel says, as numpy arrays."""
  import torch
  head, seen = model.vision_model.head, {}

  def keep(name):
    return lambda module, given, result: seen.update({
        f"{name}_in": given[0], f"{name}_out": result})

  hooks = [module.register_forward_hook(keep(name)) for name, module in (
      ("fc2", head.mlp.fc2), ("norm", head.layernorm),
      ("text", model.text_model.head))]
  images = torch.from_numpy(
      np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
  with torch.no_grad():
    out = model(input_ids=torch.from_numpy(ids), pixel_values=images)
  for hook in hooks:
    hook.remove()
  found = {
      "image_embeds": out.image_embeds,
      "text_embeds": out.text_embeds,
      "image_raw": out.vision_model_output.pooler_output,
      "text_raw": out.text_model_output.pooler_output,
      "image_pooled": seen["fc2_in"][:, 0],
      "image_residual": seen["norm_in"][:, 0],
      "text_pooled": seen["text_in"],
      "logits": out.logits_per_image,
  }
  return {name: value.numpy() for name, value in found.items()}


def stored(kind, config, model, pixels, ids, results):
  """All arrays of a case, by key."""
  return {
      "config": json.dumps({"model_type": kind} | config),
      "pixels": pixels,
      "token_ids": ids.astype(np.int32),
  } | results | {
      f"weights/{name}": value.detach().numpy()
      for name, value in model.named_parameters()}


def read(case):
  """The arrays of a case that are stored, by key."""
  with np.load(PATH) as oracle:
    return {key.removeprefix(f"{case}/"): oracle[key]
            for key in oracle if key.startswith(f"{case}/")}


def main():
  cases = {}
  for seed, (case, config) in enumerate(CONFIGS.items()):
    made = model_and_inputs(config, seed)
    cases[case] = stored("clip", config, *made, outputs(*made))
  made = siglip_and_inputs(SIGLIP, seed=len(CONFIGS))
  cases["siglip"] = stored("siglip", SIGLIP, *made, siglip_outputs(*made))
  np.savez_compressed(PATH, **{
      f"{case}/{key}": value for case, arrays in cases.items()
      for key, value in arrays.items()})


if __name__ == "__main__":
  main()
