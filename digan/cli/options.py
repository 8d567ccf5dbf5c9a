"""The option parser of every command: flags with dashes or underscores, and `--config FILE.yaml`."""

from __future__ import annotations

import argparse
import datetime
import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from digan.config import Range, TrainConfig, field_type
from digan.errors import ConfigError
from digan.run_results import WHICH

Number = TypeVar("Number", int, float)


_NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")


class OptionParser(argparse.ArgumentParser):
    """A parser that also reads `--config FILE.yaml`, and reports errors as `ConfigError`.

    Flags may be spelled with dashes or underscores. A YAML file holds `name: value` lines, a list for an option that
    takes several values. The command line takes precedence over the file. Every number must be finite and within the
    `Range` of its option: `type=number(int, Range(...))`, or `type=int` for the widest one.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})
        self._negative_number_matcher = _NEGATIVE  # argparse's own takes -1e-5 for an option
        for kind in (int, float):
            self.register("type", kind, number(kind))
        self.add_argument("--config", metavar="FILE", help="YAML file of options; the command line takes precedence")

    def error(self, message: str) -> NoReturn:
        """Raise the message as a `ConfigError` instead of printing the usage and exiting."""
        message = re.sub(r"^argument ([^:]+): (?=\S* must be )", r"\1 ", message)  # of `number`: --fps 0 must be ...
        raise ConfigError(message + ".")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse a command line and the YAML file that it names.

        Raises:
            ConfigError: an option is unknown, for which the nearest known one is suggested, or a value is invalid.
        """
        argv = [_with_dashes(word) for word in argv]
        file = self._config_file(argv)
        if file is not None:
            self.set_defaults(**self._read_yaml(file))
        return self._parse_strictly(argv)

    def _config_file(self, argv: Sequence[str]) -> str | None:
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        finder.add_argument("--config", nargs="?")
        return finder.parse_known_args(argv)[0].config

    def _read_yaml(self, path: str) -> dict[str, Any]:
        """Return the options of a YAML file, keyed by destination; required options among them become optional."""
        actions = {name: action for action in self._actions for name in action.option_strings}
        for flag in ("--help", "--config"):
            del actions[flag]  # options of the command line alone
        argv = []
        try:
            for name, value in _load_yaml(path).items():
                flag = _with_dashes(f"--{name}")
                if flag not in actions:
                    self._refuse_unknown(flag)
                argv += _as_words(flag, value, actions[flag])
            values = vars(_only_given(self, argv))
        except ConfigError as error:
            raise ConfigError(f"--config {path}: {error}") from None
        for action in self._actions:
            action.required = action.required and action.dest not in values
        return values

    def _parse_strictly(self, argv: Sequence[str]) -> argparse.Namespace:
        values, unknown = self.parse_known_args(argv)
        if unknown:
            self._refuse_unknown(unknown[0])
        return values

    def _refuse_unknown(self, word: str) -> NoReturn:
        flags = [name for action in self._actions for name in action.option_strings]
        near = difflib.get_close_matches(word.partition("=")[0], flags, n=1)
        hint = f"; did you mean {near[0]}?" if near else "; --help lists the options."
        raise ConfigError(f"unknown option {word}{hint}")


def add_network(options: argparse._ActionsContainer, required: bool = True, text: str = "") -> None:
    """Add `--network`, and `--which` for the snapshot of a run; `find_network` takes both.

    Args:
        options: a parser, or a group of its options.
        required: whether the command needs a network.
        text: what `--network` takes; by default whatever `find_network` finds.
    """
    text = text or "network file, run folder, owner/name on the hub, or sky-64, which is bundled"
    options.add_argument("--network", required=required, help=text)
    options.add_argument(
        "--which",
        choices=WHICH,
        default=WHICH[0],
        help="snapshot of a run, the best by its metric [latest]",
    )


def add_latents(options: argparse._ActionsContainer) -> None:
    """Add `--latents`, a list of files of `digan invert`, to a parser or a group of its options."""
    options.add_argument(
        "--latents",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="latents files of digan invert; their clips replace the first samples",
    )


def parse_bool(text: str) -> bool:
    """Return the boolean that a word stands for."""
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise argparse.ArgumentTypeError(f"'{text}' is neither true nor false")


def number(kind: type[Number], range: Range | None = None) -> Callable[[str], Number]:
    """Return an argument type for numbers within a range.

    Args:
        kind: int or float.
        range: the values accepted; None for the widest range of the kind.
    """

    def parse(text: str) -> Number:
        value = kind(text)
        if problem := (range or Range()).problem(value):
            raise argparse.ArgumentTypeError(f"{text} {problem}")
        return value

    parse.__name__ = kind.__name__  # argparse shows it for a text that is not a number
    return parse


def training_number(name: str) -> Callable[[str], int | float]:
    """Return the argument type of the option of `digan train` with this name, for an option that means the same."""
    f = TrainConfig.__dataclass_fields__[name]
    return number(field_type(f), f.metadata["range"])


def _with_dashes(word: str) -> str:
    """Return a flag with dashes for underscores, and its value unchanged."""
    flag, equals, value = word.partition("=")
    return (flag.replace("_", "-") if flag.startswith("--") else flag) + equals + value


def _load_yaml(path: str) -> dict[str, Any]:
    import yaml  # only commands that read a file need it

    try:
        options = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigError(f"it cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigError("it is not UTF-8 text.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError comes from a number or a date
        raise ConfigError(f"it is not YAML: {str(error).splitlines()[0]}.") from None
    if not isinstance(options, dict):
        raise ConfigError("it must hold 'name: value' lines.")
    return options


def _as_words(flag: str, value: Any, action: argparse.Action) -> list[str]:
    """Return the command-line words equivalent to a value of a YAML file."""
    if value is None:
        return []
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ConfigError(f"{flag} takes true or false, not {value!r}.")
        return [flag] if value else []
    if not isinstance(value, list):
        return [f"{flag}={_as_word(flag, value, action)}"]
    words = [_as_word(flag, item, action) for item in value]
    return [f"{flag}={','.join(words)}"] if action.nargs in (None, "?") else [flag, *words]


def _as_word(flag: str, value: Any, action: argparse.Action) -> str:
    """Return the text that stands for a single value on the command line."""
    if value is False and "no" in (action.choices or ()):
        return "no"  # YAML reads an unquoted no as false
    if isinstance(value, bool) and action.type is not parse_bool:
        raise ConfigError(f"{flag} does not take {str(value).lower()}; put text that YAML reads as such in quotes.")
    if not isinstance(value, str | int | float | datetime.date):
        raise ConfigError(f"{flag} takes a value or a list of values, not a {type(value).__name__}.")
    if isinstance(value, int) and value.bit_length() > 64:
        raise ConfigError(f"{flag} does not take an integer of {value.bit_length()} bits.")
    if isinstance(value, str) and "\0" in value:
        raise ConfigError(f"{flag} does not take text with a null character.")
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise ConfigError(f"{flag} does not take half a surrogate pair, such as \\ud800, which is no character.")
    return str(value)


def _only_given(parser: OptionParser, argv: Iterable[str]) -> argparse.Namespace:
    """Parse words into a namespace that holds only what they set; nothing is required and no default applies."""
    before = [(action, action.default, action.required) for action in parser._actions]
    try:
        for action in parser._actions:
            action.default, action.required = argparse.SUPPRESS, False
        return parser._parse_strictly(list(argv))
    finally:
        for action, default, required in before:
            action.default, action.required = default, required
