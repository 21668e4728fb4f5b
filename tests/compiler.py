"""Options with which compiling takes a third of the time; before jax is loaded.

Most of the tests' time goes into compiling, and most of compiling into
optimising.
"""

import importlib.metadata

OPTIONS: dict[str, int | bool] = {"xla_backend_optimization_level": 0}
# Gone since jaxlib 0.11.2; a process ends at a flag that it does not know.
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (
    0, 11):
  OPTIONS["xla_cpu_use_fusion_emitters"] = False


def flags() -> str:
  """The options as XLA_FLAGS takes them."""
  return " ".join(f"--{name}={str(value).lower()}"
                  for name, value in OPTIONS.items())
