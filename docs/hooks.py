"""Hooks of the site's generator: the table of options, made from the code, and formulas as MathML."""

import html
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
_OPTIONS = "<!-- table of the options -->"


def on_page_markdown(markdown: str, **others: Any) -> str:
    """Replace the placeholder in options.md by one table for each group of options."""
    return markdown.replace(_OPTIONS, _options()) if _OPTIONS in markdown else markdown


def on_page_content(content: str, **others: Any) -> str:
    """Turn formulas into MathML, which browsers show without a script from another site."""
    from latex2mathml.converter import convert

    def mathml(match: re.Match[str]) -> str:
        return convert(html.unescape(match[2]), display="block" if match[1] == "div" else "inline")

    return _FORMULA.sub(mathml, content)


def _options() -> str:
    sys.path[:0] = [str(_ROOT), str(_ROOT / "kernels")]
    from digan.config import ALIASES, TrainConfig, flag

    aliases = {name: f"`--{alias}`" for alias, name in ALIASES.items()}
    lines: list[str] = []
    group = ""
    for field in fields(TrainConfig):
        if field.metadata["group"] != group:
            group = field.metadata["group"]
            lines += ["", f"## {group.capitalize()}", "", "| option | default | meaning |", "|---|---|---|"]
        default = "" if field.default in (None, "") else f"`{field.default}`"
        also = f" Also {aliases[field.name]}." if field.name in aliases else ""
        choices = field.metadata["choices"]
        one_of = f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""
        text = field.metadata["help"].replace("|", "\\|")
        lines.append(f"| `{flag(field.name)}` | {default} | {text[0].upper()}{text[1:]}.{one_of}{also} |")
    return "\n".join(lines)
