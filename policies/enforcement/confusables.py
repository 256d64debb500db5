"""Letters and digits of other scripts that look like ASCII ones: a table of our own, by shape, and Unicode's own names.

The table says which capital or small letter a reader takes a character for; both count as the same small letter.
"""

from __future__ import annotations

import re
import unicodedata

_SHAPES = {
    # Cyrillic, with its extensions: capitals by their shape, small letters by theirs or by their capital's
    "\u0410\u0430\u04d8\u04d9": "a",
    "\u0412\u0432\u042c\u044c\u0431": "b",
    "\u0421\u0441": "c",
    "\u0500\u0501": "d",
    "\u0415\u0435\u0404\u0454": "e",
    "\u050c\u050d": "g",
    "\u041d\u043d\u04ba\u04bb\u04bc\u04bd\u0452\u045b": "h",
    "\u0406\u0456\u04c0\u04cf": "i",
    "\u0408\u0458": "j",
    "\u041a\u043a\u049a\u049b\u04c3\u04c4": "k",
    "\u041c\u043c\u04cd\u04ce": "m",
    "\u043f\u0438\u0418": "n",
    "\u041e\u043e\u04e8\u04e9": "o",
    "\u0420\u0440": "p",
    "\u051a\u051b": "q",
    "\u0433\u0413": "r",
    "\u0405\u0455": "s",
    "\u0422\u0442": "t",
    "\u0474\u0475": "v",
    "\u0428\u0448\u0429\u0449\u051c\u051d\u0461\u0460": "w",
    "\u0425\u0445\u0416\u0436": "x",
    "\u0423\u0443\u04ae\u04af": "y",
    "\u0417\u0437": "3",
    "\u04e0\u04e1": "3",
    "\u0427\u0447": "4",
    # Greek: capitals by their shape, small letters by theirs
    "\u0391\u03b1": "a",
    "\u0392\u03b2\u03d0": "b",
    "\u03f2\u03f9\u03c2": "c",
    "\u0395\u03b5\u03f5": "e",
    "\u0397": "h",
    "\u0399\u03b9": "i",
    "\u03f3\u037f": "j",
    "\u039a\u03ba\u03f0": "k",
    "\u039c": "m",
    "\u039d\u03b7": "n",
    "\u039f\u03bf\u03c3": "o",
    "\u03a1\u03c1\u03f1": "p",
    "\u03a4\u03c4": "t",
    "\u03bc\u03c5": "u",
    "\u03bd": "v",
    "\u03c9": "w",
    "\u03a7\u03c7": "x",
    "\u03a5\u03b3": "y",
    "\u0396\u03b6": "z",
    # Armenian
    "\u0561": "w",
    "\u0563\u0584\u0566": "q",
    "\u0570\u0540": "h",
    "\u0575": "j",
    "\u0578\u0548\u0572": "n",
    "\u0585\u0555": "o",
    "\u057d\u054d\u057a": "u",
    "\u0581": "g",
    "\u053c\u056c": "l",
    "\u0582": "i",
    "\u054f": "s",
    # Cherokee, whose letters have the shapes of Latin capitals
    "\u13aa": "a",
    "\u13f4\u13cf": "b",
    "\u13df": "c",
    "\u13a0": "d",
    "\u13ac": "e",
    "\u13c0": "g",
    "\u13bb": "h",
    "\u13ae": "i",
    "\u13ab": "j",
    "\u13e6": "k",
    "\u13de": "l",
    "\u13b7": "m",
    "\u13e2": "p",
    "\u13a1": "r",
    "\u13da": "s",
    "\u13a2": "t",
    "\u13d9": "v",
    "\u13b3\u13d4": "w",
    "\u13e9": "y",
    "\u13c3": "z",
    # Lisu, made of Latin capitals
    "\ua4ee": "a",
    "\ua4d0": "b",
    "\ua4da": "c",
    "\ua4d3": "d",
    "\ua4f0": "e",
    "\ua4dd": "f",
    "\ua4d6": "g",
    "\ua4e7": "h",
    "\ua4f2": "i",
    "\ua4d9": "j",
    "\ua4d7": "k",
    "\ua4e1": "l",
    "\ua4df": "m",
    "\ua4e0": "n",
    "\ua4f3": "o",
    "\ua4d1": "p",
    "\ua4e3": "r",
    "\ua4e2": "s",
    "\ua4d4": "t",
    "\ua4f4": "u",
    "\ua4e6": "v",
    "\ua4ea": "w",
    "\ua4eb": "x",
    "\ua4ec": "y",
    "\ua4dc": "z",
    # Latin letters whose names do not say which letter they look like, and signs that stand in for one
    "\u0131\u0269\u026a\u2373": "i",
    "\u0251": "a",
    "\u0261\u0262": "g",
    "\u0280": "r",
    "\u028f": "y",
    "\u0274": "n",
    "\u029f": "l",
    "\u1d0f": "o",
    "\u1d1c": "u",
    "\u1d20": "v",
    "\u1d21": "w",
    "\u1d22": "z",
    "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u2043\ufe58": "-",
}
_TABLE = {char: letter for chars, letter in _SHAPES.items() for char in chars}
_LATIN = re.compile(
    r"(?:MATHEMATICAL [A-Z -]+ |(?:NEGATIVE )?(?:CIRCLED |SQUARED )|REGIONAL INDICATOR SYMBOL |PARENTHESIZED )?"
    r"(?:LATIN )?(?:CAPITAL |SMALL )?LETTER (?:SMALL CAPITAL |SCRIPT )?([A-Z])(?: WITH [A-Z ]+)?"
)
"""Names of characters that are an ASCII letter in another shape."""


def look(char: str) -> str | None:
    """Return the ASCII character that one other character looks like, in lower case; None where there is none."""
    known = _TABLE.get(char)
    if known is not None:
        return known
    digit = unicodedata.decimal(char, None)
    if digit is not None:
        return str(digit)
    named = _LATIN.fullmatch(unicodedata.name(char, ""))
    return named[1].lower() if named else None
