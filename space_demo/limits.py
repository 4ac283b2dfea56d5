"""What the page takes and how much it does at once."""

MAX_MEGABYTES = 50
MAX_UPLOAD_BYTES = MAX_MEGABYTES * 1000 * 1000
MAX_MINUTES = 10
# Requests that may wait; further ones are told to come back.
MAX_WAITING = 40
# The model uses all processors for one recording, so recordings take turns.
MAX_AT_ONCE = 1
