"""Experiments behind docs/answers.md: one function per question, a table and a plot each."""
