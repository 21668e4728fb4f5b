"""How each method is trained: the recipes of two sources, by name.

"upstream" is each method's own repository, for training on base classes with 16
shots of each; "dor" is the recipe under which the paper on Dynamic Outlier
Regularisation compares them (Wang et al., ICML 2025), as far as its authors'
code shows it. They differ enough to move the numbers, so a result should say
which one it is of.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxcal.tuning import methods


class Recipe(NamedTuple):
  """One method's training.

  Attributes:
    learning_rate: Learning rate at the start of the schedule.
    num_epochs: The constant first one included; 0 where nothing is trained.
    batch_size: Images per step.
    num_context: Context vectors; 0 where a method learns none.
    from_words: Whether the context begins with "a photo of a" instead of random
      vectors.
    optimiser: Optimiser, "sgd", "adam" or "adamw".
    aggregation: Mean and standard deviation, in epochs, of the Gaussian that
      weighs the epochs' prompts; None to take the last ones.
  """

  learning_rate: float
  num_epochs: int
  batch_size: int
  num_context: int = 0
  from_words: bool = False
  optimiser: str = "sgd"
  aggregation: tuple[float, float] | None = None


RECIPES = {
    "upstream": {
        "coop": Recipe(.002, 200, 32, 4, True),
        "coop_class_specific": Recipe(.002, 200, 32, 16),
        "cocoop": Recipe(.002, 10, 1, 4, True),
        "kgcoop": Recipe(.002, 100, 128, 4, True),
        "prograd": Recipe(.002, 100, 32, 16, True),
        "maple": Recipe(.0035, 5, 4, 2, True),
        "promptsrc": Recipe(.0025, 20, 4, 4, True, aggregation=(15., 1.)),
        "taskres": Recipe(2e-3, 200, 256, optimiser="adam"),
        "clip_adapter": Recipe(.002, 200, 32),
        "tip_adapter": Recipe(0, 0, 256),
        "tip_adapter_f": Recipe(1e-3, 20, 256, optimiser="adamw"),
    },
    "dor": {
        "coop": Recipe(.002, 200, 32, 16),
        "coop_class_specific": Recipe(.002, 200, 32, 16),
        "cocoop": Recipe(.002, 10, 1, 4, True),
        "kgcoop": Recipe(.002, 200, 32, 4, True),
        "prograd": Recipe(.002, 100, 32, 16, True),
        "maple": Recipe(.0035, 5, 4, 2),
        "promptsrc": Recipe(.0025, 50, 4, 4, True, aggregation=(30., 30.)),
        "taskres": Recipe(2e-4, 200, 256, optimiser="adam"),
        "clip_adapter": Recipe(.002, 200, 32),
        # Not in that comparison: their own.
        "tip_adapter": Recipe(0, 0, 256),
        "tip_adapter_f": Recipe(1e-3, 20, 256, optimiser="adamw"),
    },
}

# Factor of the outlier term beside each base method's own loss, as published.
_DOR_WEIGHTS = {"coop": 8.0}
_DOR_WEIGHT = 2.0


def recipe(method: str, preset: str = "dor") -> Recipe:
  """The recipe of a method.

  Raises:
    ValueError: An unknown preset or method; lists the choices.
  """
  if preset not in RECIPES:
    raise ValueError(f"unknown preset {preset!r}; choose from: "
                     f"{', '.join(RECIPES)}.")
  if method not in RECIPES[preset]:
    raise ValueError(f"unknown method {method!r}; choose from: "
                     f"{', '.join(RECIPES[preset])}.")
  return RECIPES[preset][method]


def recipe_of(
    spec: methods.Spec,
    preset: str = "dor",
    *,
    num_epochs: int | None = None,
    learning_rate: float | None = None,
    batch_size: int | None = None,
) -> Recipe:
  """The recipe of a method with its context, and with other numbers.

  Args:
    spec: Method from `spec`.
    preset: Name of the recipes.
    num_epochs: Number of epochs, where anything is trained, as the others; the
      recipe's if None.
    learning_rate: Learning rate at the start, the recipe's if None.
    batch_size: Images per step, the recipe's if None.

  Raises:
    ValueError: See `recipe`.
  """
  found = recipe(spec.base_method, preset)._replace(
      num_context=spec.num_context)
  given: dict[str, Any] = {"num_epochs": num_epochs, "batch_size": batch_size,
                           "learning_rate": learning_rate}
  return found._replace(**{
      name: value for name, value in given.items()
      if value is not None and found.num_epochs})


def spec(
    base_method: str,
    preset: str = "dor",
    *,
    additions: Sequence[str] = (),
    num_context: int | None = None,
    class_position: str = "end",
    outlier_weight: float | None = None,
    cache_weight: float = 1.0,
    cache_sharpness: float = 1.0,
) -> methods.Spec:
  """A method with the numbers of a preset.

  Args:
    base_method: Name of what is trained, of `methods.METHODS`.
    preset: Name of the recipes.
    additions: Names of what is added to it, of `methods.ADDITIONS`.
    num_context: Number of context vectors, for methods that learn some; the
      recipe's if None.
    class_position: Position of the class name among them.
    outlier_weight: Factor of the outlier term, for methods with outliers; the
      published one if None.
    cache_weight: See `methods.Spec`, for methods that look the shots up.
    cache_sharpness: See `methods.Spec`, likewise.

  Raises:
    ValueError: An unknown preset or method; lists the choices.
  """
  methods.check(base_method, additions)
  plain = methods.Spec(base_method, tuple(additions))
  numbers = recipe(base_method, preset)
  count = numbers.num_context
  if count and num_context is not None:
    count = num_context
  found = plain._replace(
      num_context=count, from_words=numbers.from_words,
      class_position=class_position)
  # What a method does not use is not a part of its identity.
  if plain.outliers is not None:
    published = _DOR_WEIGHTS.get(base_method, _DOR_WEIGHT)
    found = found._replace(outlier_weight=(
        published if outlier_weight is None else outlier_weight))
  if plain.kind.cached:
    found = found._replace(
        cache_weight=cache_weight, cache_sharpness=cache_sharpness)
  return found
