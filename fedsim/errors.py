"""What a user did wrong, said in one sentence.

Every message names the field or the file and line, what was found, what was expected and what to
do about it. The command line prints it and exits with code 2; a script sees a `ValueError`.
"""

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """An option, a file or a combination of them that cannot be run."""


def require(condition: bool, message: str) -> None:
    """Raise `ConfigError(message)` unless the condition holds.

    Example:
      >>> require(3 > 2, "never seen")
      >>> require(2 > 3, "rounds is 0; choose 1 or more")
      Traceback (most recent call last):
      fedsim.errors.ConfigError: rounds is 0; choose 1 or more
    """
    if not condition:
        raise ConfigError(message)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A phrase that suggests the known word nearest to a wrong one; empty where none is near.

    Example:
      >>> did_you_mean("masive", ["home", "massive"])
      " (did you mean 'massive'?)"
    """
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
