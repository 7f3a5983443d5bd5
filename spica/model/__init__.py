"""Floor 1: the nouns of the house, their states, rules, recipes and errors, in pure Python."""
