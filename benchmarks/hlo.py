"""What a program that was compiled for a TPU does, read off its text.

The compiler's own analysis counts the body of a loop once, and what lies in the
chip's small memory like what lies in its large one. Here loops count as often
as they run, and traffic is that of the large memory (HBM) alone, in whole tiles
as the arrays lie there.
"""

from collections.abc import Iterator
import math
import re
from typing import NamedTuple

_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_OPERATION = re.compile(r" *(ROOT )?%(\S+) = ")
_COMPUTATION = re.compile(r"(ENTRY )?%(\S+) \(.*\{$")
_CALLED = re.compile(r"(\w+)=%([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_PRECISION = re.compile(r"operand_precision=\{(\w+),(\w+)\}")
_MEMORY = re.compile(r"S\([1-9]\d*\)")
_CUSTOM = re.compile(r'custom_call_target="(\w+)"')

_COLLECTIVES = (
    "all-gather", "all-reduce", "all-to-all", "collective-broadcast",
    "collective-permute", "ragged-all-to-all", "reduce-scatter")
# What moves nothing by itself: names of what is there, and the ends of copies
# whose beginnings were counted.
_FREE = frozenset({
    "add-dependency", "after-all", "all-gather-done", "all-reduce-done",
    "async-done", "async-update", "bitcast", "collective-permute-done",
    "constant", "copy-done", "domain", "dynamic-slice-done",
    "get-tuple-element", "opt-barrier", "parameter", "partition-id",
    "replica-id", "slice-done", "tuple"})
# Of the first operand they read as much as they give, not all of it.
_PARTIAL = frozenset({"dynamic-slice", "gather", "slice"})
_FREE_CALLS = frozenset({
    "AllocateBuffer", "AssumeGatherIndicesInBound", "ConcatBitcast",
    "Sharding"})
_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "f16": 16, "token": 0}


class Operation(NamedTuple):
  """One line of a computation.

  Attributes:
    shape: Shape of the result, with its layout.
    kind: Name of the operation.
    operands: Names of the operands, or the number of a parameter.
    rest: Text behind the operands.
    is_root: Whether it is the result of its computation.
  """

  shape: str
  kind: str
  operands: tuple[str, ...]
  rest: str
  is_root: bool


class Module(NamedTuple):
  """A compiled program: its computations, and the name of the first one."""

  computations: dict[str, dict[str, Operation]]
  entry: str


class Traffic(NamedTuple):
  """Bytes that one device reads and writes, and what is not known of them.

  Attributes:
    bytes: Bytes between a device and its large memory in one call.
    unknown_loops: Loops whose length is not written down; they count once.
  """

  bytes: float
  unknown_loops: int


def parse(text: str) -> Module:
  """Reads `compiled.as_text()`.

  Raises:
    ValueError: It is no text of a compiled program.
  """
  computations: dict[str, dict[str, Operation]] = {}
  entry, current = "", {}
  for line in text.splitlines():
    begun = _COMPUTATION.match(line)
    if begun:
      current = computations.setdefault(begun[2], {})
      entry = begun[2] if begun[1] else entry
      continue
    found = _OPERATION.match(line)
    if found:
      current[found[2]] = _operation(line[found.end():], bool(found[1]))
  if not entry:
    raise ValueError("expected the text of a compiled program, with an ENTRY "
                     f"computation, got {text[:80]!r}")
  return Module(computations, entry)


def collectives(module: Module) -> dict[str, int]:
  """How often each kind of collective is written down."""
  found: dict[str, int] = {}
  for operation in _everything(module):
    kind = operation.kind.removesuffix("-start")
    if kind in _COLLECTIVES:
      found[kind] = found.get(kind, 0) + 1
  return found


def products(module: Module) -> dict[str, int]:
  """How often a product of floating point numbers asks for which precision.

  Returns:
    Numbers by the operands' types and what is asked for, as in "f32 f32,
    highest"; "default" where nothing is.
  """
  found: dict[str, int] = {}
  for operations in module.computations.values():
    for operation in operations.values():
      if operation.kind not in ("convolution", "dot"):
        continue
      types = [_arrays(operations[name].shape)[0][0]
               for name in operation.operands]
      if not all(one.startswith(("f", "bf")) for one in types):
        continue
      asked = _PRECISION.search(operation.rest)
      names = sorted(set(asked.groups())) if asked else ["default"]
      name = f"{' '.join(types)}, {' '.join(names)}"
      found[name] = found.get(name, 0) + 1
  return found


def traffic(module: Module) -> Traffic:
  """Bytes to and from the large memory in one call, loops in full."""
  return _traffic(module, module.entry)


def loops(module: Module) -> list[int | None]:
  """How often each loop runs; None where that is not written down."""
  return [_length(module, operation) for operation in _everything(module)
          if operation.kind == "while"]


def _operation(line, is_root):
  end = _closing(line[1:], 1) + 2 if line[0] == "(" else line.index(" ")
  shape, (kind, _, line) = line[:end], line[end + 1:].partition("(")
  end = _closing(line, 1)
  inside = re.sub(r"/\*.*?\*/", "", line[:end])
  operands = tuple(re.findall(r"%([^\s,()]+)", inside)) or (inside,)
  return Operation(shape, kind, operands, line[end:], is_root)


def _closing(line, depth):
  """Where that many open brackets are closed."""
  for place, letter in enumerate(line):
    depth += (letter == "(") - (letter == ")")
    if not depth:
      return place
  return len(line)


def _everything(module) -> Iterator[Operation]:
  for operations in module.computations.values():
    yield from operations.values()


def _arrays(shape) -> list[tuple[str, list[int], str]]:
  return [(kind, [int(size) for size in sizes.split(",") if size], layout or "")
          for kind, sizes, layout in _ARRAY.findall(shape)]


def _bytes(shape) -> float:
  """Bytes in the large memory, in whole tiles."""
  return sum(_bytes_of(*one) for one in _arrays(shape))


def _bytes_of(kind, sizes, layout):
  if _MEMORY.search(layout):
    return 0
  order = [int(axis) for axis in layout.split(":")[0].split(",") if axis]
  tile = re.search(r":T\(([\d,]+)\)", layout)
  sizes = [sizes[axis] for axis in order] if order else sizes[::-1]
  if tile and sizes:
    sides = [int(side) for side in tile[1].split(",")][::-1]
    sizes = [math.ceil(size / side) * side for size, side in zip(
        sizes, sides + [1] * len(sizes))] + sides[len(sizes):]
  bits = _BITS.get(kind) or (
      0 if kind in _BITS else int(re.sub(r"\D", "", kind) or 8))
  return math.prod(sizes) * bits / 8


def _traffic(module, name) -> Traffic:
  total, unknown = 0.0, 0
  operations = module.computations[name]
  for operation in operations.values():
    if operation.kind == "while":
      length = _length(module, operation)
      called = _called(operation)
      parts = [_traffic(module, called[one]) for one in ("condition", "body")]
      total += (length or 1) * sum(part.bytes for part in parts)
      unknown += (length is None) + sum(part.unknown_loops for part in parts)
    elif operation.kind == "conditional":
      branches = [_traffic(module, one) for one in _branches(operation)]
      total += max(branch.bytes for branch in branches)
      unknown += sum(branch.unknown_loops for branch in branches)
    elif operation.kind in ("call", "async-start"):
      called = _called(operation)
      part = _traffic(module, called.get("to_apply") or called["calls"])
      total, unknown = total + part.bytes, unknown + part.unknown_loops
    else:
      total += _moved(module, operations, operation)
  return Traffic(total, unknown)


def _branches(operation):
  listed = _BRANCHES.search(operation.rest)
  if listed:
    return re.findall(r"%([\w.\-]+)", listed[1])
  called = _called(operation)
  return [called["true_computation"], called["false_computation"]]


def _moved(module, operations, operation):
  """Bytes that an operation reads and writes."""
  kind, shape = operation.kind, operation.shape
  if kind in _FREE or kind == "custom-call" and (
      _CUSTOM.search(operation.rest)[1] in _FREE_CALLS):
    return 0
  if kind == "copy-start":  # (to, from, ...)
    return sum(_bytes_of(*one) for one in _arrays(shape)[:2])
  if kind == "slice-start":  # (from, to, ...)
    source, part = _arrays(shape)[:2]
    return _part(source, part) + _bytes_of(*part)
  sources = [operations[name].shape for name in operation.operands
             if name in operations]
  if kind in _PARTIAL:
    return _part(_arrays(sources[0])[0], _arrays(shape)[0]) + _bytes(shape)
  if kind == "dynamic-update-slice":
    return 2 * _bytes(sources[1])
  if kind != "fusion":
    return sum(map(_bytes, sources)) + _bytes(shape)
  body = module.computations[_called(operation)["calls"]]
  return _written(body, module, _arrays(shape)) + sum(
      _read(body, module, number, source)
      for number, source in enumerate(sources))


def _read(body, module, number, source):
  """Bytes that a fused computation reads of an operand."""
  own = next(name for name, one in body.items()
             if one.kind == "parameter" and one.operands == (str(number),))
  return min(_bytes(source), _read_of(body, module, own, source))


def _read_of(body, module, name, source):
  total = 0.0
  for other, operation in body.items():
    if name not in operation.operands:
      continue
    first = operation.operands[0] == name
    if operation.kind == "bitcast":
      total += _read_of(body, module, other, source)
    elif operation.kind in _PARTIAL and first:
      total += _part(_arrays(source)[0], _arrays(operation.shape)[0])
    elif operation.kind == "fusion":
      inner = module.computations[_called(operation)["calls"]]
      total += sum(_read(inner, module, number, source)
                   for number, one in enumerate(operation.operands)
                   if one == name)
    elif operation.kind != "dynamic-update-slice" or not first:
      return _bytes(source)
  return total


def _written(body, module, arrays):
  """Bytes that a fused computation writes; in place only what changes."""
  name = next(name for name, one in body.items() if one.is_root)
  if body[name].kind == "tuple":
    return sum(_written_by(body, module, one, array)
               for one, array in zip(body[name].operands, arrays))
  return _written_by(body, module, name, arrays[0])


def _written_by(body, module, name, array):
  operation = body[name]
  if operation.kind == "bitcast":
    return _written_by(body, module, operation.operands[0], array)
  if operation.kind == "fusion":
    return _written(module.computations[_called(operation)["calls"]], module,
                    [array])
  if operation.kind == "dynamic-update-slice":
    update = _arrays(body[operation.operands[1]].shape)[0]
    return _part(array, update)
  return _bytes_of(*array)


def _part(source, part):
  """Bytes of a part of an array, where the array lies in the large memory."""
  if not _bytes_of(*source):
    return 0
  kind, (_, sizes, layout) = source[0], part
  return min(_bytes_of(*source),
             _bytes_of(kind, sizes, _MEMORY.sub("", layout)))


def _called(operation) -> dict[str, str]:
  """Names of the computations that an operation runs, by their roles."""
  return dict(_CALLED.findall(operation.rest))


def _length(module, loop) -> int | None:
  """How often a loop runs: its counter begins at 0 and is below a constant."""
  condition = module.computations[_called(loop)["condition"]]
  root = next(one for one in condition.values() if one.is_root)
  bounds = [condition[name] for name in root.operands if name in condition
            and condition[name].kind == "constant"]
  if root.kind != "compare" or len(bounds) != 1 or (
      "direction=LT" not in root.rest):
    return None
  return int(bounds[0].operands[0])
