from absl.testing import absltest
import jax
import numpy as np

from jaxcal.clip import layout
from tests.clip import tiny


class LayoutTest(absltest.TestCase):

  def test_axes_of_every_kind_of_tensor(self):
    linear = np.arange(6.0).reshape(2, 3)
    patches = np.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    tree = layout.from_torch_names({
        "text_projection.weight": linear,
        "text_model.embeddings.token_embedding.weight": linear,
        "text_model.final_layer_norm.weight": linear[0],
        "vision_model.pre_layrnorm.weight": linear[0],
        "vision_model.embeddings.patch_embedding.weight": patches,
        "vision_model.embeddings.class_embedding": linear[1],
        "text_model.encoder.layers.0.mlp.fc1.bias": linear[1],
        "logit_scale": np.array(1.5),
    })
    np.testing.assert_array_equal(
        tree["text_projection"]["kernel"], [[0, 3], [1, 4], [2, 5]])
    text, vision = tree["text_model"], tree["vision_model"]
    embedding = text["embeddings"]["token_embedding"]["embedding"]
    np.testing.assert_array_equal(embedding, linear)
    np.testing.assert_array_equal(text["final_layer_norm"]["scale"], [0, 1, 2])
    np.testing.assert_array_equal(vision["pre_layrnorm"]["scale"], [0, 1, 2])
    kernel = vision["embeddings"]["patch_embedding"]["kernel"]
    self.assertEqual(kernel.shape, (4, 5, 3, 2))
    self.assertEqual(kernel[1, 2, 0, 1], patches[1, 0, 1, 2])
    np.testing.assert_array_equal(
        text["encoder"]["layers"]["0"]["mlp"]["fc1"]["bias"], linear[1])
    self.assertEqual(tree["logit_scale"], 1.5)

  def test_there_and_back(self):
    params = tiny.params()
    tensors = layout.to_torch_names(params)
    for name, tensor in tensors.items():
      self.assertTrue(tensor.flags.c_contiguous, name)
    self.assertEqual(tensors["logit_scale"].shape, ())
    back = layout.from_torch_names(tensors)
    jax.tree.map(np.testing.assert_array_equal, back, params)

  def test_strange_names_come_through_and_buffers_do_not(self):
    tree = layout.from_torch_names({
        "text_model.embeddings.position_ids": np.arange(3),
        "vision_model.embeddings.position_ids": np.arange(3),
        "adapter.weight": np.zeros(3),
        "weight": np.zeros(2),
    })
    self.assertEqual(tree.keys(), {"adapter", "weight"})
    self.assertEqual(tree["adapter"]["kernel"].shape, (3,))


if __name__ == "__main__":
  absltest.main()
