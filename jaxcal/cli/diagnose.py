"""`jaxcal diagnose`: what regularisers would do to some classes; no images."""

from collections.abc import Mapping
import functools
import pathlib

from jaxcal import config as config_lib
from jaxcal import config_inputs
from jaxcal import config_methods
from jaxcal import config_record
from jaxcal import tasks
from jaxcal.adapt import methods as methods_lib
from jaxcal.adapt.prompt import methods as prompt_methods
from jaxcal.cli import config_files
from jaxcal.cli import experiment
from jaxcal.cli import output_files
from jaxcal.cli import printing
from jaxcal.cli import shared_flags
from jaxcal.clip import checkpoint
from jaxcal.data import load
from jaxcal.report import diagnosis

EXAMPLE = "jaxcal diagnose --config.data.name=digits,shades"
_ABOUT = """\
For the classes of each data set: the gradients of the regularisers of prompt
tuning, how far they agree in direction, how hard each pulls at its weight
(the effective weight), and how many pairs of classes lie beyond SoC's margin.
Class names and a model will do, or a file of text features: no image is read.
Writes diagnosis.html, diagnosis.md, diagnosis.jsonl and figures, and prints
the tables. Of all regularisers, or those of --config.method.name."""

_FEATURES = shared_flags.define_path(
    "features", None, "text features, in place of a model and class names: "
    ".npy, a row per class, of any norm")

FLAGS = ("config", "features", "output", "compilation_cache", "debug")
FIELDS = config_lib.field_names(
    "protocol", "model", "data.name", "data.class_names", "data.classes",
    "data.family", "data.template", "method", "memory_gb",
    without=("method.tuned", "method.adapter", "method.learning_rate",
             "method.weight_decay", "method.num_steps",
             "method.selection_fraction"))
help_text = functools.partial(
    experiment.help_text, _ABOUT, EXAMPLE, FLAGS, FIELDS)


def main() -> None:
  """Diagnoses the classes that the flags name."""
  config = experiment.checked_config()
  if "method.name" not in config_files.overrides():
    config.method.name = methods_lib.REGULARISED
  if config.method.context == "fpp":
    raise ValueError("--config.method.context is 'fpp', a context that images "
                     "choose, and there are none here; leave it out")
  methods = {data: config_methods.prompt_methods(config, data)
             for data in config.data.name}
  output = experiment.output_path({})
  if _FEATURES.value is not None:
    path = pathlib.Path(_FEATURES.value)
    found = [diagnosis.diagnose(path.stem, methods[config.data.name[0]],
                                diagnosis.read_features(path))]
    about = {"features": str(path)}
  else:
    model = config_inputs.load_model(config.model)
    found = [_of_classes(config, model, data, methods[data])
             for data in config.data.name]
    about = config_record.describe(config, model)
  output_files.take(output)
  printing.show(*diagnosis.write(found, output, about=about))


def _of_classes(
    config: config_lib.ExperimentConfig, model: checkpoint.Model, data: str,
    methods: Mapping[str, prompt_methods.PromptMethod]
) -> diagnosis.Diagnosis:
  """What is known of the classes of an image set."""
  names = load.class_names(
      data, names_file=config.data.class_names, classes=config.data.classes)
  prepared = tasks.prepare(
      config_inputs.task(config, model, names), num_images=1)
  return diagnosis.diagnose(
      load.name_of(data), methods, prepared.text_features, prepared)
