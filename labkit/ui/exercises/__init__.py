"""Exercises, one module a lesson: a check takes the reader's answer and says whether it holds, or what is off."""
