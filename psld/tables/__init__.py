"""Tables of a grid: what they say, and the formats in which they say it."""
