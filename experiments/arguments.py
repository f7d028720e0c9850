"""Is every word on the command line one that the command takes?

The parser would say so too, in a frame of many lines; this says it in one sentence, with the
nearest right word.
"""

from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from fedsim.errors import ConfigError, did_you_mean, require

_NUMBERS = {int: "a whole number", float: "a number"}


def check_arguments(command: type, arguments: Sequence[str]) -> None:
    """Refuse unknown options, missing values, and values that are no choice or no number.

    Args:
      command: a dataclass whose fields are the options; annotated ones are given without a name,
        a tuple of them once or more.
      arguments: the words after the command's name.

    Raises:
      ConfigError: the first word that is wrong.

    Example:
      >>> from experiments.options import RunOptions
      >>> check_arguments(RunOptions, ["--draw", "fixd"])
      Traceback (most recent call last):
      fedsim.errors.ConfigError: --draw is 'fixd' (did you mean 'fixed'?); choose one of ...
    """
    hints = get_type_hints(command)
    raw = get_type_hints(command, include_extras=True)
    places = [name for name in hints if get_origin(raw[name]) is Annotated]
    options = {f"--{n.replace('_', '-')}": hints[n] for n in hints if n not in places}
    words, given = list(arguments), set()
    while words:
        word = words.pop(0)
        if word in ("-h", "--help"):
            return
        if word.startswith("--"):
            name, value = _option(word, words, options)
            if value is not None:
                check_value(name, value, options[name])
        else:
            require(bool(places), f"{word!r} is no option; options look like --name value")
            name = places[0]
            given.add(name)
            if get_origin(hints[name]) is not tuple:
                check_value(name, word, hints[name])
                places.pop(0)
    for name in places:
        if name in given:
            continue
        known = get_args(hints[name]) if get_origin(hints[name]) is Literal else ()
        remedy = f"choose {_choices(hints[name])}" if known else "write it after the command"
        raise ConfigError(f"{name} is missing; {remedy}")


def check_value(name: str, value: str, hint: Any) -> None:
    """Refuse what is no value of a type: text, a path, a number or a choice, or None of them."""
    kinds = [hint] if get_origin(hint) is Literal else get_args(hint) or [hint]
    if NoneType in kinds and value == "None":
        return
    for kind in kinds:
        known = get_args(kind)
        if known and value not in known:
            hint = f"{did_you_mean(value, known)}; choose {_choices(kind)}"
            raise ConfigError(f"{name} is {value!r}{hint}")
        if kind in _NUMBERS:
            try:
                kind(value)
            except ValueError:
                raise ConfigError(f"{name} is {value!r}; expected {_NUMBERS[kind]}") from None


def option_value(name: str, value: Any, hint: Any) -> Any:
    """A value from a file, where numbers and truth values are no text, as an option's type.

    Args:
      name: of the option, for the message.
      value: text, a number or a truth value.
      hint: the option's type.

    Raises:
      ConfigError: it is no value of the type.

    Example:
      >>> option_value("cohort", 8, int), option_value("epsilon", 8, float | None)
      (8, 8.0)
      >>> option_value("epsilon", "None", float | None) is None
      True
    """
    wanted = "true or false" if hint is bool else "a value as `fedsim run` takes it, no truth value"
    require(isinstance(value, bool) == (hint is bool), f"{name} is {value!r}; expected {wanted}")
    check_value(name, str(value), hint)
    if value == "None" and NoneType in get_args(hint):
        return None
    number = next((kind for kind in _NUMBERS if kind in (hint, *get_args(hint))), None)
    if number is not None:
        return number(value)
    return value if isinstance(value, bool) else str(value)


def _option(word: str, words: list[str], options: Mapping[str, Any]) -> tuple[str, str | None]:
    """An option's name and value, which is the next word unless it came along; None of a switch."""
    name, equals, value = word.partition("=")
    name = name.replace("_", "-")
    switch = name.replace("--no-", "--", 1) if name not in options else name
    if name not in options and options.get(switch) is not bool:
        raise ConfigError(
            f"unknown option {name}{did_you_mean(name, options)}; see --help for those there are"
        )
    if options[switch] is bool:
        require(not equals, f"{name} is a switch and takes no value; leave out {equals + value!r}")
        return switch, None
    if not equals:
        require(
            bool(words) and not words[0].startswith("--"),
            f"{name} has no value; write one after it",
        )
        value = words.pop(0)
    return name, value


def _choices(kind: Any) -> str:
    *others, last = get_args(kind)
    return f"one of {', '.join([*others, last])}" if others else last
