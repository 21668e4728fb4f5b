"""MkDocs hook: cells of tables that begin with a number are kept on a line.

An interval that is broken between its ends is hard to read; a table that
becomes too wide for a window by that has a scroll bar.
"""

import re

# A number perhaps with an interval, a spread or a unit.
_NUMBER = re.compile(
    r"<td(?P<align>[^>]*)>(?P<text>(?:<strong>)?[+-]?[\d.][^<]{0,40}"
    r"(?:</strong>)?)</td>")


def on_page_content(html: str, **kwargs: object) -> str:
  """A page with its cells of numbers marked, for site.css.

  Args:
    html: Content of the page.
    kwargs: Further arguments of MkDocs, of no use here.
  """
  del kwargs
  return _NUMBER.sub(
      r'<td class="number"\g<align>>\g<text></td>', html)
