"""Limits of the page."""

MAX_MEGABYTES = 50
MAX_UPLOAD_BYTES = MAX_MEGABYTES * 1000 * 1000
MAX_MINUTES = 10
# All uploads together; a short one counts as LEAST_BYTES, which bounds their number.
MAX_KEPT_BYTES = 2 * 1000**3
LEAST_BYTES = 1000 * 1000
# Requests that may wait; others are refused.
MAX_WAITING = 40
# The model uses all processors for one recording, so recordings take turns.
MAX_AT_ONCE = 1
# The slowest answer, 10 minutes at the shortest hop, takes about a minute.
MAX_ANSWER_SECONDS = 90
