"""Methods with a state in several orders of the images: means over these."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxcal import stages
from jaxcal.report import resampled
from jaxcal.report import seeds
from jaxcal.report import tables

Row = resampled.Row

HEADING = "Over orders of the images"
# Names of rows that are of one order alone.
_OF_ONE = ("order_seed",)


def groups(
    through: Mapping[str, stages.Stages]) -> dict[stages.Stages, list[str]]:
  """Names of predictions by what they have in common but for the order.

  Args:
    through: Stages of the predictions by name.

  Returns:
    Names by stages, in the order in which each group comes first. Predictions
    of one order alone are by themselves; and so are all, where there are some
    of the same method without an order.
  """
  alike: dict[stages.Stages, list[str]] = {}
  for name, one in through.items():
    alike.setdefault(one._replace(order_seed=None), []).append(name)
  found: dict[stages.Stages, list[str]] = {}
  for of, names in alike.items():
    several = len(names) > 1 and all(
        through[name].order_seed is not None for name in names)
    found |= {of: names} if several else {
        through[name]: [name] for name in names}
  return found


def row(
    rows: Sequence[Row], sampled: Sequence[resampled.Resampled], level: float
) -> Row:
  """Means over the orders of a method on an image set.

  Args:
    rows: Rows of each order.
    sampled: Scores of each order on the same resamples.
    level: Level of the intervals.

  Returns:
    A row with what the rows have in common, the means of their other numbers,
    `stages.ORDERS`, and the scores as `seeds.pool` has them. The ends of other
    intervals are means, too: no narrower than those of the mean.
  """
  found: Row = {}
  for name, value in rows[0].items():
    values: list[Any] = [one.get(name) for one in rows]
    if all(one == value for one in values):
      found[name] = value
    elif name not in _OF_ONE and all(
        isinstance(one, (int, float)) for one in values):
      found[name] = sum(values) / len(values)
  return found | {stages.ORDERS: [one["order_seed"] for one in rows],
                  **seeds.pool(sampled, level)}


def difference_row(
    ours: Sequence[resampled.Resampled],
    theirs: Sequence[resampled.Resampled], level: float
) -> Row:
  """Paired differences of means over orders, see `seeds.difference_row`.

  Of a single order on both sides that of `resampled.difference_row`; so scores
  and numbers of tests are the same in all rows.
  """
  if len(ours) == len(theirs) == 1:
    return resampled.difference_row(ours[0], theirs[0], level)
  found = seeds.difference_row(ours, theirs, level)
  return {name: value for name, value in found.items()
          if not name.startswith("gap_difference")}


def of_several(rows: Sequence[Row]) -> list[Row]:
  """The rows that are means over orders."""
  return [one for one in rows if stages.ORDERS in one]


def pictured(rows: Sequence[Row], by_order: Sequence[Row]) -> list[Row]:
  """The rows, of means over orders those of the first order in their place.

  Args:
    rows: Rows, means among them.
    by_order: Rows of each order.
  """
  known = {(one["data"], tables.method(one)): one for one in by_order}
  return [known.get((one["data"], stages.labels(one)[0]), one) for one in rows]


def remarks(rows: Sequence[Row]) -> list[str]:
  """A sentence on which rows are means over orders, and over which.

  Args:
    rows: Rows of all sets.
  """
  by_orders: dict[tuple[int, ...], list[str]] = {}
  for one in of_several(rows):
    names = by_orders.setdefault(tuple(one[stages.ORDERS]), [])
    if tables.method(one) not in names:
      names.append(tables.method(one))
  return [f"{', '.join(names)}: means over {len(orders)} orders of the images, "
          f"those of the seeds {', '.join(map(str, orders))}; brackets, bold "
          "numbers and p-values are for these orders. Pictures are of the "
          "first of them." for orders, names in by_orders.items()]


def blocks(rows: Sequence[Row], level: float) -> list[str]:
  """Heading, table and what it shows; nothing without several orders.

  Args:
    rows: Rows of all sets.
    level: Level of the intervals.
  """
  several = of_several(rows)
  if not several:
    return []
  return [f"{HEADING}:", tables.markdown(several, tables.OVER_ORDERS),
          legend(level)]


def legend(level: float) -> str:
  """What the columns of means over orders mean."""
  return seeds.legend(level, "orders")
