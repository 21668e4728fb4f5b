"""jaxcal: can the confidence of a CLIP-style model be trusted?

Test-time prompt tuning, few-shot tuning, Bayesian posteriors and recalibration
of vision-language models in JAX, and their calibration with error bars. From
the logits and labels of any classifier to its scores:

  import jaxcal
  print(jaxcal.evaluate(logits, labels))

From features of images and classes to what methods make of them:

  task = jaxcal.Task(text_features, 100.0)
  methods = {"zero_shot": jaxcal.ZeroShot(), "tda": jaxcal.Tda()}
  predictions = jaxcal.predict(methods, task, image_features, labels=labels)
  print(jaxcal.evaluate(predictions))

From images, with the small CLIP that ships with the package, in a shell:

  jaxcal evaluate --config=quickstart

The rooms, in the order in which data passes through them:

  clip           a checkpoint becomes functions from arrays to features
  data           files become batches of views
  testbed        a small CLIP and its image sets, shipped with the package
  features       what the image tower saw, kept on disk
  losses         entropies and regularisers, pure functions of arrays
  adapt          test-time adaptation: prompt tuning, modes, votes, caches
  tuning         few-shot tuning of prompts and adapters
  posterior      Laplace posteriors over the last projections
  predictions    logits, labels and what was run, in memory and on disk
  recalibration  what is fitted to logits and labels after training
  conformal      sets of classes with a promised coverage
  metrics        calibration errors, scores and their intervals
  report         tables, figures and pages
  storage        files that appear whole or not at all
  cli            the `jaxcal` command, also `python -m jaxcal`

Everything is imported when it is first used: `import jaxcal` loads not even
JAX. `dir(jaxcal)` lists what there is.
"""

from jaxcal import lazy

__version__ = "0.2.0"

# Name: module, and attribute there; None where the name stands for the module.
_EXPORTS = {
    **{name: (f"jaxcal.{name}", None) for name in (
        "adapt", "clip", "compilation_cache", "config", "config_file",
        "conformal", "data", "features", "listing", "losses", "metrics",
        "posterior", "predictions", "printing", "progress", "recalibration",
        "report", "storage", "testbed", "tuning")},
    "register_dataclass": ("jaxcal.pytrees", "register_dataclass"),
    "Conventions": ("jaxcal.report.scores", "Conventions"),
    "evaluate": ("jaxcal.report.summary", "evaluate"),
    "Predictions": ("jaxcal.predictions", "Predictions"),
    "RECALIBRATORS": ("jaxcal.recalibration.calibrators", "RECALIBRATORS"),
    "Temperature": ("jaxcal.recalibration.temperature", "Temperature"),
    "recalibrate": ("jaxcal.recalibration.predicted", "recalibrate"),
    "conformal_sets": ("jaxcal.conformal.predicted", "conformal_sets"),
    "load": ("jaxcal.tasks", "load"),
    "load_images": ("jaxcal.data.load", "images"),
    "load_pairs": ("jaxcal.data.load", "pairs"),
    "predict": ("jaxcal.run", "predict"),
    "task_of": ("jaxcal.tasks", "task_of"),
    "METHODS": ("jaxcal.adapt.methods", "METHODS"),
    **{name: ("jaxcal.adapt.base", name) for name in (
        "Output", "Task", "TestTimeMethod", "episodic", "from_logits")},
    **{name: ("jaxcal.adapt.prompt.methods", name) for name in (
        "ATpt", "ATptInverted", "CTpt", "CTptTwoStep", "OTpt", "OTptPublished",
        "Regularised", "Soc", "SocQuantile", "Tpt", "ZeroShot")},
    "RTpt": ("jaxcal.adapt.prompt.reliability", "RTpt"),
    "Rlcf": ("jaxcal.adapt.prompt.rewards", "Rlcf"),
    "DynaPrompt": ("jaxcal.adapt.prompt.dynamic", "DynaPrompt"),
    "Ttl": ("jaxcal.adapt.low_rank", "Ttl"),
    "Dmn": ("jaxcal.adapt.memory", "Dmn"),
    "DmnWeak": ("jaxcal.adapt.memory", "DmnWeak"),
    "Dpe": ("jaxcal.adapt.prototypes", "Dpe"),
    "Ecalp": ("jaxcal.adapt.graph", "Ecalp"),
    "Mta": ("jaxcal.adapt.modes", "Mta"),
    "BoostAdapter": ("jaxcal.adapt.cache", "BoostAdapter"),
    "OnZeta": ("jaxcal.adapt.classifier", "OnZeta"),
    "Tda": ("jaxcal.adapt.cache", "Tda"),
    "Tps": ("jaxcal.adapt.shifts", "Tps"),
    "Zero": ("jaxcal.adapt.votes", "Zero"),
}

__all__ = list(_EXPORTS)

__getattr__, __dir__ = lazy.attributes(__name__, _EXPORTS)
