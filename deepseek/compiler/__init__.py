"""From recorded graphs to running programs: compiling, caching, tiers, and `@ds.jit`."""
