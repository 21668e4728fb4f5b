r"""Makes oracle.npz: two tiny CLIPs and what transformers' PyTorch towers say.

  python -m tests.clip.make_oracle

Needs torch; made with transformers 5.23.0, torch 2.13.0, float32 on CPU. Keys:
CASE/config (config.json as text), CASE/weights/NAME (PyTorch names), and
CASE/pixels (normalised, channels last), CASE/token_ids, with the outputs
image_embeds, text_embeds (unit norm), image_pooled, text_pooled (before the
projections) and logits (images x prompts).
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


def model_and_inputs(config, seed):
  """A transformers CLIPModel with random numbers everywhere, and inputs."""
  import torch
  import transformers
  torch.manual_seed(seed)
  model = transformers.CLIPModel(transformers.CLIPConfig.from_dict(config))
  with torch.no_grad():
    for name, value in model.named_parameters():
      # Biases and norms too: at 0 and 1 they would hide mistakes.
      centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
      spread = 0.6 * value.shape[-1]**-0.5 if value.ndim > 1 else 0.3
      value.copy_(centre + spread * torch.randn(value.shape))
    model.logit_scale.fill_(2.0)
  rng = np.random.default_rng(seed)
  text, vision = config["text_config"], config["vision_config"]
  ids = prompts(rng, text, count=6)
  side = vision["image_size"]
  pixels = rng.standard_normal((4, side, side, 3), dtype=np.float32)
  return model.eval(), pixels, ids


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


def main():
  arrays = {}
  for seed, (case, config) in enumerate(CONFIGS.items()):
    model, pixels, ids = model_and_inputs(config, seed)
    arrays[f"{case}/config"] = json.dumps({"model_type": "clip"} | config)
    arrays[f"{case}/pixels"] = pixels
    arrays[f"{case}/token_ids"] = ids.astype(np.int32)
    for name, value in outputs(model, pixels, ids).items():
      arrays[f"{case}/{name}"] = value
    for name, value in model.named_parameters():
      arrays[f"{case}/weights/{name}"] = value.detach().numpy()
  np.savez_compressed(PATH, **arrays)


if __name__ == "__main__":
  main()
