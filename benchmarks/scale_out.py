"""Several processes on loopback: their numbers, and what becomes of a kill.

Every command that goes over several processes is run by one, by two and by four
processes of two virtual devices each, with few images of the shipped testbed.
Then the first or the last process is killed in the middle of the work, and the
same commands are given again. What is compared are all arrays that a command
leaves behind; what is shown of a kill is how the other processes ended.

  python -m benchmarks.scale_out [--commands tune ...] [--processes 2 4]

Virtual devices on one machine show that numbers, files and endings are right.
They show no gain in time, and nothing of a network.
"""

import argparse
from collections.abc import Sequence
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import numpy as np
from safetensors import numpy as safetensors

from benchmarks import timing
from jaxcal.features import store as stores

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_DEVICES = 2  # virtual ones of each process
_PATIENCE = 900  # seconds for what is to happen
# Logits are up to about 100, sums of curvature about 1.
_TOLERANCE = 1e-5
# JAX's own patience with heartbeats, and the time for words.
_BOUND = 90


class Case(NamedTuple):
  """A command and when it is killed.

  Attributes:
    words: Words of the command line.
    flag: Flag of the folder that it writes to.
    marker: Pattern of files in that folder, whose first one says that the work
      is under way.
    table: Words of its table, which one process prints.
  """

  words: Sequence[str]
  flag: str
  marker: str
  table: str


_EVALUATE = ("--config=configs/quickstart.py", "--config.data.name=digits",
             "--config.data.limit=80", "--config.views.number=8",
             "--config.method.selection_fraction=0.25",
             "--config.batch_size=1")
_ROWS = ("--config.metrics.num_resamples=20",)
CASES = {
    "evaluate": Case(
        ("evaluate", *_EVALUATE, *_ROWS, "--config.method.name=soc"),
        "--output", "predictions/*/parts-*/0*.npz", "| digits"),
    "sweep": Case(
        ("sweep", *_EVALUATE, *_ROWS, "--sweep=method.name=tpt,soc"),
        "--output", "predictions/*/parts-*/0*.npz", "| digits"),
    "features": Case(
        ("features", "--config=configs/quickstart.py",
         "--config.data.name=digits", "--config.data.limit=120",
         "--config.views.number=16", "--config.batch_size=2",
         "--chunk_size=4"),
        "--store", "digits/*/0*", ""),
    "posterior fit": Case(
        ("posterior", "fit", "--config=configs/bayesvlm.py",
         "--num_pairs=96", "--candidates=12", "--config.batch_size=2"),
        "--config.posterior.folder", "work/sums.npz", "| image "),
    "tune": Case(
        ("tune", "--config=configs/dor_base_to_new.py",
         "--config.data.name=shapes,digits", "--config.data.limit=20",
         "--config.tune.num_shots=2", "--config.tune.num_seeds=2",
         "--config.tune.num_epochs=20", "--config.tune.num_context=4",
         "--config.tune.num_outliers=50", "--config.tune.name=kgcoop", *_ROWS),
        "--output", "tuned/*/*/state-*.npz", "| kgcoop"),
}


class Ending(NamedTuple):
  """How a process ended.

  Attributes:
    status: Exit status; negative for a signal.
    seconds: Seconds since the start, or since the kill of another one.
    printed: Text that it wrote to standard output.
    said: Text that it wrote to standard error.
  """

  status: int | None
  seconds: float
  printed: str
  said: str

  @property
  def last_line(self) -> str:
    lines = self.said.strip().splitlines()
    return lines[-1] if lines else ""


def run(case: Case, folder: pathlib.Path, count: int, cache: pathlib.Path,
        victim: int | None = None) -> list[Ending]:
  """The ends of `count` processes of a command, of which one may be killed."""
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    port = probe.getsockname()[1]
  environment = os.environ | {
      "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(_DEVICES),
      "JAX_COMPILATION_CACHE_DIR": str(cache),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
  logs = folder.with_name(f"{folder.name}.logs")
  shutil.rmtree(logs, ignore_errors=True)
  logs.mkdir()
  started = []
  for number in range(count):
    several = [] if count == 1 else [
        f"--coordinator=localhost:{port}", f"--num_processes={count}",
        f"--process_id={number}"]
    with (open(logs / f"{number}.out", "w", encoding="utf-8") as out,
          open(logs / f"{number}.err", "w", encoding="utf-8") as err):
      started.append(subprocess.Popen(
          [sys.executable, "-m", "jaxcal", *case.words,
           f"{case.flag}={folder}", *several], cwd=_ROOT, env=environment,
          stdout=out, stderr=err))
  since = time.monotonic()
  if victim is not None:
    _wait_for(lambda: any(folder.glob(case.marker)) or any(
        one.poll() is not None for one in started))
    started[victim].send_signal(signal.SIGKILL)
    since = time.monotonic()
  seconds: dict[int, float] = {}
  _wait_for(lambda: _ended(started, since, seconds))
  for one in started:
    if one.poll() is None:  # it hangs
      one.kill()
  ends = lambda: [Ending(
      started[number].returncode if number in seconds else None,
      seconds.get(number, float(_PATIENCE)),
      (logs / f"{number}.out").read_text("utf-8"),
      (logs / f"{number}.err").read_text("utf-8"))
                  for number in range(count)]
  if victim is not None:  # last words come after the end
    _wait_for(lambda: all(
        end.last_line.startswith("jaxcal:") for end in ends()), 20)
  return ends()


def _ended(started, since, seconds):
  """Whether all have ended; notes when each did."""
  for number, one in enumerate(started):
    if number not in seconds and one.poll() is not None:
      seconds[number] = time.monotonic() - since
  return len(seconds) == len(started)


def _wait_for(happened, patience=_PATIENCE):
  until = time.monotonic() + patience
  while not happened() and time.monotonic() < until:
    time.sleep(0.02)


def arrays(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """All numbers that a command leaves behind, by file and name."""
  found = {}
  for path in sorted(folder.rglob("*")):
    name = path.relative_to(folder)
    if {"features", "digests", "work"} & set(name.parts) or not path.is_file():
      continue
    if path.suffix == ".npz" and "digests" not in path.name:
      with np.load(path) as stored:
        found |= {f"{name}: {key}": stored[key] for key in stored.files}
    elif path.suffix == ".safetensors":
      found |= {f"{name}: {key}": value
                for key, value in safetensors.load_file(path).items()}
    elif path.name == "manifest.json" and path.parent != folder:
      store = stores.open_store(path.parent)
      found |= dict(zip((f"{name}: features", f"{name}: pooled"), stores.read(
          store, range(store.manifest.num_images))))
  return found


def difference(found, expected) -> float | None:
  """Largest difference of all numbers, of those above 1 relative to them.

  None where other files or arrays are there.
  """
  if found.keys() != expected.keys() or not found:
    return None
  worst = 0.0
  for name, value in expected.items():
    if value.shape != found[name].shape or value.dtype != found[name].dtype:
      return None
    if value.dtype.kind == "f":
      gap = np.abs(value.astype(float) - found[name])
      worst = max(worst, float(np.nanmax(
          gap / np.maximum(1, np.abs(value)), initial=0)))
    elif not np.array_equal(value, found[name]):
      return None
  return worst


def rehearse(name: str, counts: Sequence[int], scratch: pathlib.Path):
  """Rows of a command: undisturbed, and after each kill."""
  case, cache = CASES[name], scratch / "cache"
  own = scratch / name.replace(" ", "_")
  whole, = run(case, own.with_name(f"{own.name}-1"), 1, cache)
  assert whole.status == 0, whole.said
  expected = arrays(own.with_name(f"{own.name}-1"))
  for count in counts:
    for victim in (None, 0, count - 1):  # the first one coordinates
      folder = own.with_name(f"{own.name}-{count}-{victim}")
      ends = run(case, folder, count, cache, victim)
      row = {"command": name, "processes": count,
             "killed": "-" if victim is None else victim}
      others = [end for number, end in enumerate(ends) if number != victim]
      row |= {
          "exits": " ".join(str(end.status) for end in others),
          "seconds": max(end.seconds for end in others),
          "said": None if victim is None else _said(others, victim),
          "last_line": others[-1].last_line if victim is not None else ""}
      if victim is not None:
        ends = run(case, folder, count, cache)
      row |= {
          "rerun": " ".join(str(end.status) for end in ends)
                   if victim is not None else "",
          "tables": sum(case.table in end.printed for end in ends)
                    if case.table else None,
          "difference": difference(arrays(folder), expected)}
      yield row
      for path in (folder, folder.with_name(f"{folder.name}.logs")):
        shutil.rmtree(path)


def _said(others, victim):
  """Whether all others say who is gone, that it is kept, and what to do."""
  return all(
      f"process {victim} is gone" in end.last_line and
      "is kept; start all processes" in end.last_line for end in others)


def _shown(rows):
  return timing.table([{name: value for name, value in row.items()
                        if name not in ("last_line", "source")}
                       for row in rows])


def claims_of(rows):
  gaps = [np.inf if row["difference"] is None else row["difference"]
          for row in rows]
  killed = [row for row in rows if row["killed"] != "-"]
  found = [timing.Claim("largest difference to one process", max(gaps),
                        ceiling=_TOLERANCE),
           timing.Claim("tables printed, at most", max(
               row["tables"] or 1 for row in rows), ceiling=1)]
  if killed:
    found += [
        timing.Claim("seconds until all have ended", max(
            row["seconds"] for row in killed), ceiling=_BOUND),
        timing.Claim("share of kills that all others put into words", float(
            np.mean([row["said"] for row in killed])), floor=1)]
  return found


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--commands", nargs="+", default=list(CASES),
                      choices=list(CASES))
  parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
  args = parser.parse_args()
  source, path = timing.environment()["source"], timing.path_of("scale_out")
  rows = []
  if path.exists():  # what is not rehearsed anew keeps its rows
    rows = [row for row in json.loads(path.read_text("utf-8"))["rows"]
            if row["command"] not in args.commands or
            row["processes"] not in args.processes]
  with tempfile.TemporaryDirectory() as scratch:
    for name in args.commands:
      for row in rehearse(name, args.processes, pathlib.Path(scratch)):
        rows.append({**row, "source": source[:12]})
        print(_shown([row]), row["last_line"], sep="\n", flush=True)
        rows.sort(key=lambda row: (list(CASES).index(row["command"]),
                                   row["processes"]))
        claims = claims_of(rows)
        timing.write("scale_out", {
            "devices": f"{_DEVICES} virtual ones of each process, on one "
                       "machine", "rows": rows}, claims)
  print(_shown(rows))
  timing.finish(claims)


if __name__ == "__main__":
  main()
