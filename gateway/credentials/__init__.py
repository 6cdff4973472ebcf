"""Where a profile's password comes from: references, and secrets that cannot be shown."""
