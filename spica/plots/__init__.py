"""Floor 2b: pictures for people, drawn by Matplotlib."""
