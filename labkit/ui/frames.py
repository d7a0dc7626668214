"""Data frames as a reader wants them: thousands set apart, three digits, names to the left and numbers to the right."""

from typing import TYPE_CHECKING, Any

from labkit.ui import units
from labkit.ui.markup import Html

if TYPE_CHECKING:
    import pandas as pd


def tabled(frame: "pd.DataFrame") -> tuple[str, Html]:
    """The frame as plain text and as an HTML table, whose class says what a frame without an index begins with.

    `named` begins with a column of names, `counted` with one of numbers. Every cell is escaped.
    """
    import pandas as pd

    has_index = not isinstance(frame.index, pd.RangeIndex)
    if frame.index.name is not None:  # in the corner, not in a row of its own
        frame = frame.rename_axis(index=None, columns=str(frame.index.name))
    form: dict[str, Any] = {
        "index": has_index,
        "formatters": dict.fromkeys(frame.select_dtypes("integer").columns, units.count),
        "float_format": units.number,
        "na_rep": units.MISSING,
    }
    begins_with = "counted" if frame.dtypes.map(pd.api.types.is_numeric_dtype).head(1).all() else "named"
    css = [] if has_index else [begins_with]
    return frame.to_string(**form), Html(frame.to_html(**form, border=0, classes=css))
