"""Every command gives the image tower its share of the budget."""

from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import pytest

from jaxcal import memory
from jaxcal.features import encoding
from tests.cli import command

_TUNE = ("tune", "--config=dor_base_to_new", "--config.data.name=digits",
         "--config.data.limit=10", "--config.tune.num_shots=1",
         "--config.tune.num_seeds=1", "--config.tune.num_epochs=1",
         "--config.tune.num_context=4", "--config.tune.name=kgcoop",
         "--config.tune.dor=without", "--config.metrics.num_resamples=20")
_FIT = ("posterior", "fit", "--config=bayesvlm", "--num_pairs=4")


class MemoryTest(parameterized.TestCase):

  @parameterized.parameters(
      ("--output", ("evaluate", *command.SMALL,
                    "--config.method.name=zero_shot")),
      ("--store", ("features", *command.small("features"),
                   "--config.data.limit=2")),
      ("--output", _TUNE), ("--config.posterior.folder", _FIT))
  @pytest.mark.slow
  def test_of_the_budget_that_is_asked_for(self, flag, given):
    with mock.patch.object(
        encoding, "image_encoder", wraps=encoding.image_encoder) as encoder:
      status, _, error = command.here(
          *given, "--config.memory_gb=0.5",
          f"{flag}={self.create_tempdir().full_path}")
    self.assertEqual(status, 0, error)
    self.assertNotEmpty(encoder.call_args_list)
    asked = {call.kwargs["max_bytes"] for call in encoder.call_args_list}
    self.assertEqual(asked, {memory.shares(2**29).image_tower})


if __name__ == "__main__":
  absltest.main()
