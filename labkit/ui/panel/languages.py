"""The switch between languages, which every panel has."""

from collections.abc import Callable

import ipywidgets as widgets

from labkit.core.language import LANGUAGES, language, use


def switch(on_change: Callable[[], None]) -> widgets.ToggleButtons:
    """Buttons with each language's own name; `on_change` is called when things have to be told anew."""
    buttons = widgets.ToggleButtons(
        options=[(name, key) for key, name in LANGUAGES.items()],
        value=language(),
        description="language · 语言",
        tooltips=list(LANGUAGES.values()),
        style={"description_width": "initial", "button_width": "84px"},
    )

    def take(change: dict[str, str]) -> None:
        use(change["new"])
        on_change()

    buttons.observe(take, "value")
    return buttons
