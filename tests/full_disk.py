"""The fault of a disk without space, in place of any call that writes."""

import errno
import os
from typing import Any, NoReturn


def full_disk(*_given: Any, **_named: Any) -> NoReturn:
    """Raise what the system raises when there is no space left."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
