"""The least that a call could take, beside what it takes; and how time and memory grow."""
