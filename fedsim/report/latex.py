"""How text of ours reads in LaTeX: special characters escaped, signs in math mode."""

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "–": "--",
    "\n": " ",
}


def escaped(text: str) -> str:
    r"""Text as LaTeX prints it, signed numbers with a true minus.

    Example:
      >>> escaped("5 % of A_b")
      '5 \\% of A\\_b'
      >>> escaped("-5.2 ± 0.3")
      '$-$5.2 $\\pm$ 0.3'
    """
    characters = []
    for position, character in enumerate(text):
        before, after = text[position - 1 : position], text[position + 1 : position + 2]
        if character == "-" and after.isdigit() and not before.isalnum():
            character = "$-$"
        characters.append(_SPECIAL.get(character, character))
    return "".join(characters)
