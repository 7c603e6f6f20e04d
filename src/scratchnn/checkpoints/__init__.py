"""`Checkpoint`: a fit writes its state to a file, from which the same fit continues after a crash."""

from .archive import Archive, Contents
from .checkpoint import Checkpoint, find_checkpoint
from .fingerprint import describe_fit, describe_table, describe_value
from .session import Session, open_session
