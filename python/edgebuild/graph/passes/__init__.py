"""The passes, one a file; each says what it takes, what it refuses, and what it does to the numbers."""
