"""What a judge is: its identity, its prompt, how its words are read, and how far it agrees with people."""

MOST_TOKENS = 1024
PATIENCE = 3
