"""What the project claims about its speed, as programs: `./dev bench all --json`, or one by its name."""
