"""Names and sentences as text in LaTeX and Markdown, whatever they hold: no command, no markup, no link."""

from __future__ import annotations

import re
import unicodedata

LATEX_SIGNS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "]": "{]}", "*": "{*}",
    '"': "''", "`": r"\textasciigrave{}", "±": r"$\pm$",
}  # fmt: skip
LAST_LATEX_LETTER = "\u017f"  # beyond Latin Extended-A pdflatex has no letter


def latex_text(text: str) -> str:
    """A text as LaTeX prints it, whatever its signs; letters that pdflatex has not become question marks.

    Args:
        text: any text.

    Example:
        >>> print(latex_text("50_% & more"))
        50\\_\\% \\& more
    """
    spelled = "".join(LATEX_SIGNS.get(sign, sign if is_latex_letter(sign) else "?") for sign in one_line(text))
    return re.sub("-(?=-)", "-{}", spelled)  # two would be a dash


def is_latex_letter(sign: str) -> bool:
    """Whether pdflatex prints a sign as it is: ASCII, and Latin letters with accents."""
    return " " <= sign <= "~" or ("\u00c0" <= sign <= LAST_LATEX_LETTER and sign.isalpha())


def markdown_text(text: str) -> str:
    """A text as Markdown shows it, whatever its signs, also in a cell of a table.

    Args:
        text: any text.

    Example:
        >>> print(markdown_text("a|b *c*"))
        a\\|b \\*c\\*
    """
    escaped = re.sub(r"([\\`*_{}\[\]|~#!$@])", r"\\\1", one_line(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def one_line(text: str) -> str:
    """A text in one line, without signs that are not printed, and with accents on their letters."""
    spaced = " ".join(unicodedata.normalize("NFC", text).split())
    return "".join(sign for sign in spaced if not unicodedata.category(sign).startswith("C"))
