"""In which order are classes numbered by their names, and which names could be one class?"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from ddkit.errors import DataError


def ordered_classes(names: Sequence[str], what: str = "class folders") -> tuple[str, ...]:
    """Return class names in label order: by number when they are 0 ... K-1, else alphabetically.

    Raises:
        DataError: two names that a reader cannot tell apart, or a name that is not text.
    """
    seen: dict[str, str] = {}
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(f"the name {name!r} among the {what} is not valid UTF-8: rename it") from None
        plain = " ".join(unicodedata.normalize("NFC", name).split())
        plain = str(int(plain)) if plain.isascii() and plain.isdigit() else plain
        # One letter may be a class of its own, as in sets of handwritten letters.
        twin = seen.setdefault(plain.casefold() if len(plain) > 1 else plain, name)
        if twin != name:
            raise DataError(
                f"{twin!r} and {name!r} among the {what} differ only in case, blanks, zeros or coding: "
                "rename one, or merge them"
            )
    if all(name.isascii() and name.isdigit() for name in names):
        by_number = sorted(names, key=int)
        if [int(name) for name in by_number] == list(range(len(names))):
            return tuple(by_number)
    return tuple(sorted(names))
