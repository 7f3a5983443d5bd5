"""Small drawings made on the server as inline SVG; colours come from the style sheet by class."""
