"""Child processes and the pipes to them: JSON lines, no pickle, and no worker left behind."""
