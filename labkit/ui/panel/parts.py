"""Small widgets that panels are put together from."""

from collections.abc import Callable

import ipywidgets as widgets

from labkit.ui.markup import Html, tag


def said(text: str, *, css: str) -> Html:
    """A line of text in the look of the views; nothing for an empty one."""
    words = tag("strong", text) if css == "invalid" else text
    return tag("div", tag("p", words, css=css), css="labkit") if text else Html("")


def button(name: str, help: str, on_click: Callable[[], object], style: str = "") -> widgets.Button:
    """A button as wide as its name."""
    made = widgets.Button(description=name, tooltip=help, button_style=style, layout=widgets.Layout(width="auto"))
    made.on_click(lambda _: on_click())
    return made


def titled(title: str, *parts: widgets.Widget) -> widgets.VBox:
    """Widgets under a title."""
    return widgets.VBox([widgets.HTML(tag("strong", title)), *parts], layout=widgets.Layout(margin="0 0 10px 0"))
