"""Default durations, in seconds. Imports nothing, so that commands can name them without a cryptography library."""

MAX_LIFETIME_S = 300  # of a token
DEFAULT_LIFETIME_S = 120  # of issued tokens, because with the maximum, rounding would cause rejections
LEEWAY_S = 30
LEAD_S = 3600  # from publishing a key to its first signature
RETENTION_S = 400 * 86_400  # a public file after its key has ended
CRYPTOPERIOD_S = 90 * 86_400  # how long a key signs
