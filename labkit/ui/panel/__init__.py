"""The panel: toggles, Run, and views of what was measured, as widgets in a notebook. Generated from the catalog."""
