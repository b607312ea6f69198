"""The operator's side: the command line and the health server. Nothing outside the composition root imports it."""
