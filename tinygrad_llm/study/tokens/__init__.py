"""How a text becomes tokens: its words, their merges one by one, in a terminal and as a page; bytes per token."""
