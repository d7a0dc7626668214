"""Running what is measured: worker processes, the interleaved session over them, and the history of Runs."""
