"""Interview practice: a bank of questions, numbers from the reader's own Run and Machine, grading."""
