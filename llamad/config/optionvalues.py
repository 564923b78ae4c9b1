"""From one value as typed to the words of a command line that say it, judged by the option it is for. Pure."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

from llamad.config.helptext import Option
from llamad.config.optionfiles import is_output, resolved, use_of
from llamad.config.values import ArgScalar, ArgValue

TRUE = ("on", "enabled", "true", "1")
FALSE = ("off", "disabled", "false", "0")
"""What llama.cpp takes for on and off (common/arg.cpp, is_truthy and is_falsey)."""
_ANYWHERE = Path("/")
"""Where relative paths start while it does not matter."""


def value_words(option: Option, value: ArgValue, folder: Path, *, loose: bool = False) -> list[str]:
    """The words of an option that takes a value; relative paths start at `folder`. With `loose` the help may not have
    told all (`OptionTable`). ValueError says what is wrong with the value.
    """
    if option.json and not isinstance(value, bool | int | float):
        return [option.name, _json(value)]
    values = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(one, bool | int | float | str) for one in values):
        what = f"a {'whole ' if option.whole else ''}number" if option.numeric else option.argument or "text"
        raise ValueError(f"takes {what}, not {shown(value)}")
    if option.arity == 2:
        return _pair(option, value, folder)
    if not values:
        raise ValueError("an empty list says nothing: leave the key out")
    words = [_word(option, one, folder) for one in values]
    if len(words) > 1 and option.separator is not None:
        words = [option.separator.join(words)]
    if len(words) > 1 and not option.repeats and not loose:
        raise ValueError("takes one value, not a list: llama-server would keep the last one only")
    return [word for one in words for word in (option.name, one)]


def value_fault(option: Option, text: str) -> str | None:
    """What is wrong with a value of an option that takes one, as text."""
    try:
        value_words(option, text, _ANYWHERE)
    except ValueError as error:
        return str(error)
    return None


def _json(value: ArgValue) -> str:
    """JSON text, checked; what was written as YAML becomes JSON."""
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    try:
        json.loads(value, parse_constant=_no_constant)
    except ValueError as error:
        raise ValueError(f"takes JSON, and this is none: {error}") from None
    except RecursionError:
        raise ValueError("takes JSON, and this is nested too deep") from None
    return value


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON")


def _pair(option: Option, value: ArgValue, folder: Path) -> list[str]:
    values = value if isinstance(value, tuple) else tuple(str(value).split())
    if len(values) != 2:
        raise ValueError(f"takes two values ({option.argument}), not {shown(value)}")
    first, second = values
    return [option.name, _word(option, first, folder), str(second)]


def _word(option: Option, value: ArgScalar, folder: Path) -> str:
    """One value of an option as the word that follows it."""
    text = _text(option, value)
    parts = text.split(option.separator) if option.separator else (text,)
    if option.choices is not None and not set(parts) <= set(option.choices):
        *others, last = option.choices
        raise ValueError(f"takes {', '.join(others)} or {last}, not {shown(value)}")
    if option.numeric and text not in option.words:
        return _number(option, value, text)
    use = use_of(option)
    if use is None:
        return text
    if not text:
        raise ValueError("is empty: write a path, or leave the key out")
    if is_output(use) and not text.startswith("/"):
        raise ValueError(f"must be an absolute path, not {shown(value)}: llama-server writes there")
    return resolved(option, text, folder)


def _text(option: Option, value: ArgScalar) -> str:
    if not isinstance(value, bool):
        text = str(value)
        on_off = option.choices is not None and {"on", "off"} <= set(option.choices)
        return ("on" if text in TRUE else "off" if text in FALSE else text) if on_off else text
    pairs = (("on", "off"), ("1", "0"), ("true", "false"))
    known = (option.choices or ()) + option.words
    for yes, no in pairs:
        if yes in known and no in known:
            return yes if value else no
    if option.choices or option.numeric:
        return shown(value)  # refused as what it is
    raise ValueError(
        f"takes a value ({option.argument}), not {shown(value)}: write it in quotes if it is meant as text"
    )


def _number(option: Option, value: ArgScalar, text: str) -> str:
    """A number in its one spelling: llama.cpp reads 1e3 as 1 where it wants a whole number."""
    try:
        number = float(text) if "_" not in text else math.nan
    except ValueError:
        number = math.nan
    whole = number.is_integer() and abs(number) < 1 << 31
    if not math.isfinite(number) or (option.whole and not whole):
        also = f" or one of {', '.join(option.words)}" if option.words else ""
        thousands = re.fullmatch(r"(\d{1,6})[kK]", text)
        hint = f": write {int(thousands[1]) * 1024}" if thousands else ""
        raise ValueError(f"takes a {'whole ' if option.whole else ''}number{also}, not {shown(value)}{hint}")
    return str(int(number)) if whole else text.strip()


def shown(value: ArgValue) -> str:
    """A value as a message shows it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "a list"
    return "a mapping" if isinstance(value, Mapping) else repr(value)
