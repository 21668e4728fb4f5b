"""Griffe extension: classes of fields are shown as they are called.

Their fields stand in the signature, and in the table of the docstring, rather
than one by one. What is not said twice: methods without a docstring, which
have that of a base class.
"""

from collections.abc import Iterator
from typing import Any

import griffe

# Functions of `jaxcal.config` that make a field of a default and a text.
_WITH_TEXT = ("_field", "_path")
_RECORDS = ("dataclass", "_frozen")  # in a decorator
_NAMED = ("kw_only", "_frozen")
_SHAPED = ("Bool", "Float", "Int", "Integer", "Key", "Num", "Shaped", "UInt8")


class Records(griffe.Extension):
  """Makes signatures of fields, and hides what is shown elsewhere."""

  def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
    """Goes over all classes, once it is known what each inherits from.

    Args:
      pkg: The package, with all of its modules.
      kwargs: Further arguments of griffe, of no use here.
    """
    del kwargs
    for one in _classes(pkg):
      for name in _described(one):
        one.members[name].public = False
      for member in one.members.values():
        if member.is_function and member.docstring is None:
          member.public = False
        elif member.is_attribute and _is_call(member.value, *_WITH_TEXT):
          text = str(member.value.arguments[1]).strip("'\"")
          member.docstring = griffe.Docstring(
              f"{text[:1].upper()}{text[1:]}.", parent=member)
    # The defaults of a base class are looked at for each that inherits them.
    for one in list(_classes(pkg)):
      if _is_record(one) and "__init__" not in one.members:
        one.set_member("__init__", griffe.Function(
            "__init__", parameters=griffe.Parameters(*_fields(one))))
    for one in _classes(pkg):
      for member in one.members.values():
        if member.is_attribute and _is_call(member.value, *_WITH_TEXT):
          member.value = _default(member.value)

  def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
    """Gives shapes of one axis, which were read as names, their quotes back.

    Args:
      obj: Function or attribute.
      kwargs: Further arguments of griffe, of no use here.
    """
    del kwargs
    if obj.is_function:
      for one in obj.parameters:
        _quote(one.annotation)
      _quote(obj.returns)
    elif obj.is_attribute:
      _quote(obj.annotation)


def _classes(module: griffe.Module) -> Iterator[griffe.Class]:
  for member in module.members.values():
    if member.is_alias:
      continue
    if member.is_class:
      yield member
    elif member.is_module:
      yield from _classes(member)


def _is_record(kind: griffe.Class) -> bool:
  """Whether its annotated attributes are what a call takes."""
  return any(
      _is_decorated(one, _RECORDS) or any(
          str(base).endswith("NamedTuple") for base in one.bases)
      for one in (kind, *kind.mro()))


def _is_decorated(kind: griffe.Class, texts: tuple[str, ...]) -> bool:
  return any(text in str(decorator.value) for decorator in kind.decorators
             for text in texts)


def _fields(kind: griffe.Class) -> list[griffe.Parameter]:
  """Fields of a class and of those that it inherits from, by their order."""
  found: dict[str, griffe.Parameter] = {}
  for one in (*reversed(kind.mro()), kind):
    how = (griffe.ParameterKind.keyword_only if _is_decorated(one, _NAMED)
           else griffe.ParameterKind.positional_or_keyword)
    for member in one.members.values():
      if (member.is_attribute and member.annotation is not None and
          "instance-attribute" in member.labels):
        found[member.name] = griffe.Parameter(
            member.name, annotation=member.annotation, kind=how,
            default=_default(member.value))
  return sorted(found.values(), key=lambda one: (
      one.kind is griffe.ParameterKind.keyword_only))


def _default(value: Any) -> Any:
  """What a field is if nothing is given, out of the call that makes it."""
  if _is_call(value, *_WITH_TEXT):
    return value.arguments[0]
  if _is_call(value, "_section"):
    return f"{value.arguments[0]}()"
  if not isinstance(value, griffe.ExprCall):
    return value
  given = {argument.name: argument.value for argument in value.arguments
           if isinstance(argument, griffe.ExprKeyword)}
  if "default_factory" in given:
    return f"{given['default_factory']}()"
  return given.get("default", None if "metadata" in given else value)


def _is_call(value: Any, *names: str) -> bool:
  return isinstance(value, griffe.ExprCall) and str(value.function) in names


def _described(kind: griffe.Class) -> list[str]:
  """Names of the attributes of its own that its docstring has a table of."""
  if kind.docstring is None:
    return []
  return [attribute.name for section in kind.docstring.parsed
          if section.kind is griffe.DocstringSectionKind.attributes
          for attribute in section.value if attribute.name in kind.members]


def _quote(expression: Any) -> None:
  """Puts quotes around what says the shape of an array, wherever it is."""
  if not isinstance(expression, griffe.Expr):
    return
  if isinstance(expression, griffe.ExprSubscript) and (
      str(expression.left) in _SHAPED) and isinstance(
          expression.slice, griffe.ExprTuple):
    kind, shape = expression.slice.elements
    text = str(shape).strip("'\"").replace("* ", "*")
    expression.slice.elements = [kind, f'"{text}"']
  for part in expression.iterate(flat=False):
    if part is not expression:
      _quote(part)
